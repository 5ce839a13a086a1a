// SPDX-License-Identifier: Apache-2.0
// Task-level MoE: routers, selection and experts on sites alone.
#include <ATen/ops/linear.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/stack.h>

#include <set>

#include "routing/count.h"
#include "routing/route_table.h"
#include "routing/task_router.h"
#include "routing_fixture.h"
#include "skills/expert_choice.h"
#include "skills/temperature.h"
#include "tiny_skillsets.h"

namespace polyad {
namespace {

Json moe(const Json& more = Json::object()) {
    Json config = {{"method", "task_moe"}, {"expert_kind", "lora"}, {"rank", 2},
                   {"n_experts", 3},       {"task_vec_dim", 8},     {"router_hidden", 4}};
    config.update(more);
    return config;
}

const char* const kinds[] = {"linear_layer_specific",
                             "linear",
                             "rnn",
                             "gru",
                             "lstm",
                             "transformer",
                             "rnn_layer_specific",
                             "gru_layer_specific",
                             "lstm_layer_specific",
                             "transformer_layer_specific"};

int64_t router_size(const char* kind, int64_t width) {
    int64_t count = 0;
    TaskRouterOptions options;
    options.kind = kind;
    std::vector<std::string> layers;
    for (int l = 0; l < 12; ++l) layers.push_back("layer." + std::to_string(l));
    std::vector<at::Tensor> kept;
    const TensorMaker maker(0, Fill::shapes_only);
    make_task_router(options, {layers, 3, width}, maker,
                     {[&](const std::string&, at::Tensor value) {
                          count += value.numel();
                          kept.push_back(value);
                          return kept.size() - 1;
                      },
                      [&](size_t i) -> const at::Tensor& { return kept[i]; }});
    return count;
}

TEST(TaskRouter, HasThePublishedSizes) {
    EXPECT_EQ(router_size("linear_layer_specific", 768), 592932);
    EXPECT_EQ(router_size("linear_layer_specific", 128), 101412);
    EXPECT_EQ(router_size("lstm", 768), 436611);
    // Counted by hand: position 12 x 128; per direction 3 gates of 64 x (128 + 64 + 2); head 128 x 3 + 3.
    EXPECT_EQ(router_size("gru", 128), 12 * 128 + 2 * 3 * 64 * (128 + 64 + 2) + 128 * 3 + 3);
    // Projection; in, out, up, down, two norms of width 64; head.
    EXPECT_EQ(router_size("transformer_layer_specific", 128),
              12 * 64 * 129 + 3 * 64 * 65 + 64 * 65 + 64 * 65 + 64 * 65 + 4 * 64 + 64 * 3 + 3);
}

TEST(TaskRouter, EveryKindRoutesEveryLayerAndLearns) {
    for (const char* kind : kinds) {
        SCOPED_TRACE(kind);
        Layer layer(moe({{"router", kind}, {"select", "softmax"}}), 6, 5, 2, 3);
        layer.randomise(4);
        std::map<std::string, std::map<std::string, at::Tensor>> trace;
        RouteInput in = layer.input({0, 1, 0}, 2);
        in.trace = &trace;
        in.mode = Mode::train;
        Generator noise(3);
        in.noise = &noise;
        const auto adaptation = layer.method->adapt(in);
        at::Tensor loss;
        for (int i = 0; i < 3; ++i) {
            const at::Tensor z = trace.at(layer.site(i).path).at("router_logits");
            ASSERT_EQ(z.sizes(), (std::vector<int64_t>{3, 3}));
            if (std::string(kind).rfind("transformer", 0) != 0) {  // dropout is per row
                EXPECT_TRUE(z[0].equal(z[2]));
            }
            EXPECT_GT(largest_difference(z[0], z[1]), 1e-6);
            const at::Tensor term = (z * drawn({3, 3}, 7 + i)).sum();
            loss = loss.defined() ? loss + term : term;
        }
        loss.backward();
        for (const Parameter& p : layer.method->parameters()) {
            if (p.group != ParameterGroup::router && p.group != ParameterGroup::task_vectors) continue;
            ASSERT_TRUE(p.value.grad().defined()) << p.name;
            // A bias added to every key moves no softmax; all else must matter.
            EXPECT_GT(p.value.grad().abs().max().item<float>(), 0.0f) << p.name;
        }
    }
}

TEST(TaskRouter, TransformerNeedsAWidthItsHeadsDivide) {
    EXPECT_REFUSED(Layer(moe({{"router", "transformer"}, {"task_vec_dim", 6}}), 6, 5, 2),
                   Code::invalid_config, "task_vec_dim");
}

TEST(ExpertChoice, StraightThroughIsOneHotAndItsGradientSumsToZero) {
    const at::Tensor z = drawn({5, 4}, 1).requires_grad_(true);
    at::Tensor u = at::empty({5, 4}, at::TensorOptions().dtype(at::kFloat));
    Generator(2).fill_uniform(u.mutable_data_ptr<float>(), 20);
    const at::Tensor g = choose_experts(z, ExpertChoice::gumbel_st, 0.7, u);
    EXPECT_TRUE((g.eq(0.0) + g.eq(1.0)).all().item<bool>());
    EXPECT_TRUE(g.sum(-1).eq(1.0).all().item<bool>());
    (g * drawn({5, 4}, 3)).sum().backward();
    EXPECT_LT(z.grad().sum(-1).abs().max().item<float>(), 1e-6);
    EXPECT_GT(z.grad().abs().max().item<float>(), 1e-3);
    // A tie goes to the lowest index.
    EXPECT_TRUE(largest_expert(at::zeros({1, 3})).equal(matrix({1, 0, 0}, {1, 3})));
}

TEST(TaskMoe, IdenticalExpertsDoNotDependOnTheRoute) {
    Layer layer(moe({{"tau", 1.0}, {"eval_route", "softmax"}}), 6, 5, 2);
    layer.randomise(1);
    layer.set("lora_a", drawn({1, 2, 6}, 2).expand({3, 2, 6}));
    layer.set("lora_b", drawn({1, 5, 2}, 3).expand({3, 5, 2}));
    const at::Tensor x = drawn({4, 6}, 4);
    const at::Tensor one = layer.served(x, {0, 1});
    layer.set("task_vectors", drawn({2, 8}, 9));
    EXPECT_LT(largest_difference(layer.served(x, {0, 1}), one), 1e-5);
    layer.randomise(5);
    EXPECT_GT(largest_difference(layer.served(x, {0, 1}), one), 1e-2);
}

TEST(TaskMoe, ARowOfAMixedBatchEqualsTheRowAlone) {
    for (const char* route : {"argmax", "softmax", "sample"}) {
        Layer layer(moe({{"eval_route", route}}), 6, 5, 3);
        layer.randomise(6);
        const at::Tensor x = drawn({6, 6}, 4), mixed = layer.served(x, {2, 0, 1});
        for (int b = 0; b < 3; ++b)
            EXPECT_LT(largest_difference(mixed.narrow(0, 2 * b, 2),
                                         layer.served(x.narrow(0, 2 * b, 2), {(b + 2) % 3})),
                      1e-5)  // a product of six rows may be added up in another order than one of two
                << route;
        for (int task = 0; task < 3; ++task) {
            const auto pair = layer.method->collapse(layer.site(), task);
            ASSERT_TRUE(pair);
            EXPECT_EQ(pair->a.size(0), std::string(route) == "softmax" ? 6 : 2);
            const at::Tensor y = at::linear(at::linear(x.narrow(0, 0, 2), pair->a), pair->b);
            EXPECT_LT(largest_difference(y, layer.served(x.narrow(0, 0, 2), {task})), 1e-5) << route;
        }
    }
}

TEST(TaskMoe, NoiseIsPerExampleAndLayerAndFollowsTheGenerator) {
    Layer layer(moe(), 6, 5, 2, 2);
    layer.randomise(2);
    const auto routes = [&](uint64_t seed) {
        std::map<std::string, std::map<std::string, at::Tensor>> trace;
        RouteInput in = layer.input(std::vector<int32_t>(16, 0), 1);
        Generator noise(seed);
        in.noise = &noise;
        in.mode = Mode::train;
        in.trace = &trace;
        layer.method->adapt(in);
        return at::stack(
            {trace.at(layer.site(0).path).at("weights"), trace.at(layer.site(1).path).at("weights")});
    };
    layer.set("task_vectors", at::zeros({2, 8}));
    const at::Tensor first = routes(1);
    EXPECT_TRUE(first.equal(routes(1)));
    EXPECT_FALSE(first.equal(routes(2)));
    EXPECT_FALSE(first[0].equal(first[1]));
    EXPECT_GT(first.sum(1).gt(0).sum().item<int64_t>(), 2);  // not all rows took one expert
    RouteInput silent = layer.input({0}, 1);
    silent.mode = Mode::train;
    EXPECT_REFUSED(layer.method->adapt(silent), Code::invalid_argument, "noise generator");
}

TEST(TaskMoe, TheTemperatureCountsOptimiserSteps) {
    Layer layer(moe({{"tau", 4.0}, {"tau_rate", 0.5}, {"tau_min", 1.0}, {"eval_route", "softmax"}}), 6, 5, 2);
    layer.randomise(8);
    layer.set("router_steps", at::zeros({1}));
    const auto counted = [&] { return layer.parameter("router_steps").value.item<float>(); };
    const auto train = [&] {
        RouteInput in = layer.input({0, 1}, 1);
        Generator noise(1);
        in.noise = &noise;
        in.mode = Mode::train;
        layer.method->adapt(in);
    };
    layer.method->parameters_changed();
    EXPECT_EQ(counted(), 0.0f);  // nothing was trained
    for (int step = 1; step <= 3; ++step) {
        train();
        train();  // two forwards of one step
        layer.method->parameters_changed();
        EXPECT_EQ(counted(), static_cast<float>(step));
    }
    layer.method->parameters_changed();
    EXPECT_EQ(counted(), 3.0f);
    train();  // a step that is called off, and a checkpoint read instead
    layer.set("router_steps", matrix({1}, {1}));
    EXPECT_EQ(counted(), 1.0f);
    const auto weights = layer.method->task_weights(0);
    std::map<std::string, std::map<std::string, at::Tensor>> trace;
    RouteInput in = layer.input({0}, 1);
    in.trace = &trace;
    layer.method->adapt(in);
    const at::Tensor want =
        at::softmax(trace.begin()->second.at("router_logits")[0] / tau_at(4.0, 0.5, 1.0, 1), 0);
    for (int e = 0; e < 3; ++e) EXPECT_NEAR(weights[static_cast<size_t>(e)], want[e].item<float>(), 1e-6);
}

TEST(TaskMoe, BaselinesRouteWithoutLearning) {
    const auto weights = [](Layer& layer, const std::vector<int32_t>& tasks, Mode mode, uint64_t seed) {
        std::map<std::string, std::map<std::string, at::Tensor>> trace;
        RouteInput in = layer.input(tasks, 1);
        Generator noise(seed);
        in.noise = &noise;
        in.mode = mode;
        in.trace = &trace;
        layer.method->adapt(in);
        return trace.begin()->second.at("weights");
    };
    const Json plain = {{"method", "task_moe"}, {"expert_kind", "lora"}, {"rank", 2}, {"n_experts", 4}};
    const auto with = [&](Json more) {
        Json config = plain;
        config.update(more);
        return config;
    };
    Layer average(with({{"routing", "average"}}), 6, 5, 2);
    EXPECT_TRUE(weights(average, {0, 1}, Mode::train, 1).eq(0.25).all().item<bool>());
    EXPECT_FALSE(average.method->needs_task());

    Layer instance(with({{"routing", "instance_random"}}), 6, 5, 2);
    const std::vector<int32_t> many(32, 0);
    const at::Tensor trained = weights(instance, many, Mode::train, 1);
    EXPECT_TRUE(trained.sum(1).eq(1.0).all().item<bool>());
    EXPECT_EQ(trained.sum(0).gt(0).sum().item<int64_t>(), 4);
    const at::Tensor tested = weights(instance, many, Mode::eval, 1);
    EXPECT_EQ(tested.sum(0).gt(0).sum().item<int64_t>(), 1);

    Layer task(with({{"routing", "task_random"}, {"random_experts", 2}}), 6, 5, 8);
    const std::vector<int32_t> all = {0, 1, 2, 3, 4, 5, 6, 7};
    const at::Tensor fixed = weights(task, all, Mode::train, 1);
    EXPECT_TRUE(fixed.equal(weights(task, all, Mode::eval, 2)));
    EXPECT_TRUE((fixed.eq(0.0) + fixed.eq(0.5)).all().item<bool>());
    EXPECT_TRUE(fixed.sum(1).eq(1.0).all().item<bool>());
    EXPECT_GT(fixed.sum(0).gt(0).sum().item<int64_t>(), 2);
    for (Layer* layer : {&average, &instance, &task})
        for (const Parameter& p : layer->method->parameters()) EXPECT_EQ(p.group, ParameterGroup::skills);
}

TEST(TaskMoe, ExploresDisablesAndTakesWeightsGiven) {
    const auto trained = [](const Json& config, uint64_t seed) {
        Layer layer(config, 6, 5, 2);
        layer.randomise(2);
        std::map<std::string, std::map<std::string, at::Tensor>> trace;
        RouteInput in = layer.input(std::vector<int32_t>(64, 0), 1);
        Generator noise(seed);
        in.noise = &noise;
        in.mode = Mode::train;
        in.trace = &trace;
        layer.method->adapt(in);
        return trace.begin()->second.at("weights").detach();
    };
    // A route of the router's own is never the even mix.
    const at::Tensor even =
        trained(moe({{"select", "softmax"}, {"exploration", 0.5}, {"exploration_route", "uniform"}}), 4)
            .select(1, 0)
            .sub(1.0 / 3)
            .abs()
            .lt(1e-6);
    EXPECT_GT(even.sum().item<int64_t>(), 12);
    EXPECT_LT(even.sum().item<int64_t>(), 52);
    EXPECT_EQ(trained(moe({{"exploration", 1.0}}), 4).sum(0).gt(0).sum().item<int64_t>(), 3);

    const at::Tensor masked = trained(moe({{"disabled_experts", {{0, 1}}}, {"exploration", 0.3}}), 4);
    EXPECT_EQ(masked.select(1, 1).sum().item<float>(), 0.0f);
    EXPECT_REFUSED(Layer(moe({{"disabled_experts", {{0, 0}, {0, 1}, {0, 2}}}}), 6, 5, 2),
                   Code::invalid_config, "all experts of layer 0");
    EXPECT_REFUSED(Layer(moe({{"disabled_experts", {{3, 0}}}}), 6, 5, 2), Code::invalid_config, "layer 3");
    EXPECT_REFUSED(Layer(moe({{"disabled_experts", {{0, 7}}}}), 6, 5, 2), Code::invalid_config, "expert 7");
    EXPECT_REFUSED(Layer(moe({{"disabled_experts", 4}}), 6, 5, 2), Code::invalid_config, "[layer, expert]");

    Layer layer(moe(), 6, 5, 2);
    layer.randomise(3);
    RouteInput in = layer.input({-1, 1}, 1);
    in.weights = {{0.5f, 0.0f, 0.5f}, {}};
    std::map<std::string, std::map<std::string, at::Tensor>> trace;
    in.trace = &trace;
    layer.method->adapt(in);
    EXPECT_TRUE(trace.begin()->second.at("weights")[0].equal(matrix({0.5f, 0, 0.5f}, {3})));
    EXPECT_EQ(trace.begin()->second.at("weights")[1].sum().item<float>(), 1.0f);
    EXPECT_REFUSED(layer.method->adapt(layer.input({2}, 1)), Code::unknown_task, "unknown_task");
    EXPECT_REFUSED(layer.method->adapt(layer.input({-1}, 1)), Code::unknown_task, "unknown_task");
}

TEST(TaskMoe, TurnsAlternateBetweenRouterAndExperts) {
    Layer layer(moe({{"select", "softmax"}, {"alternate_every", 2}}), 6, 5, 2);
    layer.randomise(2);
    layer.set("router_steps", at::zeros({1}));
    for (int step = 0; step < 6; ++step) {
        RouteInput in = layer.input({0, 1}, 1);
        in.mode = Mode::train;
        (layer.run(drawn({2, 6}, 1), in) * drawn({2, 5}, 2)).sum().backward();
        const bool router = layer.parameter("model.layers.0.router_w1").value.grad().defined(),
                   experts = layer.parameter("lora_a").value.grad().defined();
        EXPECT_EQ(router, step / 2 % 2 == 0) << step;
        EXPECT_EQ(experts, step / 2 % 2 == 1) << step;
        for (Parameter& p : layer.method->parameters()) p.value.mutable_grad() = at::Tensor();
        layer.method->parameters_changed();
    }
}

TEST(TaskMoe, RegularisationIsTheMeanDistanceOfPairs) {
    Layer layer(moe({{"expert_regularization", 0.5}}), 6, 5, 2);
    layer.randomise(2);
    const at::Tensor a = layer.parameter("lora_a").value.detach(),
                     b = layer.parameter("lora_b").value.detach();
    double want = 0.0;
    for (int e = 0; e < 3; ++e)
        for (int f = e + 1; f < 3; ++f)
            want += (a[e] - a[f]).norm().item<double>() + (b[e] - b[f]).norm().item<double>();
    layer.served(drawn({2, 6}, 1), {0, 1});
    EXPECT_NEAR(layer.method->auxiliary_loss(*layer.adaptation).item<double>(), 0.5 * want / 3, 1e-4);
    // Experts that are still the same have a gradient of 0, not of 0/0.
    layer.set("lora_b", at::zeros({3, 5, 2}));
    layer.method->auxiliary_loss(*layer.adaptation).backward();
    EXPECT_EQ(layer.parameter("lora_b").value.grad().abs().max().item<float>(), 0.0f);
}

TEST(TaskMoe, VectorsComeFromTheCaller) {
    Json config = moe({{"task_vectors", {{1.0, 2.0, 3.0}, {4.0, 5.0, 6.0}}}});
    config.erase("task_vec_dim");
    Layer layer(config, 6, 5, 2);
    EXPECT_TRUE(layer.parameter("task_vectors").value.equal(matrix({1, 2, 3, 4, 5, 6}, {2, 3})));
    EXPECT_FALSE(layer.parameter("task_vectors").trainable);
    EXPECT_EQ(layer.method->config().at("task_vectors"), "given");
    EXPECT_EQ(layer.method->config().at("task_vec_dim"), 3);
    EXPECT_REFUSED(Layer(config, 6, 5, 3), Code::invalid_config, "3 tasks");
    config["task_vec_dim"] = 4;
    EXPECT_REFUSED(Layer(config, 6, 5, 2), Code::invalid_config, "task_vec_dim says 4");
    EXPECT_REFUSED(Layer(moe({{"task_vectors", {{1.0}, {1.0, 2.0}}}}), 6, 5, 2), Code::invalid_config,
                   "one length");
    EXPECT_REFUSED(Layer(moe({{"task_vectors", "text"}}), 6, 5, 2), Code::invalid_config, "computed");
    EXPECT_REFUSED(Layer(moe({{"task_vectors", "tfidf"}}), 6, 5, 2), Code::invalid_config, "fisher");
}

TEST(TaskMoe, NewTasksAndWhatMoves) {
    Layer layer(moe(), 6, 5, 2);
    layer.randomise(3);
    const at::Tensor x = drawn({1, 6}, 1), before = layer.served(x, {1});
    Generator noise(5);
    layer.method->add_task("average", noise);
    EXPECT_TRUE(layer.parameter("task_vectors")
                    .value[2]
                    .allclose(layer.parameter("task_vectors").value.detach().narrow(0, 0, 2).mean(0)));
    layer.method->add_task("fresh", noise);
    EXPECT_EQ(layer.parameter("task_vectors").value.size(0), 4);
    EXPECT_TRUE(layer.served(x, {1}).equal(before));
    EXPECT_REFUSED(layer.method->add_task("uniform", noise), Code::invalid_config, "fresh, average");
    const auto moving = [&] {
        std::set<ParameterGroup> groups;
        for (const Parameter& p : layer.method->parameters())
            if (p.trainable) groups.insert(p.group);
        return groups;
    };
    using G = ParameterGroup;
    EXPECT_EQ(moving(), (std::set<G>{G::skills, G::router, G::task_vectors}));
    layer.method->set_training("router");
    EXPECT_EQ(moving(), (std::set<G>{G::router, G::task_vectors}));
    layer.method->set_training("experts");
    EXPECT_EQ(moving(), (std::set<G>{G::skills}));
    layer.method->set_training("uniform");
    EXPECT_EQ(moving(), (std::set<G>{G::skills}));
    EXPECT_NEAR(layer.method->task_weights(0)[1], 1.0 / 3, 1e-6);
}

TEST(TaskMoe, CountsAsTheRecipeSays) {
    const Json config = {{"method", "task_moe"}, {"expert_kind", "lora"}, {"rank", 4},
                         {"n_experts", 3},       {"task_vec_dim", 128},   {"router_hidden", 64}};
    std::vector<Site> sites(2);
    for (int i = 0; i < 2; ++i) {
        sites[i].index = sites[i].layer = i;
        sites[i].path = "model.layers." + std::to_string(i) + ".q";
        sites[i].d_in = 16;
        sites[i].d_out = 12;
    }
    EXPECT_EQ(parameter_count(config, sites, 5),
              recipe_parameter_count("task_moe_lora", {{"modules", {{16, 12, 2}}},
                                                       {"r", 4},
                                                       {"task_vec_dim", 128},
                                                       {"router_hidden", 64},
                                                       {"n_experts", 3},
                                                       {"n_tasks", 5},
                                                       {"n_layers", 2},
                                                       {"train_task_vectors", true}}));
}

TEST(RouteTable, IsOneRowPerTask) {
    Layer layer(moe({{"eval_route", "softmax"}}), 6, 5, 2, 3);
    layer.randomise(7);
    const RouteTable table = route_table(*layer.method, layer.context.sites, 2);
    EXPECT_EQ(table.layers, (std::vector<int>{0, 1, 2}));
    EXPECT_EQ(table.skills, 3);
    ASSERT_EQ(table.weights.sizes(), (std::vector<int64_t>{2, 9}));
    EXPECT_LT((table.weights.view({2, 3, 3}).sum(-1) - 1).abs().max().item<float>(), 1e-6);
    EXPECT_TRUE(table.logits.defined());
    const std::vector<float> mean = layer.method->task_weights(1);
    const at::Tensor row = table.weights.view({2, 3, 3}).mean(1)[1];
    for (int e = 0; e < 3; ++e) EXPECT_NEAR(row[e].item<float>(), mean[static_cast<size_t>(e)], 1e-6);
    Layer token({{"method", "molora"}}, 6, 5, 2);
    EXPECT_REFUSED(route_table(*token.method, token.context.sites, 2), Code::unsupported, "mixture");
}

}  // namespace
}  // namespace polyad
