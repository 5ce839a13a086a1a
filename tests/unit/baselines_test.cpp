// SPDX-License-Identifier: Apache-2.0
// The methods the five systems are compared with: MoLoRA's loss terms, private LoRAs, the even mix, X-LoRA.
#include <ATen/ops/cat.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/softmax.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "io/peft.h"
#include "routing/peft_export.h"
#include "routing/peft_skillset.h"
#include "routing_fixture.h"
#include "tiny_skillsets.h"

namespace polyad {
namespace {

using Trace = std::map<std::string, std::map<std::string, at::Tensor>>;

// ---- MoLoRA's loss terms

Json molora(const Json& more) {
    Json config = {{"method", "molora"}, {"rank", 2}, {"n_experts", 4}};
    config.update(more);
    return config;
}

at::Tensor loss_of(Layer& layer, const at::Tensor& x, Mode mode = Mode::train) {
    RouteInput in = layer.input({-1}, static_cast<int>(x.size(0)));
    in.mode = mode;
    layer.adaptation = layer.method->adapt(in);
    for (size_t i = 0; i < layer.context.sites.size(); ++i) layer.adaptation->at(layer.site(i), x);
    return layer.method->auxiliary_loss(*layer.adaptation);
}

TEST(MoLoraLosses, AreOneWhenExpertsAreUsedAlikeAndEWhenOneTakesAll) {
    for (const int top_k : {0, 1}) {
        Layer layer(molora({{"balance_loss", 1.0}, {"top_k", top_k}}), 4, 3, 0);
        at::Tensor x = at::zeros({4, 4});
        for (int64_t i = 0; i < 4; ++i) x[i][i] = 30.0;  // token i prefers expert i
        at::Tensor router = at::zeros({4, 4});
        for (int64_t i = 0; i < 4; ++i) router[i][i] = 1.0;
        layer.set("router_weight", router);
        EXPECT_NEAR(loss_of(layer, x).item<double>(), 1.0, 1e-5);
        EXPECT_NEAR(loss_of(layer, x.narrow(0, 1, 1)).item<double>(), 4.0, 1e-5);
    }
    Layer two(molora({{"balance_loss", 1.0}, {"top_k", 2}}), 4, 3, 0);
    two.set("router_weight", at::zeros({4, 4}));  // p = 1/4 whatever is chosen
    EXPECT_NEAR(loss_of(two, at::ones({3, 4})).item<double>(), 1.0, 1e-5);
}

TEST(MoLoraLosses, ZLossIsTheMeanSquaredLogSum) {
    Layer layer(molora({{"z_loss", 0.5}}), 6, 3, 0, 2);
    layer.randomise(3);
    const at::Tensor x = drawn({5, 6}, 1);
    double want = 0.0;
    for (size_t i = 0; i < 2; ++i)
        want += 0.5 *
                at::logsumexp(at::matmul(x, layer.parameter("router_weight", i).value.detach().t()), {-1})
                    .square()
                    .mean()
                    .item<double>() /
                2;
    EXPECT_NEAR(loss_of(layer, x).item<double>(), want, 1e-4 * want);
}

TEST(MoLoraLosses, GradientsAreThoseOfTheValue) {
    for (const int top_k : {0, 2}) {
        Layer layer(molora({{"balance_loss", 0.7}, {"z_loss", 0.3}, {"top_k", top_k}}), 5, 3, 0);
        layer.randomise(4);
        at::Tensor x = drawn({6, 5}, 2).requires_grad_(true);
        loss_of(layer, x).backward();
        const auto check = [&](at::Tensor leaf, const at::Tensor& gradient,
                               const std::function<double()>& value) {
            at::NoGradGuard no_grad;
            for (int64_t i = 0; i < leaf.numel(); ++i) {
                float* entry = leaf.data_ptr<float>() + i;
                const float before = *entry, step = 1e-3f;
                *entry = before + step;
                const double up = value();
                *entry = before - step;
                const double want = (up - value()) / (2 * static_cast<double>(step));
                *entry = before;
                EXPECT_NEAR(gradient.view(-1)[i].item<double>(), want, 1e-2 * std::max(1.0, std::abs(want)))
                    << i;
            }
        };
        const auto value = [&] { return loss_of(layer, x).item<double>(); };
        const at::Tensor router = layer.parameter("router_weight").value;
        check(router, router.grad(), value);
        check(x, x.grad(), value);
    }
}

TEST(MoLoraLosses, AreOffByDefaultAndOutsideTraining) {
    Layer off(molora(Json::object()), 6, 3, 0), on(molora({{"balance_loss", 1.0}}), 6, 3, 0);
    const at::Tensor x = drawn({4, 6}, 1);
    EXPECT_FALSE(loss_of(off, x).defined());
    EXPECT_FALSE(loss_of(on, x, Mode::eval).defined());
    EXPECT_TRUE(loss_of(on, x).defined());
    EXPECT_THROW(Layer(molora({{"balance_loss", -1.0}}), 6, 3, 0), Error);
}

// ---- factors kept between forwards

TEST(TokenRouted, KeptFactorsFollowTheParameters) {
    for (const Json& config : {molora(Json::object()), Json{{"method", "mor1e"}}}) {
        Layer layer(config, 6, 5, 1, 2);
        const at::Tensor x = drawn({4, 6}, 1);
        for (const uint64_t seed : {3, 4}) {
            layer.randomise(seed);
            for (const int repeat : {0, 1}) {
                SCOPED_TRACE(config.dump() + " seed " + std::to_string(seed) + " " + std::to_string(repeat));
                EXPECT_EQ(largest_difference(layer.served(x, {0}), layer.traced(x, {0})), 0.0);
            }
        }
        // Asked for in another type, they are made in that type.
        at::NoGradGuard no_grad;
        const at::Tensor half = x.to(at::kBFloat16);
        layer.adaptation = layer.method->adapt(layer.input({0}, 4));
        EXPECT_EQ(layer.adaptation->at(layer.site(), half)[0].a.scalar_type(), at::kBFloat16);
        EXPECT_EQ(layer.adaptation->at(layer.site(), x)[0].a.scalar_type(), at::kFloat);
    }
}

// ---- a LoRA per task; the even mix

TEST(PrivateLora, EveryTaskHasItsOwn) {
    Layer layer({{"method", "private_lora"}, {"rank", 2}, {"alpha", 3.0}}, 6, 5, 3);
    layer.randomise(5);
    const at::Tensor x = drawn({4, 6}, 2);
    std::vector<at::Tensor> alone;
    for (int task = 0; task < 3; ++task) {
        Layer lora({{"method", "lora"}, {"rank", 2}, {"alpha", 3.0}}, 6, 5, 0);
        lora.set("lora_a", layer.parameter("lora_a_specific").value.select(0, task));
        lora.set("lora_b", layer.parameter("lora_b_specific").value.select(0, task));
        alone.push_back(lora.traced(x, {-1}).detach());
        EXPECT_LT(largest_difference(layer.traced(x, {task}), alone.back()), 1e-4);
        EXPECT_LT(largest_difference(layer.served(x, {task}), alone.back()), 1e-4);
        const auto pair = layer.method->collapse(layer.site(), task);
        ASSERT_TRUE(pair.has_value());
        EXPECT_EQ(pair->a.size(0), 2);
        std::vector<float> own(3, 0.0f);
        own[static_cast<size_t>(task)] = 1.0f;
        EXPECT_EQ(layer.method->task_weights(task), own);
    }
    // Explicit weights: a weighted sum of the tasks' outputs.
    at::NoGradGuard no_grad;
    RouteInput in = layer.input({-1}, 4);
    in.weights = {{0.5f, 0.2f, 0.3f}};
    EXPECT_LT(largest_difference(layer.run(x, in), alone[0] * 0.5 + alone[1] * 0.2 + alone[2] * 0.3), 1e-4);
}

TEST(PrivateLora, OneTaskNeverMovesAnother) {
    Layer layer({{"method", "private_lora"}, {"rank", 2}}, 6, 5, 3);
    layer.randomise(6);
    RouteInput in = layer.input({1, 1}, 2);
    in.mode = Mode::train;
    (layer.run(drawn({4, 6}, 2), in) * drawn({4, 5}, 3)).sum().backward();
    for (const char* name : {"lora_a_specific", "lora_b_specific"}) {
        const at::Tensor gradient = layer.parameter(name).value.grad();
        EXPECT_EQ(gradient.select(0, 0).abs().max().item<double>(), 0.0);
        EXPECT_GT(gradient.select(0, 1).abs().max().item<double>(), 0.0);
        EXPECT_EQ(gradient.select(0, 2).abs().max().item<double>(), 0.0);
    }
    Generator noise(1);
    layer.method->add_task("fresh", noise);
    EXPECT_EQ(layer.method->skill_count(), 4);
    EXPECT_EQ(layer.served(drawn({1, 6}, 2), {3}).abs().max().item<double>(), 0.0);  // a fresh LoRA
    EXPECT_THROW(layer.method->set_training("router"), Error);
    EXPECT_THROW(Layer({{"method", "private_lora"}, {"private_skills", 2}}, 6, 5, 3), Error);
}

TEST(UniformMix, IsTheMeanOfTheFactors) {
    Layer even({{"method", "poly"}, {"rank", 2}, {"n_skills", 3}, {"train", "uniform"}}, 6, 5, 2);
    even.randomise(7);
    Layer lora({{"method", "lora"}, {"rank", 2}, {"alpha", 1.0}}, 6, 5, 0);
    lora.set("lora_a", even.parameter("lora_a").value.mean(0));
    lora.set("lora_b", even.parameter("lora_b").value.mean(0));
    const at::Tensor x = drawn({4, 6}, 2);
    for (const int task : {0, 1})
        EXPECT_LT(largest_difference(even.traced(x, {task}), lora.traced(x, {-1})), 1e-5);
}

// ---- X-LoRA, on the tiny model

class XLoraModel : public testing::Test {
  protected:
    void SetUp() override { SKIP_WITHOUT_TINY_MODEL(); }

    std::shared_ptr<Skillset> make(const Json& more, double shake = 0.3) const {
        Json config = tiny::method("xlora");
        config.update(more);
        auto skillset = tiny::skillset(config, *tiny::dataset());
        tiny::shake(*skillset, 3, shake);
        return skillset;
    }
    at::Tensor forward(const Skillset& skillset, const Batch& batch, Mode mode = Mode::eval,
                       Trace* trace = nullptr, KvCache* cache = nullptr,
                       const std::vector<RouteMemory*>& memory = {}) const {
        RouteInput route;
        route.row_begin = batch.row_begin;
        route.prompt_length = batch.prompt_length;
        route.memory = memory;
        route.mode = mode;
        Generator noise(4);
        route.noise = &noise;
        route.trace = trace;
        const auto adaptation = skillset.method().adapt(route);
        ForwardOptions options;
        options.adaptation = adaptation.get();
        options.cache = cache;
        if (cache)
            for (int b = 0; b < batch.rows(); ++b) options.slots.push_back(b);
        return tiny::backbone()->hidden(batch, options);
    }
    static Batch batch(const std::vector<std::pair<std::vector<int32_t>, int32_t>>& rows) {
        Batch out;
        out.row_begin = {0};
        for (const auto& [tokens, prompt] : rows) {
            out.tokens.insert(out.tokens.end(), tokens.begin(), tokens.end());
            out.row_begin.push_back(out.size());
            out.prompt_length.push_back(prompt);
        }
        return out;
    }
};

TEST_F(XLoraModel, OneExpertIsLora) {
    at::NoGradGuard no_grad;
    const auto one = make({{"n_experts", 1}, {"rank", 4}});
    const auto lora = tiny::skillset({{"method", "lora"}, {"rank", 4}, {"alpha", 4.0}}, *tiny::dataset());
    std::map<std::string, at::Tensor> values;
    for (const Parameter& p : one->method().parameters()) values[p.name] = p.value;
    for (Parameter& p : lora->method().parameters()) p.value.copy_(values.at(p.name).select(0, 0));
    lora->method().parameters_changed();
    const Batch rows = batch({{{20, 21, 22, 23, 40}, 4}, {{100, 101, 7}, 2}});
    EXPECT_LT(largest_difference(forward(*one, rows), forward(*lora, rows)), 1e-4);
}

/// The head on the states the backbone alone has; the prompt's last token speaks for the answer.
TEST_F(XLoraModel, ScalingsAreTheHeadOnTheBackbonesStates) {
    at::NoGradGuard no_grad;
    const Batch rows = batch({{{20, 21, 22, 23, 40, 41}, 4}});
    for (const char* answer : {"prompt", "token"}) {
        const auto skillset =
            make({{"n_experts", 3}, {"rank", 2}, {"answer_scalings", answer}, {"softmax_temperature", 2.0}});
        Trace trace;
        forward(*skillset, rows, Mode::eval, &trace);
        at::Tensor weight, bias;
        for (const Parameter& p : skillset->method().parameters()) {
            if (p.name == "xlora.last.weight") weight = p.value;
            if (p.name == "xlora.last.bias") bias = p.value;
        }
        const at::Tensor states = tiny::backbone()->hidden(rows);
        at::Tensor want = at::softmax((at::matmul(states, weight.t()) + bias) / 2.0, -1);
        if (std::string(answer) == "prompt")
            want = at::cat({want.narrow(0, 0, 4), want.narrow(0, 3, 1).expand({2, -1})}, 0);
        for (const Site& site : skillset->sites())
            EXPECT_LT(largest_difference(trace[site.path]["weights"], want), 1e-4);
    }
}

TEST_F(XLoraModel, CachedStepsEqualTheWholeForward) {
    at::NoGradGuard no_grad;
    const std::vector<int32_t> a = {20, 21, 22, 23, 40, 41, 42}, b = {100, 101, 7, 8, 9};
    for (const Json& more :
         {Json::object(), Json{{"answer_scalings", "token"}},
          Json{{"layerwise_scalings", true}, {"top_k_lora", 2}},
          Json{{"top_k_lora", 2}, {"enable_softmax_topk", true}, {"enable_softmax", false}},
          Json{{"xlora_depth", 2}, {"xlora_size", 16}, {"scaling_pass_value", 0.25}}}) {
        SCOPED_TRACE(more.dump());
        Json config = more;
        config["n_experts"] = 3;
        const auto skillset = make(config);
        const at::Tensor want = forward(*skillset, batch({{a, 4}, {b, 2}}));
        EXPECT_LT(largest_difference(forward(*skillset, batch({{b, 2}})), want.narrow(0, 7, 5)), 1e-4);
        const auto cache = tiny::backbone()->make_cache(2, 16);
        RouteMemory first, second;
        const std::vector<RouteMemory*> memory = {&first, &second};
        const at::Tensor start = forward(*skillset, batch({{{20, 21, 22, 23}, 4}, {{100, 101}, 2}}),
                                         Mode::eval, nullptr, cache.get(), memory);
        EXPECT_LT(largest_difference(start, at::cat({want.narrow(0, 0, 4), want.narrow(0, 7, 2)}, 0)), 1e-4);
        for (size_t step = 0; step < 3; ++step) {
            const at::Tensor got = forward(*skillset, batch({{{a[4 + step]}, 0}, {{b[2 + step]}, 0}}),
                                           Mode::eval, nullptr, cache.get(), memory);
            const auto s = static_cast<int64_t>(step);
            EXPECT_LT(
                largest_difference(got, at::cat({want.narrow(0, 4 + s, 1), want.narrow(0, 9 + s, 1)}, 0)),
                1e-4);
        }
    }
}

TEST_F(XLoraModel, FrozenExpertsLeaveTheHeadToLearn) {
    const auto skillset =
        make({{"n_experts", 3}, {"use_trainable_adapters", false}, {"xlora_depth", 2}, {"xlora_size", 16}});
    forward(*skillset, batch({{{20, 21, 22, 23, 40}, 4}}), Mode::train).sum().backward();
    for (const Parameter& p : skillset->method().parameters()) {
        const bool head = p.name.rfind("xlora.", 0) == 0;
        EXPECT_EQ(p.trainable, head) << p.name;
        EXPECT_EQ(p.value.grad().defined() && p.value.grad().abs().max().item<double>() > 0.0, head)
            << p.name;
    }
    EXPECT_EQ(skillset->config().at("use_trainable_adapters"), false);
    skillset->method().set_training("all");
    EXPECT_EQ(skillset->config().at("use_trainable_adapters"), true);
}

TEST_F(XLoraModel, RowsBringWeightsOfTheirOwn) {
    at::NoGradGuard no_grad;
    const auto skillset = make({{"n_experts", 3}, {"top_k_lora", 1}});
    RouteInput route;
    const Batch rows = batch({{{20, 21, 22}, 3}, {{100, 101}, 2}});
    route.row_begin = rows.row_begin;
    route.prompt_length = rows.prompt_length;
    route.weights = {{}, {0.5f, 0.25f, 0.25f}};
    Trace trace;
    route.trace = &trace;
    const auto adaptation = skillset->method().adapt(route);
    ForwardOptions options;
    options.adaptation = adaptation.get();
    const at::Tensor states = tiny::backbone()->hidden(rows, options);
    const at::Tensor used = trace[skillset->sites()[0].path]["weights"];
    EXPECT_LT(
        largest_difference(used.narrow(0, 3, 2), matrix({0.5f, 0.25f, 0.25f, 0.5f, 0.25f, 0.25f}, {2, 3})),
        1e-6);
    EXPECT_LT(largest_difference(states.narrow(0, 0, 3), forward(*skillset, batch({{{20, 21, 22}, 3}}))),
              1e-4);
}

TEST_F(XLoraModel, RefusesWhatCannotBe) {
    EXPECT_REFUSED(make({{"hidden_size", 7}}), Code::invalid_config, "hidden_size");
    EXPECT_REFUSED(make({{"enable_softmax_topk", true}}), Code::invalid_config, "top_k_lora");
    EXPECT_REFUSED(make({{"top_k_lora", 5}, {"n_experts", 4}}), Code::invalid_config, "top_k_lora");
    EXPECT_REFUSED(make({{"adapters", {"/nowhere"}}}), Code::not_found, "nowhere");
    const auto skillset = make(Json::object());
    EXPECT_REFUSED(forward(*skillset, batch({{{20, 21}, 0}})), Code::invalid_argument, "empty_prompt");
}

/// Experts from PEFT folders: with all weight on one, its own logits.
TEST(XLoraPeft, ExpertsAreTheAdapters) {
    const std::filesystem::path shared = POLYAD_SHARED_DIR;
    const auto folder = shared / "fixtures/peft/llama";
    if (!std::filesystem::exists(folder)) GTEST_SKIP() << "no fixture at " << folder;
    BackboneOptions options;
    options.precision = Precision::fp32;
    const auto model = Backbone::open(shared / "fixtures/models/llama", options);
    const auto hidden = [&](const Skillset& skills, const std::vector<float>& weights) {
        Batch rows;
        rows.tokens = {5, 6, 7, 8};
        rows.row_begin = {0, 4};
        rows.prompt_length = {4};
        RouteInput route;
        route.row_begin = rows.row_begin;
        route.prompt_length = rows.prompt_length;
        route.weights = {weights};
        at::NoGradGuard no_grad;
        const auto adaptation = skills.method().adapt(route);
        ForwardOptions forward;
        forward.adaptation = adaptation.get();
        return model->hidden(rows, forward);
    };
    std::vector<at::Tensor> alone;
    Json both = Json::array();
    std::vector<std::string> modules;
    for (const char* kind : {"lora", "rslora"}) {
        const PeftAdapter adapter = open_peft(folder / kind);
        alone.push_back(hidden(*import_peft(model, adapter), {}));
        both.push_back((folder / kind).string());
        for (const PeftModule& module : adapter.modules) modules.push_back(module.path);
    }
    std::sort(modules.begin(), modules.end());
    modules.erase(std::unique(modules.begin(), modules.end()), modules.end());
    const auto experts =
        Skillset::create(model, {}, {{"method", "xlora"}, {"adapters", both}, {"target_modules", modules}});
    EXPECT_EQ(experts->config().at("n_experts"), 2);
    EXPECT_EQ(experts->config().at("use_trainable_adapters"), false);
    EXPECT_FALSE(experts->config().contains("adapters"));
    for (const size_t expert : {0u, 1u}) {
        const at::Tensor mixed = hidden(*experts, {expert == 0 ? 1.0f : 0.0f, expert == 1 ? 1.0f : 0.0f});
        EXPECT_LT(largest_difference(mixed, alone[expert]), 1e-4);
        // And out again, each as the LoRA it was.
        const PeftAdapter out = export_peft(*experts, -1, {{"expert", expert}});
        EXPECT_LT(largest_difference(hidden(*import_peft(model, out), {}), alone[expert]), 1e-4);
    }
    EXPECT_REFUSED(export_peft(*experts, -1, {{"expert", 2}}), Code::invalid_argument, "0 to 1");
    EXPECT_REFUSED(export_peft(*tiny::skillset(tiny::method("lora"), *tiny::dataset()), -1, {{"expert", 0}}),
                   Code::invalid_argument, "no LoRA experts");
    const auto again = Skillset::load(model, Bytes::copy_of(experts->save_to_memory(), "xlora"));
    EXPECT_EQ(tiny::weights(*again), tiny::weights(*experts));
    EXPECT_REFUSED(
        Skillset::create(model, {}, {{"method", "xlora"}, {"adapters", {(folder / "dora").string()}}}),
        Code::unsupported, "dora");
    EXPECT_REFUSED(Skillset::create(
                       model, {}, {{"method", "xlora"}, {"adapters", both}, {"target_modules", {"k_proj"}}}),
                   Code::bad_format, "target_modules");
}

}  // namespace
}  // namespace polyad
