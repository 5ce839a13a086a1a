// SPDX-License-Identifier: Apache-2.0
// Values by hand and the properties that hold between methods (methods.md 16).
#include <ATen/ops/cat.h>
#include <ATen/ops/mm.h>
#include <gtest/gtest.h>

#include <cmath>

#include "routing/method.h"
#include "routing_fixture.h"
#include "skills/mixing.h"

namespace polyad {
namespace {

void expect_near(const at::Tensor& got, const std::vector<float>& want, double tolerance = 1e-5) {
    ASSERT_EQ(got.numel(), static_cast<int64_t>(want.size()));
    const at::Tensor flat = got.detach().reshape({-1}).contiguous();
    for (size_t i = 0; i < want.size(); ++i)
        EXPECT_NEAR(flat.const_data_ptr<float>()[i], want[i], tolerance * std::max(1.0f, std::abs(want[i])))
            << i;
}

Json poly(int rank, int skills, const char* combine = "factors") {
    return {{"method", "poly"}, {"rank", rank}, {"n_skills", skills}, {"combine", combine}};
}

// ---- values by hand

TEST(Hand, LoraScalesByAlphaOverRank) {
    Layer layer({{"method", "lora"}, {"rank", 2}, {"alpha", 1.0}}, 2, 2, 0);
    layer.set("lora_a", matrix({1, 2, 0, 0}, {2, 2}));
    layer.set("lora_b", matrix({3, 0, 4, 0}, {2, 2}));
    const at::Tensor x = matrix({1, 1}, {1, 2});
    expect_near(layer.traced(x, {-1}), {4.5f, 6.0f});
    expect_near(layer.served(x, {-1}), {4.5f, 6.0f});
}

TEST(Hand, PolyFactorsAndProductsDiffer) {
    const at::Tensor x = matrix({10, 20}, {1, 2});
    Layer factors(poly(1, 2), 2, 2, 1), products(poly(1, 2, "products"), 2, 2, 1);
    set_fixture_f(factors);
    set_fixture_f(products);
    for (const bool serve : {false, true}) {
        expect_near(serve ? factors.served(x, {0}) : factors.traced(x, {0}), {6.4f, 9.6f});
        expect_near(serve ? products.served(x, {0}) : products.traced(x, {0}), {4.0f, 12.0f});
    }
}

TEST(Hand, RelaxedBernoulli) {
    const at::Tensor logits = matrix({std::log(3.0f)}, {1, 1});
    expect_near(skill_gate(logits, matrix({0.5f}, {1, 1}), 1.0).gate, {0.75f});
    expect_near(skill_gate(logits, matrix({0.25f}, {1, 1}), 1.0).gate, {0.5f});
}

TEST(Hand, MhrNormalisesWithinEachSplit) {
    Json config = poly(1, 2);
    config["n_splits"] = 2;
    Layer layer(config, 2, 2, 1);
    layer.set("lora_a",
              matrix({1, 2, 3, 4}, {2, 1, 2}));  // [skill, 1, feature]: A = [[1,3],[2,4]] head x skill
    layer.set("lora_b", matrix({4, 0, 8, 2}, {2, 2, 1}));
    // sigmoid: [.25, .75] in the first split, [.5, .5] in the second
    layer.set("logits", matrix({-std::log(3.0f), std::log(3.0f), 0, 0}, {1, 4}));
    expect_near(layer.traced(matrix({2, 1}, {1, 2}), {0}), {56.0f, 8.0f});
}

TEST(Hand, CPolySplitJointProducts) {
    const std::map<std::string, std::vector<float>> want = {{"factors_split", {36.4f, -20.4f}},
                                                            {"factors_joint", {64.4f, -18.4f}},
                                                            {"products", {34.0f, -18.0f}}};
    for (const auto& [combine, y] : want)
        for (const char* routing : {"one_hot", "learned_full", "learned_diag"}) {
            Layer layer({{"method", "cpoly"},
                         {"rank", 1},
                         {"common_skills", 2},
                         {"combine", combine},
                         {"specific_routing", routing}},
                        2, 2, 1);
            set_fixture_f(layer);
            layer.set("lora_a_specific", matrix({1, 1}, {1, 1, 2}));
            layer.set("lora_b_specific", matrix({1, -1}, {1, 2, 1}));
            expect_near(layer.traced(matrix({10, 20}, {1, 2}), {0}), y);
            expect_near(layer.served(matrix({10, 20}, {1, 2}), {0}), y);
        }
}

TEST(Hand, MoLoraMixesPerToken) {
    Layer layer({{"method", "molora"}, {"rank", 1}, {"alpha", 1.0}, {"n_experts", 2}}, 2, 2, 0);
    layer.set("lora_a", matrix({1, 0, 0, 1}, {2, 1, 2}));
    layer.set("lora_b", matrix({1, 0, 0, 1}, {2, 2, 1}));
    layer.set("router_weight", matrix({0, 0, 0, std::log(3.0f) / 20.0f}, {2, 2}));  // [0, ln 3] at [10, 20]
    const at::Tensor x = matrix({10, 20, 10, 0}, {2, 2});
    expect_near(layer.traced(x, {-1}), {2.5f, 15.0f, 5.0f, 0.0f});
    Json masked = layer.method->config();
    masked["top_k"] = 1;
    masked["top_k_mode"] = "mask";
    Layer top(masked, 2, 2, 0);
    for (const char* name : {"lora_a", "lora_b", "router_weight"}) top.set(name, layer.parameter(name).value);
    expect_near(top.traced(x, {-1}), {0.0f, 15.0f, 5.0f, 0.0f});  // of a tie the first stays
}

TEST(Hand, MoR1E) {
    Layer flex({{"method", "mor1e"}, {"r1", 2}, {"r2", 2}, {"c_tok", 32}}, 2, 2, 0);
    flex.set("lora_a", matrix({1, 0, 0, 1}, {2, 2}));
    flex.set("lora_b", matrix({1, 0, 0, 2}, {2, 2}));
    RouteInput in = flex.input({-1}, 1);
    in.intuition = matrix({0.1f, 0.2f, 0.3f, 0.4f}, {1, 4});
    expect_near(flex.run(matrix({1, 2}, {1, 2}), in), {6.7f, 14.0f});
    Layer rank1({{"method", "mor1e"}, {"variant", "rank1"}, {"rank", 2}, {"c_tok", 32}}, 2, 2, 0);
    rank1.set("lora_a", matrix({1, 0, 0, 1}, {2, 2}));
    rank1.set("lora_b", matrix({1, 0, 0, 1}, {2, 2}));
    in.intuition = matrix({0.5f, -0.5f}, {1, 2});
    expect_near(rank1.run(matrix({1, 2}, {1, 2}), in), {4.5f, 7.0f});
    in.intuition = matrix({0.5f, -0.5f, 0.0f}, {1, 3});
    EXPECT_THROW(rank1.run(matrix({1, 2}, {1, 2}), in), Error);
}

// ---- properties

TEST(Property, OneSkillIsLora) {
    Layer one(poly(3, 1), 6, 5, 2), lora({{"method", "lora"}, {"rank", 3}, {"alpha", 1.0}}, 6, 5, 2);
    one.randomise(5);
    lora.set("lora_a", one.parameter("lora_a").value);
    lora.set("lora_b", one.parameter("lora_b").value);
    const at::Tensor x = drawn({4, 6}, 2);
    EXPECT_LT(largest_difference(one.traced(x, {1}), lora.traced(x, {-1})), 1e-5);
}

TEST(Property, EqualSplitsArePoly) {
    Json config = poly(2, 3);
    config["method"] = "mhr";
    config["n_splits"] = 3;
    Layer heads(config, 6, 9, 2), plain(poly(2, 3), 6, 9, 2);
    plain.randomise(7);
    for (const char* name : {"lora_a", "lora_b"}) heads.set(name, plain.parameter(name).value);
    const at::Tensor logits = plain.parameter("logits").value.detach();
    heads.set("logits", at::cat({logits, logits, logits}, 1));
    const at::Tensor x = drawn({4, 6}, 2);
    EXPECT_LT(largest_difference(heads.traced(x, {1}), plain.traced(x, {1})), 1e-5);
    EXPECT_LT(largest_difference(heads.served(x, {0}), plain.served(x, {0})), 1e-5);
}

TEST(Property, FreshSkillsLeaveTheBaseBitForBit) {
    const at::Tensor x = drawn({6, 8}, 3);
    for (const Json& config :
         {Json{{"method", "lora"}}, poly(2, 4), poly(2, 4, "products"),
          Json{{"method", "mhr"}, {"n_splits", 4}}, Json{{"method", "cpoly"}},
          Json{{"method", "cpoly"}, {"combine", "factors_joint"}},
          Json{{"method", "cpoly"}, {"combine", "products"}, {"private_skills", 2}},
          Json{{"method", "molora"}}, Json{{"method", "moelora_task"}}, Json{{"method", "mor1e"}}}) {
        Layer layer(config, 8, 4, 3);
        layer.weight = drawn({4, 8}, 11);
        const at::Tensor base = adapted_linear(x, layer.weight, {}, {0, 3, 6}, {});
        EXPECT_TRUE(layer.traced(x, {0, 2}).equal(base)) << config.dump();
        EXPECT_TRUE(layer.served(x, {0, 2}).equal(base)) << config.dump();
        RouteInput train = layer.input({0, 2}, 3);
        Generator noise(4);
        train.mode = Mode::train;
        train.noise = &noise;
        EXPECT_TRUE(layer.run(x, train).equal(base)) << config.dump();
    }
}

TEST(Property, OrderOfSkillsDoesNotMatter) {
    Layer layer(poly(2, 3), 6, 5, 2), permuted(poly(2, 3), 6, 5, 2);
    layer.randomise(9);
    const at::Tensor order = at::tensor(std::vector<int64_t>{2, 0, 1}, at::kLong);
    permuted.set("lora_a", layer.parameter("lora_a").value.index_select(0, order));
    permuted.set("lora_b", layer.parameter("lora_b").value.index_select(0, order));
    permuted.set("logits", layer.parameter("logits").value.index_select(1, order));
    const at::Tensor x = drawn({4, 6}, 2);
    EXPECT_LT(largest_difference(layer.traced(x, {1}), permuted.traced(x, {1})), 1e-5);
}

TEST(Property, ARowOfAMixedBatchIsTheRowAlone) {
    for (const Json& config :
         {poly(2, 3), poly(2, 3, "products"), Json{{"method", "mhr"}, {"n_splits", 2}, {"rank", 2}},
          Json{{"method", "cpoly"}, {"rank", 2}},
          Json{{"method", "cpoly"}, {"rank", 2}, {"specific_routing", "one_hot"}},
          Json{{"method", "cpoly"}, {"rank", 2}, {"combine", "products"}}}) {
        Layer layer(config, 6, 4, 4);
        layer.randomise(13);
        const at::Tensor x = drawn({8, 6}, 2);
        const std::vector<int32_t> tasks = {3, 0, 3, 2};
        const at::Tensor together = layer.served(x, tasks), traced = layer.traced(x, tasks);
        EXPECT_LT(largest_difference(together, traced), 1e-4) << config.dump();
        for (int64_t b = 0; b < 4; ++b) {
            const at::Tensor alone = layer.served(x.narrow(0, 2 * b, 2), {tasks[static_cast<size_t>(b)]});
            EXPECT_LT(largest_difference(together.narrow(0, 2 * b, 2), alone), 1e-5) << config.dump();
        }
    }
}

TEST(Property, CPolyEdges) {
    const at::Tensor x = drawn({4, 6}, 2);
    // No private skills: Poly.
    Layer common({{"method", "cpoly"}, {"rank", 2}, {"common_skills", 3}, {"private_skills", 0}}, 6, 5, 2);
    Layer plain(poly(2, 3), 6, 5, 2);
    common.randomise(3);
    for (const char* name : {"lora_a", "lora_b", "logits"}) plain.set(name, common.parameter(name).value);
    EXPECT_LT(largest_difference(common.traced(x, {1}), plain.traced(x, {1})), 1e-5);
    // No common skills, one-hot: a LoRA per task.
    Layer own({{"method", "cpoly"}, {"rank", 2}, {"common_skills", 0}, {"specific_routing", "one_hot"}}, 6, 5,
              2);
    own.randomise(4);
    Layer lora({{"method", "lora"}, {"rank", 2}, {"alpha", 1.0}}, 6, 5, 2);
    lora.set("lora_a", own.parameter("lora_a_specific").value.select(0, 1));
    lora.set("lora_b", own.parameter("lora_b_specific").value.select(0, 1));
    EXPECT_LT(largest_difference(own.served(x, {1}), lora.served(x, {-1})), 1e-5);
    EXPECT_LT(largest_difference(own.traced(x, {1}), lora.traced(x, {-1})), 1e-5);
}

TEST(Property, JointMinusSplitIsTheTwoCrossTerms) {
    const Json config = {
        {"method", "cpoly"}, {"rank", 2}, {"common_skills", 2}, {"specific_routing", "one_hot"}};
    Json joint_config = config;
    joint_config["combine"] = "factors_joint";
    Layer split(config, 6, 5, 2), joint(joint_config, 6, 5, 2);
    split.randomise(21);
    joint.randomise(21);
    const at::Tensor x = drawn({3, 6}, 2);
    const auto pair = *split.method->collapse(split.site(), 1);  // rank 4: common, private
    const at::Tensor ac = pair.a.narrow(0, 0, 2), ap = pair.a.narrow(0, 2, 2);
    const at::Tensor bc = pair.b.narrow(1, 0, 2), bp = pair.b.narrow(1, 2, 2);
    const at::Tensor cross = at::mm(at::mm(x, ap.t()), bc.t()) + at::mm(at::mm(x, ac.t()), bp.t());
    EXPECT_LT(largest_difference(joint.traced(x, {1}) - split.traced(x, {1}), cross), 1e-4);
}

TEST(Property, CommonScaleOfGatesHasNoGradient) {
    const at::Tensor z = drawn({2, 3, 4}, 8).abs().clone().requires_grad_(true);
    const at::Tensor weights = z / (z.sum(-1, true) + 1e-12);
    (weights * drawn({2, 3, 4}, 9)).sum().backward();
    EXPECT_LT((z.detach() * z.grad()).sum(-1).abs().max().item<double>(), 1e-5);
}

TEST(Property, FirstStepMovesOnlyB) {
    for (const char* combine : {"factors", "products"}) {
        Layer layer(poly(2, 3, combine), 6, 5, 2);
        layer.set("logits", drawn({2, 3}, 4));
        const at::Tensor x = drawn({4, 6}, 2);
        (layer.traced(x, {1}) * drawn({4, 5}, 3)).sum().backward();
        EXPECT_EQ(layer.parameter("lora_a").value.grad().abs().max().item<double>(), 0.0);
        EXPECT_EQ(layer.parameter("logits").value.grad().abs().max().item<double>(), 0.0);
        const at::Tensor db = layer.parameter("lora_b").value.grad();
        const std::vector<float> w = layer.method->task_weights(1);
        const double off = largest_difference(db.select(0, 0) / w[0], db.select(0, 1) / w[1]);
        if (std::string(combine) == "factors")
            EXPECT_LT(off, 1e-4);
        else
            EXPECT_GT(off, 1e-2);
    }
}

TEST(Property, CollapseIsTheServedTask) {
    for (const Json& config :
         {poly(2, 3), poly(2, 3, "products"), Json{{"method", "mhr"}, {"n_splits", 2}, {"rank", 2}},
          Json{{"method", "cpoly"}, {"rank", 2}, {"private_skills", 2}, {"specific_routing", "learned_diag"}},
          Json{{"method", "cpoly"}, {"rank", 2}, {"specific_activation", "sigmoid"}},
          Json{{"method", "cpoly"}, {"rank", 2}, {"combine", "products"}},
          Json{{"method", "lora"}, {"rank", 2}}}) {
        Layer layer(config, 6, 4, 3);
        layer.randomise(17);
        const at::Tensor x = drawn({5, 6}, 2);
        const auto pair = layer.method->collapse(layer.site(), 2);
        ASSERT_TRUE(pair.has_value());
        const at::Tensor y = at::mm(at::mm(x, pair->a.t()), pair->b.t());
        EXPECT_LT(largest_difference(layer.traced(x, {2}), y), 1e-4) << config.dump();
        EXPECT_LT(largest_difference(layer.served(x, {2}), y), 1e-4) << config.dump();
    }
}

TEST(Property, ExplicitWeightsTakeTheRoutersPlace) {
    for (const Json& config : {poly(2, 3), poly(2, 3, "products"), Json{{"method", "cpoly"}, {"rank", 2}},
                               Json{{"method", "cpoly"}, {"rank", 2}, {"specific_routing", "one_hot"}},
                               Json{{"method", "cpoly"},
                                    {"rank", 2},
                                    {"specific_routing", "learned_diag"},
                                    {"combine", "products"}}}) {
        Layer layer(config, 6, 4, 3);
        layer.randomise(19);
        const at::Tensor x = drawn({6, 6}, 2);
        RouteInput in = layer.input({2, -1, 1}, 2);
        in.weights = {{}, layer.method->task_weights(0), {}};  // task 0 by its weights
        for (const bool serve : {false, true}) {
            at::Tensor got, want;
            if (serve) {
                at::NoGradGuard no_grad;
                got = layer.run(x, in);
                want = layer.served(x, {2, 0, 1});
            } else {
                got = layer.run(x, in);
                want = layer.traced(x, {2, 0, 1});
            }
            EXPECT_LT(largest_difference(got, want), 1e-4) << config.dump();
        }
    }
    Layer lora({{"method", "lora"}}, 6, 4, 0);
    lora.randomise(2);
    const at::Tensor x = drawn({2, 6}, 2);
    RouteInput in = lora.input({-1, -1}, 1);
    in.weights = {{0.5f}, {}};
    const at::Tensor whole = lora.served(x, {-1, -1}), half = lora.run(x, in);
    EXPECT_LT(largest_difference(half.select(0, 0), whole.select(0, 0) * 0.5), 1e-5);
    EXPECT_TRUE(half.select(0, 1).equal(whole.select(0, 1)));
}

TEST(Property, TokenRoutersTakeExplicitWeights) {
    Layer layer({{"method", "molora"}, {"rank", 1}, {"n_experts", 3}}, 6, 4, 0);
    layer.randomise(5);
    layer.set("router_weight", at::zeros({3, 6}));  // the even mix
    const at::Tensor x = drawn({4, 6}, 2);
    RouteInput in = layer.input({-1, -1}, 2);
    const at::Tensor even = layer.run(x, in);
    in.weights = {{1.0f / 3, 1.0f / 3, 1.0f / 3}, {}};
    EXPECT_LT(largest_difference(layer.run(x, in), even), 1e-5);
    in.weights[0] = {0, 0, 0};
    const at::Tensor none = layer.run(x, in);
    EXPECT_EQ(none.narrow(0, 0, 2).abs().max().item<double>(), 0.0);
    EXPECT_TRUE(none.narrow(0, 2, 2).equal(even.narrow(0, 2, 2)));
    EXPECT_FALSE(layer.method->collapse(layer.site(), 0).has_value());
}

TEST(Property, ServedTasksFollowChangedParameters) {
    Layer layer(poly(2, 3), 6, 4, 40);
    layer.randomise(1);
    const at::Tensor x = drawn({1, 6}, 2);
    for (int round = 0; round < 3; ++round) {
        for (int task = 0; task < 40; ++task)  // more than the first cache holds
            EXPECT_LT(largest_difference(layer.served(x, {task}), layer.traced(x, {task})), 1e-5);
        layer.randomise(static_cast<uint64_t>(100 + round));
    }
}

}  // namespace
}  // namespace polyad
