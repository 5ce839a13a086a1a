// SPDX-License-Identifier: Apache-2.0
#include "evaluation/routing_statistics.h"

#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <cmath>

#include "base/log.h"
#include "routing/diagnostics.h"
#include "tiny_skillsets.h"

namespace polyad {
namespace {

Parameter& parameter(Skillset& skillset, const std::string& name) {
    for (Parameter& p : skillset.method().parameters())
        if (p.name == name) return p;
    fail(Code::not_found, name);
}

/// One table for all sites with these logits.
void set_table(Skillset& skillset, const std::vector<float>& logits) {
    const at::NoGradGuard no_gradients;
    Parameter& table = parameter(skillset, "router.logits");
    ASSERT_EQ(static_cast<size_t>(table.value.numel()), logits.size());
    std::copy(logits.begin(), logits.end(), table.value.mutable_data_ptr<float>());
    skillset.method().parameters_changed();
}

std::shared_ptr<Skillset> poly_with_one_table(int skills) {
    Json config = tiny::method("poly");
    config["n_skills"] = skills;
    config["router_granularity"] = "coarsegrained";
    return tiny::skillset(config, *tiny::dataset());
}

TEST(RoutingStatistics, ReadsTablesByHand) {
    SKIP_WITHOUT_TINY_MODEL();
    const auto skills = poly_with_one_table(3);
    const float on = 40.0f, off = -40.0f;
    set_table(*skills, {on, off, off, on, on, off});  // down uses skill 0; up uses 0 and 1
    const Json s = routing_statistics(*skills, nullptr);
    EXPECT_EQ(s["source"], "tables");
    EXPECT_EQ(s["skills"], 3);
    const Json& all = s["overall"];
    EXPECT_NEAR(all["load"][0].get<double>(), 0.75, 1e-6);
    EXPECT_NEAR(all["load"][1].get<double>(), 0.25, 1e-6);
    EXPECT_EQ(all["dead"], Json::array({2}));
    EXPECT_NEAR(all["usage"].get<double>(), -(0.75 * std::log(0.75) + 0.25 * std::log(0.25)) / std::log(3.0),
                1e-6);
    EXPECT_NEAR(all["entropy"].get<double>(), 0.5 * std::log(2.0) / std::log(3.0), 1e-6);
    EXPECT_NEAR(all["discreteness"].get<double>(), 0.0, 1e-6);
    EXPECT_NEAR(all["sparsity"].get<double>(), 0.5, 1e-6);
    EXPECT_NEAR(s["distance"][0][1].get<double>(), 0.5, 1e-6);
    EXPECT_NEAR(s["linkage"][0]["height"].get<double>(), 0.5, 1e-6);
    EXPECT_TRUE(s["collapsed"].empty());
    ASSERT_EQ(s["tasks"].size(), 2u);
    EXPECT_EQ(s["tasks"][0]["name"], "down");
    EXPECT_NEAR(s["tasks"][1]["weights"][1].get<double>(), 0.5, 1e-6);
    for (const Json& group : s["groups"]) {
        EXPECT_EQ(group["weights"].size(), 2u);
        EXPECT_NEAR(group["weights"][0][0].get<double>(), 1.0, 1e-6);
    }
}

TEST(RoutingStatistics, ComparesRoutesWithWhatPeopleKnow) {
    SKIP_WITHOUT_TINY_MODEL();
    const auto skills = poly_with_one_table(3);
    const float on = 40.0f, off = -40.0f;
    set_table(*skills, {on, off, off, on, on, off});  // down uses skill 0; up uses 0 and 1
    const auto with = [](const Json& features) {
        return RoutingOptions::from_json({{"features", features}});
    };
    const Json s = routing_statistics(*skills, nullptr, with({{"goes up", {{"up", 1}}}}));
    ASSERT_EQ(s["features"].size(), 1u);
    EXPECT_EQ(s["features"][0]["name"], "goes up");
    for (const Json& layer : s["features"][0]["layers"]) {
        EXPECT_NEAR(layer["correlation"][0].get<double>(), -1.0, 1e-9);
        EXPECT_NEAR(layer["correlation"][1].get<double>(), 1.0, 1e-9);
    }
    EXPECT_FALSE(routing_statistics(*skills, nullptr).contains("features"));
    EXPECT_REFUSED(routing_statistics(*skills, nullptr, with({{"x", {{"sideways", 1}}}})), Code::unknown_task,
                   "'up'");
    EXPECT_REFUSED(with({{"x", 3}}), Code::invalid_config, "{task: number}");
    EXPECT_REFUSED(with({{"x", {{"up", "yes"}}}}), Code::invalid_config, "no number");
    const auto molora = tiny::skillset(tiny::method("molora"), *tiny::dataset());
    EXPECT_REFUSED(
        routing_statistics(*molora, tiny::dataset().get(),
                           [] {
                               Json options = {{"features", {{"x", {{"up", 1}}}}}, {"split", "train"}};
                               return RoutingOptions::from_json(options);
                           }()),
        Code::unsupported, "does not route by task");
}

TEST(RoutingStatistics, GateMeasuresAreThoseOfTheTable) {
    SKIP_WITHOUT_TINY_MODEL();
    const auto skills = poly_with_one_table(3);
    const std::vector<float> logits = {0.3f, -1.0f, 2.0f, 0.7f, -0.2f, -2.0f};
    set_table(*skills, logits);
    const std::vector<double> wide(logits.begin(), logits.end());
    const TableDiagnostics want = table_diagnostics(wide, 3);
    const Json s = routing_statistics(*skills, nullptr);
    EXPECT_NEAR(s["overall"]["discreteness"].get<double>(), want.discreteness, 1e-5);
    EXPECT_NEAR(s["overall"]["sparsity"].get<double>(), want.sparsity, 1e-6);
}

TEST(RoutingStatistics, SaysWhenRoutingCollapses) {
    SKIP_WITHOUT_TINY_MODEL();
    const auto skills = poly_with_one_table(4);
    std::vector<std::string> said;
    set_log_sink([&](LogLevel level, std::string_view message) {
        if (level == LogLevel::warning) said.emplace_back(message);
    });
    warn_if_routing_collapsed(*skills);
    EXPECT_TRUE(said.empty()) << "an even start is no collapse";
    const float on = 40.0f, off = -40.0f;
    set_table(*skills, {on, off, off, off, on, off, off, off});
    warn_if_routing_collapsed(*skills);
    const Json s = routing_statistics(*skills, nullptr);
    set_log_sink({});
    ASSERT_EQ(said.size(), 2u);
    EXPECT_NE(said[0].find("3 of 4 skills"), std::string::npos) << said[0];
    EXPECT_EQ(s["collapsed"], Json::array({"dead_skills", "low_usage"}));
    EXPECT_EQ(s["overall"]["dead"], Json::array({1, 2, 3}));
}

TEST(RoutingStatistics, CPolyCountsPrivateSkillsAndWhatIsActive) {
    SKIP_WITHOUT_TINY_MODEL();
    Json config = tiny::method("cpoly");
    config["specific_routing"] = "one_hot";
    const auto skills = tiny::skillset(config, *tiny::dataset());
    const Json s = routing_statistics(*skills, nullptr);
    ASSERT_EQ(s["skills"], 4) << "two common ones and one of each task";
    EXPECT_NEAR(s["tasks"][0]["weights"][2].get<double>(), 1.0, 1e-6);
    EXPECT_NEAR(s["tasks"][0]["weights"][3].get<double>(), 0.0, 1e-6);
    EXPECT_TRUE(s["overall"]["dead"].empty()) << "a private skill is used by its task";
    EXPECT_LT(s["distance"][0][1].get<double>(), 1e-3)
        << "common skills start alike; private ones do not count";
    double expected = 0.0;
    for (const Site& site : skills->sites())
        expected += 3.0 * 4.0 * static_cast<double>(site.d_in + site.d_out) + 2.0;  // rank 4; one table row
    EXPECT_DOUBLE_EQ(s["active_parameters"].get<double>(), expected);
}

TEST(RoutingStatistics, RunsRowsOfTokenRoutedMethods) {
    SKIP_WITHOUT_TINY_MODEL();
    Json config = tiny::method("molora");
    config["n_experts"] = 4;
    config["top_k"] = 1;
    const auto data = tiny::dataset();
    const auto skills = tiny::skillset(config, *data);
    EXPECT_REFUSED(routing_statistics(*skills, nullptr), Code::invalid_argument, "dataset");
    RoutingOptions options;
    options.split = Split::train;
    options.batch_size = 2;
    const Json s = routing_statistics(*skills, data.get(), options);
    EXPECT_EQ(s["source"], "rows");
    EXPECT_EQ(s["rows"], 5);
    double load = 0.0;
    for (const Json& l : s["overall"]["load"]) load += l.get<double>();
    EXPECT_NEAR(load, 1.0, 1e-9);
    EXPECT_NEAR(s["overall"]["entropy"].get<double>(), 0.0, 1e-9) << "every token uses one expert";
    double quarter = 0.0;
    for (const Site& site : skills->sites())
        quarter += 4.0 * static_cast<double>(site.d_in + site.d_out) + 4.0 * static_cast<double>(site.d_in);
    EXPECT_DOUBLE_EQ(s["active_parameters"].get<double>(), quarter) << "one expert of rank 4, and the router";
    EXPECT_EQ(s["skill_examples"].size(), 4u);
    EXPECT_EQ(s["skill_examples"][0]["examples"].size(), 3u);

    options.batch_size = 5;
    const Json together = routing_statistics(*skills, data.get(), options);
    for (size_t j = 0; j < 4; ++j)
        EXPECT_NEAR(together["overall"]["load"][j].get<double>(), s["overall"]["load"][j].get<double>(), 1e-6)
            << "the batch a row is in does not matter";
    options.split = Split::test;
    EXPECT_REFUSED(routing_statistics(*skills, data.get(), options), Code::bad_data, "test");
    options.tasks = {"sideways"};
    EXPECT_REFUSED(routing_statistics(*skills, data.get(), options), Code::unknown_task, "sideways");
}

TEST(RoutingStatistics, EveryMethodHasThem) {
    SKIP_WITHOUT_TINY_MODEL();
    const auto data = tiny::dataset();
    RoutingOptions options;
    options.split = Split::train;
    int counted = 0;
    for (const std::string& name : method_names()) {
        std::shared_ptr<Skillset> skills;
        try {
            skills = tiny::skillset({{"method", name}, {"prompt", tiny::method("lora")["prompt"]}}, *data);
        } catch (const Error& e) {
            // Methods that cannot start on these tasks with defaults alone say what they need.
            EXPECT_TRUE(e.code() == Code::invalid_config || e.code() == Code::invalid_argument ||
                        e.code() == Code::unsupported)
                << name << ": " << e.what();
            continue;
        }
        const Json s = routing_statistics(*skills, data.get(), options);
        ++counted;
        EXPECT_EQ(s["tasks"].size(), 2u) << name;
        EXPECT_GT(s["active_parameters"].get<double>(), 0.0) << name;
        double load = 0.0;
        for (const Json& l : s["overall"]["load"]) load += l.get<double>();
        EXPECT_NEAR(load, 1.0, 1e-6) << name;
    }
    EXPECT_GE(counted, 5);
}

TEST(RoutingStatistics, RefusesUnknownOptions) {
    EXPECT_REFUSED(RoutingOptions::from_json({{"splits", "test"}}), Code::invalid_config, "splits");
    EXPECT_REFUSED(RoutingOptions::from_json({{"dead_below", 2}}), Code::invalid_config, "dead_below");
    EXPECT_EQ(RoutingOptions::from_json({{"split", "train"}}).split, Split::train);
}

}  // namespace
}  // namespace polyad
