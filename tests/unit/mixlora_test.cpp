// SPDX-License-Identifier: Apache-2.0
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "backbone/spread.h"
#include "routing_fixture.h"
#include "serving/generate.h"
#include "tiny_skillsets.h"
#include "training/trainer.h"

namespace polyad {
namespace {

/// A feed-forward of width 3 whose input is handed to the adaptation as it is.
class FeedForward {
  public:
    explicit FeedForward(const Json& config) {
        for (int i = 0; i < 2; ++i) {
            Site site;
            site.index = i;
            site.path = i ? "model.layers.0.mlp.down_proj" : "model.layers.0.mlp.up_proj";
            site.d_in = i ? 5 : 3;
            site.d_out = i ? 3 : 5;
            site.role = i ? Role::feed_forward_out : Role::feed_forward_in;
            context.sites.push_back(site);
        }
        context.tasks = 1;
        method = make_method(config, context);
        for (Parameter& p : method->parameters())
            if (p.group == ParameterGroup::router) router = p.value;
    }
    /// Weights of one row's tokens with the given probabilities.
    at::Tensor weights(const at::Tensor& p) {
        {
            const at::NoGradGuard no_grad;
            router.copy_(matrix({1, 0, 0, 0, 1, 0, 0, 0, 1}, {3, 3}));
        }
        RouteInput in;
        in.row_begin = {0, static_cast<int32_t>(p.size(0))};
        in.trace = &trace;
        adaptation = method->adapt(in);
        spread = *adaptation->spread(0, p.log());
        EXPECT_EQ(spread.rows.size(), 4u);
        return trace.at(context.sites[0].path).at("weights");
    }

    MethodContext context;
    std::unique_ptr<Method> method;
    std::unique_ptr<Adaptation> adaptation;
    at::Tensor router;
    Spread spread;
    std::map<std::string, std::map<std::string, at::Tensor>> trace;
};

TEST(MixLora, TopKIsRenormalisedAndTopPIsNot) {
    const Json base = {{"method", "mixlora"}, {"rank", 2}, {"n_experts", 3}};
    const at::Tensor p = matrix({0.5f, 0.3f, 0.2f}, {1, 3});
    FeedForward top(base);
    EXPECT_LT(largest_difference(top.weights(p), matrix({0.625f, 0.375f, 0}, {1, 3})), 1e-6);
    Json dynamic = base;
    dynamic["top_p"] = 0.6;
    FeedForward mass(dynamic);
    EXPECT_LT(largest_difference(mass.weights(p), matrix({0.5f, 0.3f, 0}, {1, 3})), 1e-6);
    dynamic["top_p"] = 0.4;
    FeedForward one(dynamic);
    EXPECT_LT(largest_difference(one.weights(p), matrix({0.5f, 0, 0}, {1, 3})), 1e-6);
    // Only tokens that chose an expert are asked for.
    EXPECT_EQ(top.spread.token, (std::vector<int32_t>{0, 0}));
    EXPECT_EQ(top.spread.rows, (RowBegin{0, 1, 2, 2}));
    EXPECT_LT(largest_difference(top.spread.weight, matrix({0.625f, 0.375f}, {2})), 1e-6);
    dynamic["top_k"] = 2;
    EXPECT_REFUSED(FeedForward{dynamic}, Code::invalid_config, "top_k");
}

TEST(MixLora, BalanceIsTheNumberOfSlotsWhenEven) {
    FeedForward ffn({{"method", "mixlora"}, {"rank", 2}, {"n_experts", 3}, {"balance_weight", 0.5}});
    // Each expert is first once and second once; P is 1/3 each.
    ffn.weights(matrix({0.5f, 0.3f, 0.2f, 0.2f, 0.5f, 0.3f, 0.3f, 0.2f, 0.5f}, {3, 3}));
    EXPECT_NEAR(ffn.method->auxiliary_loss(*ffn.adaptation).item<double>(), 0.5 * 2.0, 1e-5);
    // All on one: first slot always expert 0, second always expert 1.
    ffn.weights(matrix({0.8f, 0.15f, 0.05f}, {1, 3}).expand({4, 3}).contiguous());
    const at::Tensor loss = ffn.method->auxiliary_loss(*ffn.adaptation);
    EXPECT_NEAR(loss.item<double>(), 0.5 * 3 * (0.8 + 0.15), 1e-5);
    loss.backward();
    EXPECT_GT(ffn.router.grad().abs().max().item<float>(), 0.0f);
}

Json mixlora(const Json& more = Json::object()) {
    Json config = tiny::method("mixlora");
    config["n_experts"] = 4;
    config.update(more);
    return config;
}

GenerationInput input(const std::shared_ptr<const Skillset>& skills, std::vector<int32_t> prompt) {
    GenerationInput out;
    out.skillset = skills;
    out.prompt = std::move(prompt);
    out.sampling.max_tokens = 8;
    out.sampling.ignore_eos = true;
    return out;
}

at::Tensor last_logits(const Skillset& skills, const std::vector<std::vector<int32_t>>& rows) {
    const at::NoGradGuard no_grad;
    Batch batch;
    batch.row_begin = {0};
    std::vector<int64_t> last;
    for (const auto& row : rows) {
        batch.tokens.insert(batch.tokens.end(), row.begin(), row.end());
        batch.row_begin.push_back(batch.size());
        batch.prompt_length.push_back(static_cast<int32_t>(row.size()));
        last.push_back(batch.size() - 1);
    }
    RouteInput route;
    route.row_begin = batch.row_begin;
    route.prompt_length = batch.prompt_length;
    const auto adaptation = skills.method().adapt(route);
    ForwardOptions options;
    options.adaptation = adaptation.get();
    return tiny::backbone()->logits(
        tiny::backbone()->hidden(batch, options).index_select(0, at::tensor(last, at::kLong)));
}

TEST(MixLora, CachedGenerationAndMixedBatchesEqualRowsAlone) {
    SKIP_WITHOUT_TINY_MODEL();
    const auto data = tiny::dataset();
    const auto skills = tiny::skillset(mixlora(), *data);
    tiny::shake(*skills, 1, 0.3);
    const std::vector<std::vector<int32_t>> prompts = {{3, 4, 5, 6}, {7, 8}, {9, 3, 5}};
    const at::Tensor together = last_logits(*skills, prompts);
    std::vector<GenerationInput> inputs;
    for (const auto& prompt : prompts) inputs.push_back(input(skills, prompt));
    const std::vector<Generated> answers = generate(tiny::backbone(), inputs);
    for (size_t b = 0; b < prompts.size(); ++b) {
        EXPECT_LT(
            largest_difference(together[static_cast<int64_t>(b)], last_logits(*skills, {prompts[b]})[0]),
            1e-4);
        std::vector<int32_t> read = prompts[b];
        for (const int32_t token : answers[b].tokens) {
            EXPECT_EQ(at::argmax(last_logits(*skills, {read}), 1).item<int64_t>(), token);
            read.push_back(token);
        }
    }
}

TEST(MixLora, OneExpertIsPlainLora) {
    SKIP_WITHOUT_TINY_MODEL();
    const auto data = tiny::dataset();
    const auto mix = tiny::skillset(mixlora({{"n_experts", 1}, {"alpha", 8.0}}), *data);
    tiny::shake(*mix, 5, 0.3);
    const auto lora = tiny::skillset(tiny::method("lora"), *data);
    const at::NoGradGuard no_grad;
    for (Parameter& to : lora->method().parameters())
        for (const Parameter& from : mix->method().parameters())
            if (from.name == to.name) to.value.copy_(from.value.reshape(to.value.sizes()));
    lora->method().parameters_changed();
    const std::vector<std::vector<int32_t>> rows = {{3, 4, 5, 6}, {7, 8}};
    EXPECT_LT(largest_difference(last_logits(*mix, rows), last_logits(*lora, rows)), 1e-4);
    const at::AutoGradMode gradients(true);
    for (const auto& skills : {mix, lora}) {
        Batch batch{{3, 4, 5, 6, 7, 8}, {0, 4, 6}, {4, 2}, {}, {}, {}, {}};
        RouteInput route;
        route.row_begin = batch.row_begin;
        route.prompt_length = batch.prompt_length;
        route.task_ids = {0, 0};
        const auto adaptation = skills->method().adapt(route);
        ForwardOptions options;
        options.adaptation = adaptation.get();
        tiny::backbone()->hidden(batch, options).square().sum().backward();
    }
    size_t compared = 0;
    for (Parameter& got : mix->method().parameters())
        for (Parameter& want : lora->method().parameters()) {
            if (want.name != got.name) continue;
            const at::Tensor gradient = want.value.grad().reshape(got.value.sizes());
            const double top = gradient.abs().max().item<double>();
            EXPECT_GT(top, 0.0) << got.name;
            EXPECT_LT(largest_difference(got.value.grad(), gradient), 1e-4 * top) << got.name;
            ++compared;
        }
    EXPECT_EQ(compared, lora->method().parameters().size());
}

/// Against gathering and adding by autograd's own operators: a token that goes nowhere, a copy without
/// tokens.
TEST(Spread, FollowsItsFormula) {
    Generator random(3);
    const auto drawn = [&](std::vector<int64_t> sizes) {
        at::Tensor t = at::empty(sizes, at::TensorOptions().dtype(at::kFloat));
        random.fill_normal(t.mutable_data_ptr<float>(), static_cast<size_t>(t.numel()), 0.0, 1.0);
        return t;
    };
    const std::vector<int32_t> token = {0, 2, 3, 1, 2, 3, 3};  // of 5
    const at::Tensor index = at::tensor(token, at::kInt);
    const at::Tensor values[4] = {drawn({5, 19}), drawn({7, 19}), drawn({7}), drawn({5, 19})};
    const at::Tensor weight_in = drawn({7, 19}), weight_out = drawn({5, 19});
    for (const bool again : {false, true}) {
        std::vector<at::Tensor> outputs[2], leaves[2];
        for (const int way : {0, 1}) {
            for (const at::Tensor& value : values) leaves[way].push_back(value.clone().requires_grad_(true));
            const std::vector<at::Tensor>& leaf = leaves[way];
            at::Tensor spread, joined, plain;
            if (way == 0) {
                const auto plan =
                    std::make_shared<const SpreadPlan>(Spread{token, {0, 3, 3, 7}, leaf[2]}, int64_t{5});
                spread = spread_tokens(leaf[0], plan);
                plain = joined_tokens(leaf[1], plan);
                joined =
                    joined_tokens(leaf[1], plan, leaf[3] * 1.0,
                                  again ? [&] { return leaf[1].detach(); } : std::function<at::Tensor()>());
            } else {
                spread = leaf[0].index_select(0, index);
                plain = at::zeros({5, 19}).index_add(0, index, leaf[1] * leaf[2].unsqueeze(1));
                joined = leaf[3] + plain;
            }
            outputs[way] = {spread, plain, joined};
            ((spread * weight_in).sum() + (plain * 0.5).sum() + (joined * weight_out).sum()).backward();
        }
        for (size_t i = 0; i < 3; ++i) EXPECT_LT(largest_difference(outputs[0][i], outputs[1][i]), 1e-5) << i;
        for (size_t i = 0; i < 4; ++i)
            EXPECT_LT(largest_difference(leaves[0][i].grad(), leaves[1][i].grad()), 1e-5) << i;
    }
}

TEST(MixLora, StartsAsTheBackboneAndLearns) {
    SKIP_WITHOUT_TINY_MODEL();
    const auto data = tiny::dataset();
    const auto skills = tiny::skillset(mixlora(), *data);
    Batch batch{{3, 4, 5, 6}, {0, 4}, {4}, {}, {}, {}, {}};
    {
        const at::NoGradGuard no_grad;
        const at::Tensor bare = tiny::backbone()->logits(tiny::backbone()->hidden(batch)).narrow(0, 3, 1);
        EXPECT_LT(largest_difference(last_logits(*skills, {{3, 4, 5, 6}}), bare), 1e-4);
    }
    Trainer trainer(
        skills, data,
        {{"max_steps", 30}, {"batch_size", 3}, {"learning_rate", 0.01}, {"validation_examples", 0}});
    const double first = trainer.step().loss;
    while (!trainer.progress().done) trainer.step();
    EXPECT_LT(trainer.progress().loss, 0.6 * first);
    const std::string bytes = skills->save_to_memory();
    const auto loaded = Skillset::load(tiny::backbone(), Bytes::copy_of(bytes, "bundle"));
    EXPECT_EQ(tiny::weights(*loaded), tiny::weights(*skills));
    EXPECT_EQ(generate(tiny::backbone(), {input(loaded, {3, 4})}).front().tokens,
              generate(tiny::backbone(), {input(skills, {3, 4})}).front().tokens);
    GenerationInput given = input(skills, {3, 4, 5});
    given.weights = {0.0f, 0.0f, 0.0f, 1.0f};
    EXPECT_EQ(generate(tiny::backbone(), {given}).front().tokens.size(), 8u);
    given.weights = {0.0f, 0.0f, 0.0f, 0.0f};
    EXPECT_REFUSED(generate(tiny::backbone(), {given}), Code::invalid_argument, "feed-forward");
}

}  // namespace
}  // namespace polyad
