// SPDX-License-Identifier: Apache-2.0
// Random starts and random routes: reproducible, independent, and nowhere outside training. Also refusals,
// counts and sharing of routers.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "routing/count.h"
#include "routing/diagnostics.h"
#include "routing_fixture.h"

namespace polyad {
namespace {

using Trace = std::map<std::string, std::map<std::string, at::Tensor>>;

std::string error_of(const std::function<void()>& call) {
    try {
        call();
    } catch (const Error& e) {
        return std::string(code_name(e.code())) + " " + e.what() + " " + e.detail();
    }
    return "no error";
}

void expect_error(const std::function<void()>& call, const std::vector<std::string>& parts) {
    const std::string got = error_of(call);
    for (const std::string& part : parts) EXPECT_NE(got.find(part), std::string::npos) << got;
}

RouteInput training(const Layer& layer, const std::vector<int32_t>& tasks, Generator& noise,
                    Trace* trace = nullptr) {
    RouteInput in = layer.input(tasks, 1);
    in.mode = Mode::train;
    in.noise = &noise;
    in.trace = trace;
    return in;
}

const Json poly_config = {{"method", "poly"}, {"rank", 2}, {"n_skills", 4}};

TEST(Noise, SameSeedSameRoutes) {
    Layer layer(poly_config, 6, 5, 3, 2);
    Trace first, again, other;
    Generator a(7), b(7), c(8);
    layer.method->adapt(training(layer, {0, 0}, a, &first));
    layer.method->adapt(training(layer, {0, 0}, b, &again));
    layer.method->adapt(training(layer, {0, 0}, c, &other));
    for (size_t i = 0; i < 2; ++i) {
        const at::Tensor w = first[layer.site(i).path]["weights"];
        EXPECT_TRUE(w.equal(again[layer.site(i).path]["weights"]));
        EXPECT_FALSE(w.equal(other[layer.site(i).path]["weights"]));
        EXPECT_FALSE(w.select(0, 0).equal(w.select(0, 1))) << "two examples of one task share a draw";
    }
    EXPECT_FALSE(first[layer.site(0).path]["weights"].equal(first[layer.site(1).path]["weights"]));
    EXPECT_EQ(a.state(), b.state());
    Trace next;
    layer.method->adapt(training(layer, {0, 0}, a, &next));
    EXPECT_FALSE(first[layer.site(0).path]["weights"].equal(next[layer.site(0).path]["weights"]));
}

TEST(Noise, GateIsUniformAtZeroLogits) {
    Layer layer(poly_config, 4, 4, 1);
    layer.set("logits", at::zeros({1, 4}));
    Trace trace;
    Generator noise(3);
    layer.method->adapt(training(layer, std::vector<int32_t>(5000, 0), noise, &trace));
    const at::Tensor z = trace[layer.site().path]["gate"].reshape({-1}).contiguous();
    std::vector<int> bins(10, 0);
    for (int64_t i = 0; i < z.numel(); ++i) ++bins[static_cast<size_t>(z.const_data_ptr<float>()[i] * 10.0f)];
    double chi2 = 0.0;
    for (const int count : bins) chi2 += (count - 2000.0) * (count - 2000.0) / 2000.0;
    EXPECT_LT(chi2, 33.7);  // 9 degrees of freedom, 1 in 10,000
    const at::Tensor w = trace[layer.site().path]["weights"];
    EXPECT_NEAR(w.sum(-1).min().item<double>(), 1.0, 1e-5);
    const double std = w.reshape({-1}).std().item<double>();
    EXPECT_NEAR(std, 0.140, 0.003);  // methods.md 8.3
}

TEST(Noise, EvaluationDrawsNothing) {
    Layer layer(poly_config, 6, 5, 3);
    layer.randomise(3);
    Generator noise(7);
    RouteInput in = layer.input({1}, 1);
    in.noise = &noise;
    const at::Tensor x = drawn({1, 6}, 1);
    EXPECT_TRUE(layer.run(x, in).equal(layer.run(x, in)));
    EXPECT_EQ(noise.state(), Generator(7).state());
    expect_error(
        [&] {
            RouteInput train = layer.input({1}, 1);
            train.mode = Mode::train;
            layer.method->adapt(train);
        },
        {"invalid_argument", "noise generator"});
}

TEST(Noise, OptionOffIsTheEvaluationMix) {
    Json config = poly_config;
    config["skill_sampling"] = "sigmoid";
    Layer layer(config, 6, 5, 3);
    layer.randomise(3);
    const at::Tensor x = drawn({2, 6}, 1);
    RouteInput train = layer.input({1, 2}, 1);
    train.mode = Mode::train;
    EXPECT_LT(largest_difference(layer.run(x, train), layer.traced(x, {1, 2})), 1e-6);
}

TEST(Noise, DropoutKeepsTheMean) {
    Layer layer({{"method", "lora"}, {"rank", 1}, {"alpha", 1.0}, {"lora_dropout", 0.25}}, 2001, 1, 0);
    layer.set("lora_a", at::ones({1, 2001}));
    layer.set("lora_b", at::ones({1, 1}));
    const at::Tensor x = at::ones({40, 2001});
    Generator noise(5);
    RouteInput in = layer.input({-1}, 40);
    in.mode = Mode::train;
    in.noise = &noise;
    const at::Tensor y = layer.run(x, in);
    EXPECT_NEAR(y.mean().item<double>() / 2001.0, 1.0, 0.01);
    EXPECT_GT(y.std().item<double>(), 10.0);
    Generator same(5);
    in.noise = &same;
    EXPECT_TRUE(layer.run(x, in).equal(y));
    // Asked twice in one forward (a layer computed again for its gradient), a site answers with the same
    // mask.
    const auto first = layer.adaptation->at(layer.site(), x), second = layer.adaptation->at(layer.site(), x);
    EXPECT_TRUE(first[0].input.equal(second[0].input));
}

TEST(Start, ASiteStartsTheSameWhateverElseIsThere) {
    Layer two(poly_config, 6, 5, 3, 2), one(poly_config, 6, 5, 3, 1);
    EXPECT_TRUE(two.parameter("lora_a").value.equal(one.parameter("lora_a").value));
    EXPECT_FALSE(two.parameter("lora_a", 0).value.equal(two.parameter("lora_a", 1).value));
    Layer other(poly_config, 6, 5, 3, 1, 2);
    EXPECT_FALSE(other.parameter("lora_a").value.equal(one.parameter("lora_a").value));
    EXPECT_LE(one.parameter("logits").value.abs().max().item<double>(), 1e-3);
    EXPECT_GT(one.parameter("logits").value.abs().max().item<double>(), 0.0);
}

TEST(Start, FiveDistributions) {
    const double d = 400, r = 8;
    const std::map<std::string, double> want = {{"kaiming", 1 / std::sqrt(3 * d)},
                                                {"gaussian", 1 / r},
                                                {"polytropon", 1 / (3 * std::sqrt(d))},
                                                {"peft_poly", std::sqrt(4 / (3 * d))},
                                                {"molora", 0.02}};
    for (const auto& [init, std] : want) {
        Layer layer({{"method", "mhr"}, {"init", init}, {"n_splits", 4}}, 400, 4, 1);
        EXPECT_NEAR(layer.parameter("lora_a").value.std().item<double>(), std, 0.03 * std) << init;
        EXPECT_EQ(layer.parameter("lora_b").value.abs().max().item<double>(), 0.0);
    }
}

TEST(Start, PrivateWeightsAreABlockIdentity) {
    Layer layer({{"method", "cpoly"}, {"private_skills", 2}}, 6, 5, 3);
    const at::Tensor c = layer.parameter("specific_weights").value;
    for (int64_t t = 0; t < 3; ++t)
        for (int64_t j = 0; j < 6; ++j) EXPECT_EQ(c[t][j].item<float>(), j / 2 == t ? 0.5f : 0.0f);
}

TEST(Refusal, TasksAndWeights) {
    for (const Json& config : {poly_config, Json{{"method", "cpoly"}}}) {
        Layer layer(config, 6, 4, 3);
        for (const int task : {-1, 3, 1 << 30})
            expect_error([&] { layer.method->adapt(layer.input({0, task}, 1)); }, {"unknown_task", "row 1"});
        RouteInput in = layer.input({0, 1}, 1);
        in.task_ids = {0};
        expect_error([&] { layer.method->adapt(in); }, {"unknown_task"});
        in = layer.input({0}, 1);
        in.weights = {{1.0f}};
        expect_error([&] { layer.method->adapt(in); }, {"invalid_argument", "1 skill weights"});
        in.weights = {std::vector<float>(static_cast<size_t>(layer.method->skill_count()),
                                         std::numeric_limits<float>::quiet_NaN())};
        expect_error([&] { layer.method->adapt(in); }, {"invalid_argument", "finite"});
        expect_error([&] { layer.method->collapse(layer.site(), 3); }, {"unknown_task"});
        expect_error([&] { layer.method->task_weights(-1); }, {"unknown_task"});
    }
}

TEST(Refusal, Configuration) {
    const auto make = [](const Json& config) { return [config] { Layer(config, 12, 10, 2); }; };
    expect_error(
        make({{"method", "polly"}}),
        {"invalid_config", "polly", "lora, lora_set, poly, mhr, cpoly, molora, moelora_task, mor1e"});
    expect_error(make({{"rank", 2}}), {"invalid_config", "method"});
    expect_error(make({{"method", "poly"}, {"skils", 2}}), {"invalid_config", "skils", "n_skills"});
    expect_error(make({{"method", "poly"}, {"rank", 0}}), {"invalid_config", "rank"});
    expect_error(make({{"method", "poly"}, {"rank", "8"}}), {"invalid_config", "rank"});
    expect_error(make({{"method", "mhr"}, {"n_splits", 4}}), {"indivisible_splits", "up_proj"});
    expect_error(make({{"method", "poly"}, {"n_splits", 2}, {"combine", "products"}}),
                 {"products_need_one_split"});
    expect_error(make({{"method", "cpoly"}, {"n_splits", 2}, {"combine", "products"}}),
                 {"products_need_one_split"});
    expect_error(make({{"method", "cpoly"}, {"common_skills", 0}, {"private_skills", 0}}),
                 {"invalid_config"});
    expect_error(make({{"method", "moelora_task"}, {"n_experts", 3}}), {"invalid_config", "n_experts"});
    expect_error(make({{"method", "molora"}, {"n_experts", 4}, {"top_k", 5}}), {"invalid_config", "top_k"});
    expect_error(make({{"method", "lora"}, {"train", "router"}}), {"invalid_config", "train"});
}

TEST(Config, ReturnsToTheSameMethod) {
    for (const std::string& name : method_names()) {
        if (name.starts_with("pemt")) continue;  // needs feed-forwards and a first stage: pemt_stages_test
        Json chosen = {{"method", name}};
        if (name == "task_moe") chosen["expert_kind"] = "lora";  // its default copies a backbone's layers
        Layer layer(chosen, 16, 8, 2);
        const Json config = layer.method->config();
        EXPECT_EQ(config.at("method"), name);
        Layer again(config, 16, 8, 2);
        EXPECT_EQ(again.method->config(), config);
        ASSERT_EQ(again.method->parameters().size(), layer.method->parameters().size());
        for (size_t i = 0; i < layer.method->parameters().size(); ++i)
            EXPECT_TRUE(again.method->parameters()[i].value.equal(layer.method->parameters()[i].value));
        EXPECT_FALSE(method_summary(name).empty());
    }
}

TEST(FewShot, NewRowsAndWhatMoves) {
    Layer layer({{"method", "cpoly"}, {"rank", 2}}, 6, 4, 2);
    layer.randomise(3);
    const at::Tensor x = drawn({1, 6}, 1), before = layer.served(x, {1});
    Generator noise(5);
    layer.method->add_task("uniform", noise);
    EXPECT_LT(largest_difference(layer.served(x, {1}), before), 1e-5);
    const std::vector<float> even = layer.method->task_weights(2);
    ASSERT_EQ(even.size(), 6u);
    for (size_t j = 0; j < 3; ++j) EXPECT_NEAR(even[j], 1.0 / 3, 1e-6);
    EXPECT_EQ(even[5], 1.0f);
    layer.method->add_task("fresh", noise);
    EXPECT_EQ(layer.method->skill_count(), 7);
    expect_error([&] { layer.method->add_task("warm", noise); }, {"invalid_config", "fresh, uniform"});

    for (const Parameter& p : layer.method->parameters()) EXPECT_TRUE(p.trainable && p.value.requires_grad());
    layer.method->set_training("router");
    for (const Parameter& p : layer.method->parameters())
        EXPECT_EQ(p.trainable, p.group != ParameterGroup::skills) << p.name;
    layer.method->set_training("uniform");
    for (const Parameter& p : layer.method->parameters())
        EXPECT_EQ(p.value.requires_grad(), p.group == ParameterGroup::skills) << p.name;
    const std::vector<float> fixed = layer.method->task_weights(0);
    for (size_t j = 0; j < 3; ++j) EXPECT_NEAR(fixed[j], 1.0 / 3, 1e-6);
    EXPECT_EQ(layer.method->config().at("train"), "uniform");
}

TEST(Sharing, TablesPerGranularity) {
    for (const auto& [granularity, tables] : std::map<std::string, int>{{"finegrained", 3},
                                                                        {"blockwise", 3},
                                                                        {"layerwise", 3},
                                                                        {"coderwise", 1},
                                                                        {"coarsegrained", 1}}) {
        Json config = poly_config;
        config["router_granularity"] = granularity;
        Layer layer(config, 6, 5, 2, 3);
        int count = 0;
        for (const Parameter& p : layer.method->parameters()) count += p.group == ParameterGroup::router;
        EXPECT_EQ(count, tables) << granularity;
        Trace trace;
        Generator noise(1);
        layer.method->adapt(training(layer, {0, 1}, noise, &trace));
        EXPECT_EQ(trace[layer.site(0).path]["weights"].equal(trace[layer.site(2).path]["weights"]),
                  tables == 1);
    }
}

TEST(Count, CountsTheTensorsThemselves) {
    Site site;
    site.path = "layer";
    site.d_in = 7;
    site.d_out = 5;
    EXPECT_EQ(parameter_count({{"method", "lora"}, {"rank", 3}}, {site}, 0), 3 * 12);
    EXPECT_EQ(parameter_count({{"method", "poly"}, {"rank", 2}, {"n_skills", 3}}, {site}, 4),
              3 * 2 * 12 + 4 * 3);
    const Json cpoly = {{"method", "cpoly"}, {"rank", 2}};
    EXPECT_EQ(parameter_count(cpoly, {site}, 4), 7 * 2 * 12 + 4 * 3 + 16);
    EXPECT_THROW(recipe_parameter_count("pemt", Json::object()), Error);
}

TEST(Diagnostics, Refusals) {
    EXPECT_THROW(table_diagnostics({}, 1), Error);
    const std::vector<double> three(3, 0.0);
    EXPECT_THROW(table_diagnostics(three, 2), Error);
    EXPECT_THROW(table_diagnostics(three, 0), Error);
    EXPECT_EQ(table_diagnostics(three, 1).usage, 1.0);
}

std::string chosen(const Json& config) {
    std::vector<Site> all;
    for (const char* path : {"model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj",
                             "model.layers.0.mlp.up_proj", "model.layers.1.self_attn.q_proj"}) {
        Site site;
        site.index = static_cast<int>(all.size());
        site.path = path;
        all.push_back(site);
    }
    std::string out;
    for (const Site& site : select_sites(all, config)) out += std::to_string(site.index);
    return out;
}

TEST(Sites, AsPeftChoosesThem) {
    EXPECT_EQ(chosen(Json::object()), "0123");
    EXPECT_EQ(chosen({{"target_modules", "all-linear"}}), "0123");
    EXPECT_EQ(chosen({{"target_modules", "q_proj"}}), "03");
    EXPECT_EQ(chosen({{"target_modules", {"q_proj", "v_proj"}}}), "013");
    EXPECT_EQ(chosen({{"target_modules", {"mlp.up_proj"}}}), "2");
    EXPECT_EQ(chosen({{"target_modules", ".*\\.0\\..*_proj"}}), "012");
    expect_error(
        [] {
            chosen({{"target_modules", {"proj"}}});
        },
        {"invalid_config", "q_proj, up_proj, v_proj"});
    expect_error([] { chosen({{"target_modules", "qproj"}}); }, {"invalid_config", "q_proj"});
    expect_error([] { chosen({{"target_modules", "(q"}}); }, {"invalid_config", "regular expression"});
    expect_error([] { chosen({{"target_modules", 3}}); }, {"invalid_config"});
    expect_error([] { chosen({{"target_modules", Json::array()}}); }, {"invalid_config"});
}

}  // namespace
}  // namespace polyad
