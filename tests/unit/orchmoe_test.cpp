// SPDX-License-Identifier: Apache-2.0
// OrchMoE: values by hand, what its routes may depend on, and the same routes while generating.
#include "routing/orchmoe.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/softmax.h>
#include <gtest/gtest.h>

#include <cmath>

#include "routing/prompt_pool.h"
#include "routing_fixture.h"
#include "tiny_skillsets.h"

namespace polyad {
namespace {

const float ln3 = std::log(3.0f);

void expect_near(const at::Tensor& got, const std::vector<float>& want, double tolerance = 1e-5) {
    ASSERT_EQ(got.numel(), static_cast<int64_t>(want.size()));
    const at::Tensor flat = got.detach().reshape({-1}).contiguous();
    for (size_t i = 0; i < want.size(); ++i)
        EXPECT_NEAR(flat.const_data_ptr<float>()[i], want[i], tolerance * std::max(1.0f, std::abs(want[i])))
            << i;
}

Json orch(const Json& more = Json::object()) {
    Json config = {{"method", "orchmoe"}, {"rank", 2}, {"n_skills", 3}, {"n_latent_tasks", 4}};
    config.update(more);
    return config;
}

/// Rows of given lengths and prompts, laid end to end.
RouteInput rows(const std::vector<int32_t>& lengths, const std::vector<int32_t>& prompts) {
    RouteInput in;
    in.row_begin = {0};
    for (const int32_t length : lengths) in.row_begin.push_back(in.row_begin.back() + length);
    in.prompt_length = prompts;
    return in;
}

std::string reason(const std::function<void()>& call) {
    const Error e = tiny::error_of(call);
    return std::string(code_name(e.code())) + " " + e.what() + " " + e.detail();
}

// ---- values by hand (methods.md 16.1)

TEST(Orch, ByHand) {
    Layer layer({{"method", "orchmoe"}, {"rank", 1}, {"n_skills", 2}, {"n_latent_tasks", 2}}, 2, 2, 0);
    layer.set("lora_a", matrix({1, 0, 0, 1}, {2, 1, 2}));
    layer.set("lora_b", matrix({1, 0, 0, 1}, {2, 2, 1}));
    layer.set("skill_logits", matrix({0, ln3, ln3, -ln3}, {2, 2}));
    layer.set("task_router_weight", at::zeros({2, 2}));
    layer.set("task_router_bias", matrix({0, ln3}, {2}));
    std::map<std::string, std::map<std::string, at::Tensor>> trace;
    RouteInput in = layer.input({-1}, 1);
    in.trace = &trace;
    expect_near(layer.run(matrix({10, 20}, {1, 2}), in), {8.8609375f, 4.5140625f});
    expect_near(trace[layer.site().path]["task_probs"], {0.25f, 0.75f});
    expect_near(trace[layer.site().path]["weights"], {0.6625f, 0.3375f});
}

TEST(Orch, AttentionByHand) {
    const at::Tensor x = matrix({0, std::sqrt(ln3)}, {2, 1});
    expect_near(pool_spans(x, {{0, 2}}, true, Pool::mean), {1.179165f});
    expect_near(pool_spans(x, {{0, 2}}, true, Pool::first), {0.524074f});
    expect_near(pool_spans(x, {{0, 2}}, true, Pool::last), {1.834257f});
    expect_near(pool_spans(x, {{0, 2}}, false, Pool::mean), {std::sqrt(ln3) / 2});
}

/// Against the formula written out with autograd's own operators, values and gradients; enough spans for
/// threads to share them.
TEST(Orch, PoolingFollowsItsFormula) {
    const std::vector<TokenSpan> spans = {{0, 5}, {7, 1}, {8, 4}, {12, 3}, {15, 2}, {17, 6}};
    for (const bool attention : {true, false})
        for (const Pool pool : {Pool::mean, Pool::last, Pool::first}) {
            at::Tensor x = drawn({23, 6}, 3).requires_grad_(true),
                       plain = x.detach().clone().requires_grad_(true);
            const at::Tensor weight = drawn({6, 6}, 4);
            const at::Tensor g = pool_spans(x, spans, attention, pool);
            (g * weight).sum().backward();
            std::vector<at::Tensor> want;
            for (const TokenSpan& span : spans) {
                const at::Tensor own = plain.narrow(0, span.begin, span.count);
                at::Tensor y = own;
                if (attention) y = at::mm(at::softmax(at::mm(own, own.t()) / std::sqrt(6.0), -1), own) + own;
                want.push_back(pool == Pool::mean   ? y.mean(0, true)
                               : pool == Pool::last ? y.narrow(0, span.count - 1, 1)
                                                    : y.narrow(0, 0, 1));
            }
            const at::Tensor all = at::cat(want, 0);
            (all * weight).sum().backward();
            EXPECT_LT(largest_difference(g, all), 1e-5);
            EXPECT_LT(largest_difference(x.grad(), plain.grad()), 1e-5);
        }
}

TEST(Orch, ALongPromptIsReadInPieces) {
    const at::Tensor x = drawn({2500, 3}, 5).requires_grad_(true);  // more than one piece of attention
    const at::Tensor g = pool_spans(x, {{0, 2500}}, true, Pool::mean);
    g.sum().backward();
    at::Tensor plain = x.detach().clone().requires_grad_(true);
    const at::Tensor want =
        (at::mm(at::softmax(at::mm(plain, plain.t()) / std::sqrt(3.0), -1), plain) + plain).mean(0, true);
    want.sum().backward();
    EXPECT_LT(largest_difference(g, want), 1e-4);
    EXPECT_LT(largest_difference(x.grad(), plain.grad()), 1e-4);
}

// ---- what a route depends on

TEST(Orch, OneLatentTaskIsPolyWithOneTask) {
    for (const char* combine : {"factors", "products"}) {
        Layer one(orch({{"n_latent_tasks", 1}, {"combine", combine}}), 6, 5, 0);
        Layer poly({{"method", "poly"}, {"rank", 2}, {"n_skills", 3}, {"combine", combine}}, 6, 5, 1);
        one.randomise(5);
        for (const char* name : {"lora_a", "lora_b"}) poly.set(name, one.parameter(name).value);
        poly.set("logits", one.parameter("skill_logits").value);
        const at::Tensor x = drawn({4, 6}, 2);
        EXPECT_LT(largest_difference(one.traced(x, {-1, -1}), poly.traced(x, {0, 0})), 1e-5);
    }
}

TEST(Orch, ATaskOfItsOwnIsItsRowOfThePolyTable) {
    Layer layer(orch(), 6, 5, 0), poly({{"method", "poly"}, {"rank", 2}, {"n_skills", 3}}, 6, 5, 4);
    layer.randomise(6);
    layer.set("task_router_weight", at::zeros({4, 6}));
    layer.set("task_router_bias", matrix({0, 0, 200, 0}, {4}));  // p is one-hot
    for (const char* name : {"lora_a", "lora_b"}) poly.set(name, layer.parameter(name).value);
    poly.set("logits", layer.parameter("skill_logits").value);
    const at::Tensor x = drawn({4, 6}, 2);
    EXPECT_LT(largest_difference(layer.traced(x, {-1, -1}), poly.traced(x, {2, 2})), 1e-5);
}

/// Every option that changes what is read.
std::vector<Json> variants() {
    return {orch(),
            orch({{"task_attention", false}}),
            orch({{"task_pool", "last"}}),
            orch({{"task_pool", "first"}}),
            orch({{"task_pool", "none"}, {"combine", "products"}}),
            orch({{"route_span", "causal"}, {"combine", "products"}}),
            orch({{"route_span", "causal"}, {"combine", "products"}, {"task_attention", false}}),
            orch({{"route_span", "causal"}, {"task_pool", "last"}, {"combine", "products"}}),
            orch({{"task_activation", "sigmoid_norm"}}),
            orch({{"task_activation", "none"}}),
            orch({{"task_activation", "st_gumbel"}}),
            orch({{"skill_sampling", "softmax"}}),
            orch({{"combine", "products"}}),
            Json{{"method", "orchmoe"}, {"rank", 2}, {"n_skills", 3}, {"router", "softmax_gate"}}};
}

TEST(Orch, FutureTokensAndOtherRowsChangeNothing) {
    for (const Json& config : variants()) {
        SCOPED_TRACE(config.dump());
        Layer layer(config, 6, 5, 0);
        layer.randomise(7);
        const at::Tensor x = drawn({9, 6}, 2);
        const RouteInput both = rows({5, 4}, {3, 2});
        const at::Tensor y = layer.run(x, both);
        const double close = 1e-5 * std::max(1.0, y.detach().abs().max().item<double>());
        for (const auto& [first, count, prompt] : {std::tuple<int, int, int>{0, 5, 3}, {5, 4, 2}}) {
            const at::Tensor own = x.narrow(0, first, count);
            const at::Tensor alone = layer.run(own, rows({count}, {prompt}));
            EXPECT_LT(largest_difference(alone, y.narrow(0, first, count)), close);
            // Without the answer's last token; then with another one there.
            const at::Tensor shorter = layer.run(own.narrow(0, 0, count - 1), rows({count - 1}, {prompt}));
            EXPECT_LT(largest_difference(shorter, alone.narrow(0, 0, count - 1)), close);
            const at::Tensor other = at::cat({own.narrow(0, 0, count - 1), drawn({1, 6}, 99)}, 0);
            EXPECT_LT(largest_difference(layer.run(other, rows({count}, {prompt})).narrow(0, 0, count - 1),
                                         alone.narrow(0, 0, count - 1)),
                      close);
        }
        // The prompt itself matters.
        const at::Tensor changed = at::cat({drawn({1, 6}, 98) * 3.0, x.narrow(0, 1, 4)}, 0);
        EXPECT_GT(largest_difference(layer.run(changed, rows({5}, {3})).narrow(0, 3, 2), y.narrow(0, 3, 2)),
                  close);
    }
}

TEST(Orch, ARowGoesOnWithTheRouteOfItsPrompt) {
    Layer layer(orch(), 6, 5, 0, 2);
    layer.randomise(8);
    const at::Tensor x = drawn({5, 6}, 2);
    const at::Tensor whole = layer.run(x, rows({5}, {3}), 1);
    at::NoGradGuard no_grad;
    RouteMemory memory;
    RouteInput prompt = rows({3}, {3});
    prompt.memory = {&memory};
    const at::Tensor first = layer.run(x.narrow(0, 0, 3), prompt, 1);
    RouteInput step = rows({1}, {0});
    step.memory = {&memory};
    const at::Tensor fourth = layer.run(x.narrow(0, 3, 1), step, 1);
    EXPECT_LT(largest_difference(at::cat({first, fourth}, 0), whole.narrow(0, 0, 4)), 1e-5);
    // Beside a row that brings its prompt, and one with weights of its own.
    RouteInput mixed = rows({1, 3, 2}, {0, 3, 0});
    mixed.memory = {&memory, nullptr, nullptr};
    mixed.weights = {{}, {}, {0.2f, 0.3f, 0.5f}};
    const at::Tensor together = layer.run(at::cat({x.narrow(0, 4, 1), x}, 0), mixed, 1);
    EXPECT_LT(largest_difference(together.narrow(0, 0, 1), whole.narrow(0, 4, 1)), 1e-5);
    EXPECT_LT(largest_difference(together.narrow(0, 1, 3), whole.narrow(0, 0, 3)), 1e-5);
    RouteInput given = rows({2}, {0});
    given.weights = {{0.2f, 0.3f, 0.5f}};
    EXPECT_LT(largest_difference(together.narrow(0, 4, 2), layer.run(x.narrow(0, 3, 2), given, 1)), 1e-5);
}

TEST(Orch, RefusesRowsWithoutAPrompt) {
    Layer layer(orch(), 6, 5, 2);
    const auto refused = [&](RouteInput in) { return reason([&] { layer.method->adapt(in); }); };
    EXPECT_NE(refused(rows({3, 2}, {3, 0})).find("empty_prompt"), std::string::npos);
    RouteMemory nothing;
    RouteInput empty = rows({1}, {0});
    empty.memory = {&nothing};
    EXPECT_NE(refused(empty).find("empty_prompt"), std::string::npos);
    EXPECT_NE(refused(rows({3}, {4})).find("a prompt of 4 tokens"), std::string::npos);
    EXPECT_NE(refused(rows({3}, {})).find("prompt_length"), std::string::npos);
    RouteInput task = rows({3}, {3});
    task.task_ids = {2};
    EXPECT_NE(refused(task).find("unknown_task"), std::string::npos);
    task.task_ids = {1};  // known, and without effect
    EXPECT_NO_THROW(layer.method->adapt(task));
}

TEST(Orch, RefusesWhatCannotBe) {
    const auto refused = [](const Json& more) { return reason([&] { Layer(orch(more), 6, 4, 0); }); };
    EXPECT_NE(refused({{"n_splits", 4}}).find("indivisible_splits"), std::string::npos);
    EXPECT_NE(refused({{"n_splits", 2}, {"combine", "products"}}).find("products_need_one_split"),
              std::string::npos);
    EXPECT_NE(refused({{"route_span", "all"}}).find("the answer"), std::string::npos);
    EXPECT_NE(refused({{"route_span", "causal"}}).find("combine"), std::string::npos);
    EXPECT_NE(refused({{"task_pool", "none"}}).find("combine"), std::string::npos);
    EXPECT_NE(refused({{"router_scope", "model"}}).find("router_scope"), std::string::npos);
    EXPECT_NE(refused({{"router", "softmax_gate"}}).find("n_latent_tasks"), std::string::npos);
    EXPECT_NE(refused({{"n_latent_tasks", 0}}).find("n_latent_tasks"), std::string::npos);
    EXPECT_NE(refused({{"route_span", "causal"}, {"task_pool", "first"}, {"combine", "products"}})
                  .find("task_pool"),
              std::string::npos);
}

// ---- training

TEST(Orch, FreshSkillsLeaveTheBaseBitForBit) {
    const at::Tensor x = drawn({6, 8}, 3);
    for (Json config : variants()) {
        Layer layer(config, 8, 4, 0);
        layer.weight = drawn({4, 8}, 11);
        const at::Tensor base = adapted_linear(x, layer.weight, {}, {0, 3, 6}, {});
        EXPECT_TRUE(layer.run(x, rows({3, 3}, {2, 1})).equal(base)) << config.dump();
    }
}

TEST(Orch, NoiseIsDrawnPerExampleAndRowOfTheTable) {
    Layer layer(orch({{"task_activation", "none"}}), 6, 5, 0, 2);
    layer.randomise(9);
    layer.set("skill_logits", at::zeros({4, 3}), 0);
    layer.set("task_router_weight", at::zeros({4, 6}), 0);
    std::map<std::string, std::map<std::string, at::Tensor>> trace;
    const at::Tensor x = at::cat({drawn({2, 6}, 1), drawn({2, 6}, 1)}, 0);  // the same row twice
    const auto weights = [&](float first, float second, uint64_t seed) {
        layer.set("task_router_bias", matrix({first, second, 0, 0}, {4}),
                  0);  // which row of the table speaks
        Generator noise(seed);
        RouteInput in = rows({2, 2}, {2, 2});
        in.mode = Mode::train;
        in.noise = &noise;
        in.trace = &trace;
        layer.run(x, in);
        return trace[layer.site().path]["weights"].detach().clone();
    };
    const at::Tensor a = weights(1, 0, 3), b = weights(0, 1, 3), again = weights(1, 0, 3),
                     other = weights(1, 0, 4);
    EXPECT_TRUE(a.equal(again));
    EXPECT_FALSE(a.equal(other));
    EXPECT_FALSE(a.equal(b)) << "two rows of the table share a draw";
    EXPECT_FALSE(a.select(0, 0).equal(a.select(0, 1))) << "two examples share a draw";
    EXPECT_NEAR(a.sum(-1).min().item<double>(), 1.0, 1e-5);
}

/// dL/dx and dL/dparameter by central differences, with noise recorded so that it stands still.
TEST(Orch, GradientsAreThoseOfTheOutput) {
    for (const Json& more : {Json::object(), Json{{"task_pool", "none"}, {"combine", "products"}},
                             Json{{"route_span", "causal"}, {"combine", "products"}}}) {
        Layer layer(orch(more), 4, 3, 0);
        layer.randomise(10);
        std::map<std::string, std::map<std::string, at::Tensor>> recorded;
        recorded[layer.site().path]["u"] = drawn({2, 4, 1, 3}, 12).sigmoid();
        RouteInput in = rows({3, 2}, {2, 1});
        in.mode = Mode::train;
        in.recorded = &recorded;
        const at::Tensor weight = drawn({5, 3}, 13);
        at::Tensor x = drawn({5, 4}, 11).requires_grad_(true);
        (layer.run(x, in) * weight).sum().backward();
        const auto value = [&](const at::Tensor& input) {
            at::NoGradGuard no_grad;
            return (layer.run(input, in) * weight).to(at::kDouble).sum().item<double>();
        };
        const double step = 1e-2;
        for (int64_t i = 0; i < x.numel(); ++i) {
            at::Tensor up = x.detach().clone(), down = up.clone();
            up.view(-1)[i] += step;
            down.view(-1)[i] -= step;
            const double want = (value(up) - value(down)) / (2 * step);
            EXPECT_NEAR(x.grad().view(-1)[i].item<double>(), want, 2e-2 * std::max(1.0, std::abs(want))) << i;
        }
        for (const char* name : {"task_router_weight", "task_router_bias", "skill_logits"}) {
            Parameter& p = layer.parameter(name);
            for (int64_t i = 0; i < p.value.numel(); ++i) {
                float* entry = p.value.data_ptr<float>() + i;
                const float before = *entry;
                *entry = before + static_cast<float>(step);
                const double up = value(x.detach());
                *entry = before - static_cast<float>(step);
                const double want = (up - value(x.detach())) / (2 * step);
                *entry = before;
                EXPECT_NEAR(p.value.grad().view(-1)[i].item<double>(), want,
                            2e-2 * std::max(1.0, std::abs(want)))
                    << name << i;
            }
        }
    }
}

TEST(Orch, TheLargestTaskAloneSpeaksWithStGumbel) {
    Layer layer(orch({{"task_activation", "st_gumbel"}}), 6, 5, 0);
    layer.randomise(14);
    std::map<std::string, std::map<std::string, at::Tensor>> trace;
    RouteInput in = rows({2, 2}, {2, 2});
    in.trace = &trace;
    layer.run(drawn({4, 6}, 2), in);
    const at::Tensor p = trace[layer.site().path]["task_probs"];
    EXPECT_LT(largest_difference(p.sum(-1), at::ones({2, 1})), 1e-6);
    EXPECT_LT(largest_difference(p.amax(-1), at::ones({2, 1})), 1e-6);
    Generator noise(5);
    in.mode = Mode::train;
    in.noise = &noise;
    (layer.run(drawn({4, 6}, 2), in) * drawn({4, 5}, 3)).sum().backward();
    const at::Tensor gradient = layer.parameter("task_router_bias").value.grad();
    EXPECT_GT(gradient.abs().max().item<double>(), 0.0);
    EXPECT_NEAR(gradient.sum().item<double>(), 0.0, 1e-4);  // a softmax does not see a common shift
}

TEST(Orch, FewShotTrainsWhatItSays) {
    Layer layer(orch(), 6, 5, 2);
    const auto moving = [&] {
        std::string out;
        for (const Parameter& p : layer.method->parameters())
            if (p.trainable && p.value.requires_grad()) out += p.name.substr(p.name.rfind('.') + 1) + " ";
        return out;
    };
    EXPECT_EQ(moving(), "lora_a lora_b task_router_weight task_router_bias skill_logits ");
    layer.method->set_training("router");
    EXPECT_EQ(moving(), "task_router_weight task_router_bias ");
    layer.method->set_training("table");
    EXPECT_EQ(moving(), "skill_logits ");
    EXPECT_EQ(layer.method->config().at("train"), "table");
    EXPECT_THROW(layer.method->set_training("uniform"), Error);
    Generator noise(1);
    layer.method->add_task("fresh", noise);  // no table to grow
    RouteInput in = rows({2}, {2});
    in.task_ids = {2};
    EXPECT_NO_THROW(layer.method->adapt(in));
    EXPECT_THROW(layer.method->add_task("warm", noise), Error);
    double sum = 0.0;
    for (const float weight : layer.method->task_weights(0)) sum += weight;
    EXPECT_NEAR(sum, 1.0, 1e-5);
    EXPECT_FALSE(layer.method->collapse(layer.site(), 0).has_value());
}

// ---- in a model

class OrchModel : public testing::Test {
  protected:
    void SetUp() override { SKIP_WITHOUT_TINY_MODEL(); }

    std::shared_ptr<Skillset> make(const Json& more) const {
        Json config = tiny::method("orchmoe");
        config.update(more);
        auto skillset = tiny::skillset(config, *tiny::dataset());
        tiny::shake(*skillset, 3, 0.3);
        return skillset;
    }
};

/// One forward over prompt and answer, and prompt then token by token over a cache, give the same states.
TEST_F(OrchModel, CachedStepsEqualTheWholeForward) {
    const std::vector<int32_t> a = {20, 21, 22, 23, 40, 41, 42}, b = {100, 101, 7, 8, 9};
    for (const Json& more :
         {Json::object(), Json{{"router_scope", "model"}}, Json{{"router", "softmax_gate"}},
          Json{{"task_pool", "none"}, {"combine", "products"}},
          Json{{"route_span", "causal"}, {"combine", "products"}},
          Json{{"route_span", "causal"}, {"combine", "products"}, {"task_attention", false}}}) {
        SCOPED_TRACE(more.dump());
        at::NoGradGuard no_grad;
        const auto skillset = make(more);
        const Backbone& model = *tiny::backbone();
        const auto forward = [&](const Batch& batch, KvCache* cache,
                                 const std::vector<RouteMemory*>& memory) {
            RouteInput route;
            route.row_begin = batch.row_begin;
            route.prompt_length = batch.prompt_length;
            route.memory = memory;
            const auto adaptation = skillset->method().adapt(route);
            ForwardOptions options;
            options.adaptation = adaptation.get();
            options.cache = cache;
            if (cache) options.slots = {0, 1};
            return model.hidden(batch, options);
        };
        Batch whole;
        whole.tokens = a;
        whole.tokens.insert(whole.tokens.end(), b.begin(), b.end());
        whole.row_begin = {0, 7, 12};
        whole.prompt_length = {4, 2};
        const at::Tensor want = forward(whole, nullptr, {});
        Batch alone;
        alone.tokens = b;
        alone.row_begin = {0, 5};
        alone.prompt_length = {2};
        EXPECT_LT(largest_difference(forward(alone, nullptr, {}), want.narrow(0, 7, 5)), 1e-4);

        const auto cache = model.make_cache(2, 16);
        RouteMemory first, second;
        Batch prompts;
        prompts.tokens = {20, 21, 22, 23, 100, 101};
        prompts.row_begin = {0, 4, 6};
        prompts.prompt_length = {4, 2};
        const at::Tensor start = forward(prompts, cache.get(), {&first, &second});
        EXPECT_LT(largest_difference(start, at::cat({want.narrow(0, 0, 4), want.narrow(0, 7, 2)}, 0)), 1e-4);
        for (int step = 0; step < 3; ++step) {
            Batch next;
            next.tokens = {a[static_cast<size_t>(4 + step)], b[static_cast<size_t>(2 + step)]};
            next.row_begin = {0, 1, 2};
            next.prompt_length = {0, 0};
            const at::Tensor got = forward(next, cache.get(), {&first, &second});
            EXPECT_LT(largest_difference(
                          got, at::cat({want.narrow(0, 4 + step, 1), want.narrow(0, 9 + step, 1)}, 0)),
                      1e-4);
        }
    }
}

/// Encoder-decoders: the prompt is the source, and the decoder's linears go by the encoder's final states.
TEST(OrchEncoderDecoder, CachedStepsEqualTheWholeForward) {
    const auto folder = std::filesystem::path(POLYAD_SHARED_DIR) / "fixtures/models/t5_v10";
    if (!std::filesystem::exists(folder)) GTEST_SKIP() << "no fixture at " << folder;
    BackboneOptions precision;
    precision.precision = Precision::fp32;
    const auto model = Backbone::open(folder, precision);
    for (const Json& more : {Json::object(), Json{{"router_scope", "model"}}, Json{{"task_pool", "last"}}}) {
        SCOPED_TRACE(more.dump());
        Json config = orch(more);
        config["prompt"] = {{"style", "plain"}};
        const auto skillset = Skillset::create(model, {}, config);
        tiny::shake(*skillset, 3, 0.2);
        const auto forward = [&](const Batch& batch, KvCache* cache,
                                 const std::vector<RouteMemory*>& memory) {
            RouteInput route;
            route.row_begin = batch.row_begin;
            route.source_begin = batch.source_begin;
            route.prompt_length = batch.prompt_length;
            route.memory = memory;
            const auto adaptation = skillset->method().adapt(route);
            ForwardOptions options;
            options.adaptation = adaptation.get();
            options.cache = cache;
            if (cache) options.slots = {0, 1};
            return model->hidden(batch, options);
        };
        Batch whole;
        whole.source = {5, 6, 7, 8, 9, 10, 11};
        whole.source_begin = {0, 4, 7};
        whole.tokens = {0, 20, 21, 0, 30, 31};
        whole.row_begin = {0, 3, 6};
        whole.prompt_length = {4, 3};
        const at::Tensor want = forward(whole, nullptr, {});
        Batch second;
        second.source = {9, 10, 11};
        second.source_begin = {0, 3};
        second.tokens = {0, 30, 31};
        second.row_begin = {0, 3};
        second.prompt_length = {3};
        EXPECT_LT(largest_difference(forward(second, nullptr, {}).detach(), want.narrow(0, 3, 3)), 1e-4);
        second.source[0] = 40;
        EXPECT_GT(largest_difference(forward(second, nullptr, {}).detach(), want.narrow(0, 3, 3)), 1e-3);
        // Gradients reach every router: through the source, and through the encoder's states.
        forward(whole, nullptr, {}).sum().backward();
        for (const Parameter& p : skillset->method().parameters())
            EXPECT_GT(p.value.grad().abs().max().item<double>(), 0.0) << p.name;

        at::NoGradGuard no_grad;
        const auto cache = model->make_cache(2, 8);
        RouteMemory a, b;
        Batch step = whole;
        step.tokens = {0, 0};
        step.row_begin = {0, 1, 2};
        for (int64_t n = 0; n < 3; ++n) {
            const at::Tensor got = forward(step, cache.get(), {&a, &b});
            EXPECT_LT(largest_difference(got, at::cat({want.narrow(0, n, 1), want.narrow(0, 3 + n, 1)}, 0)),
                      1e-4);
            if (n == 2) break;
            step.source.clear();
            step.source_begin = {0, 0, 0};
            step.prompt_length = {0, 0};
            step.tokens = {whole.tokens[static_cast<size_t>(n + 1)],
                           whole.tokens[static_cast<size_t>(n + 4)]};
        }
    }
    EXPECT_REFUSED(Skillset::create(model, {}, orch({{"task_pool", "none"}, {"combine", "products"}})),
                   Code::invalid_config, "encoder");
    Json encoder = orch({{"route_span", "all"}});
    encoder["target_modules"] = "encoder\\..*";
    encoder["prompt"] = {{"style", "plain"}};
    EXPECT_NO_THROW(Skillset::create(model, {}, encoder));
    EXPECT_REFUSED(Skillset::create(model, {}, {{"method", "xlora"}}), Code::unsupported, "encoder-decoder");
}

}  // namespace
}  // namespace polyad
