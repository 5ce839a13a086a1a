// SPDX-License-Identifier: Apache-2.0
#include "routing/derive.h"

#include <ATen/TensorOperators.h>

#include "serving/generate.h"
#include "tiny_skillsets.h"
#include "training/trainer.h"

namespace polyad {
namespace {

Json moe(const char* kind, const Json& more = Json::object()) {
    Json config = tiny::method("task_moe");
    config.erase("rank");
    if (std::string(kind) == "lora") config["rank"] = 4;
    config["expert_kind"] = kind;
    config["task_vec_dim"] = 8;
    config["router_hidden"] = 4;
    config.update(more);
    return config;
}

std::vector<int32_t> answer(const std::shared_ptr<const Skillset>& skills, int task) {
    GenerationInput row;
    row.skillset = skills;
    row.task = task;
    row.prompt = {3, 4, 5, 6};
    row.sampling.max_tokens = 10;
    row.sampling.ignore_eos = true;
    return generate(tiny::backbone(), {row}).front().tokens;
}

const at::Tensor& value(const Skillset& skills, const std::string& name) {
    for (const Parameter& p : skills.method().parameters())
        if (p.name == name) return p.value;
    fail(Code::not_found, name);
}

TEST(FewShot, SqueezingKeepsTheChosenExperts) {
    SKIP_WITHOUT_TINY_MODEL();
    const auto data = tiny::dataset();
    for (const char* kind : {"lora", "layer"}) {
        SCOPED_TRACE(kind);
        const auto skills = tiny::skillset(moe(kind), *data);
        tiny::shake(*skills, 1, std::string(kind) == "layer" ? 0.05 : 0.5);
        for (int task = 0; task < 2; ++task) {
            const auto plain = for_few_shot(*skills, task, "squeeze");
            ASSERT_EQ(plain->tasks().size(), 1u);
            EXPECT_EQ(plain->tasks()[0].name, skills->tasks()[static_cast<size_t>(task)].name);
            // The argmax route is what was kept: the same answers.
            EXPECT_EQ(answer(plain, 0), answer(skills, task));
            EXPECT_EQ(plain->config().at("method"), std::string(kind) == "lora" ? "lora" : "task_moe");
            Trainer trainer(
                plain,
                tiny::dataset(plain->tasks()[0].name == "up"
                                  ? R"({"task": "up", "input": "a", "output": "up", "split": "train"})"
                                  : R"({"task": "down", "input": "a", "output": "down", "split": "train"})"),
                {{"max_steps", 2}, {"validation_examples", 0}});
            while (!trainer.progress().done) trainer.step();  // it can be trained further
        }
        EXPECT_REFUSED(for_few_shot(*skills, 2, "squeeze"), Code::unknown_task, "2 tasks");
        EXPECT_REFUSED(for_few_shot(*skills, 0, "press"), Code::invalid_config, "keep_moe_route");
    }
}

TEST(FewShot, OtherMethodsSqueezeToTheirMixture) {
    SKIP_WITHOUT_TINY_MODEL();
    const auto data = tiny::dataset();
    for (const char* method : {"poly", "cpoly"}) {
        const auto skills = tiny::skillset(tiny::method(method), *data);
        tiny::shake(*skills, 2);
        EXPECT_EQ(answer(for_few_shot(*skills, 1, "squeeze"), 0), answer(skills, 1)) << method;
        EXPECT_REFUSED(for_few_shot(*skills, 1, "avg"), Code::unsupported, "task vectors");
    }
    const auto token = tiny::skillset(tiny::method("molora"), *data);
    EXPECT_REFUSED(for_few_shot(*token, 1, "squeeze"), Code::unsupported, "task alone");
}

TEST(FewShot, KeepsTheRouteOrTakesTheAverage) {
    SKIP_WITHOUT_TINY_MODEL();
    const auto data = tiny::dataset();
    const auto skills = tiny::skillset(moe("lora"), *data);
    tiny::shake(*skills, 3);
    const auto kept = for_few_shot(*skills, 0, "keep_moe_route");
    EXPECT_EQ(answer(kept, 0), answer(skills, 0));
    for (const Parameter& p : kept->method().parameters())
        EXPECT_EQ(p.trainable, p.group == ParameterGroup::skills) << p.name;
    const auto even = for_few_shot(*skills, 0, "avg");
    for (const float weight : even->method().task_weights(1)) EXPECT_NEAR(weight, 1.0f / 3, 1e-6);
    const std::string path = even->sites()[0].path + ".lora_b";
    EXPECT_TRUE(value(*even, path).equal(value(*skills, path)));
}

TEST(SecondStage, KeepsTheRouterAndStartsExpertsAgain) {
    SKIP_WITHOUT_TINY_MODEL();
    const auto data = tiny::dataset();
    const auto fresh = tiny::skillset(moe("lora"), *data), first = tiny::skillset(moe("lora"), *data);
    tiny::shake(*first, 4);
    const auto second = second_stage(*first, {{"tau_rate", 0.5}});
    for (const Parameter& p : second->method().parameters()) {
        const bool expert = p.group == ParameterGroup::skills;
        EXPECT_EQ(p.trainable, expert) << p.name;
        if (p.name == "router_steps") continue;
        EXPECT_TRUE(p.value.equal(value(expert ? *fresh : *first, p.name))) << p.name;
    }
    EXPECT_EQ(second->config().at("tau"), 300.0);
    // From almost even to the learned soft route.
    for (const float weight : second->method().task_weights(0)) EXPECT_NEAR(weight, 1.0f / 3, 0.02);
    const std::string router = tiny::weights(*second);
    Trainer trainer(second, data, {{"max_steps", 20}, {"validation_examples", 0}, {"batch_size", 2}});
    while (!trainer.progress().done) trainer.step();
    EXPECT_NE(tiny::weights(*second), router);
    double spread = 0.0;
    for (const float weight : second->method().task_weights(0)) spread += std::abs(weight - 1.0f / 3);
    EXPECT_GT(spread, 0.05);
    EXPECT_REFUSED(second_stage(*tiny::skillset(tiny::method("poly"), *data)), Code::unsupported, "router");
}

TEST(Derive, ACopyKeepsTheTensorsUnderOtherRoutes) {
    SKIP_WITHOUT_TINY_MODEL();
    const auto skills = tiny::skillset(moe("lora"), *tiny::dataset());
    tiny::shake(*skills, 5);
    const auto copy = derive(*skills, {{"changes", {{"eval_route", "softmax"}, {"tau_min", 1.0}}}});
    EXPECT_EQ(tiny::weights(*copy), tiny::weights(*skills));
    EXPECT_EQ(copy->config().at("eval_route"), "softmax");
    EXPECT_NE(copy->method().task_weights(0), skills->method().task_weights(0));
    EXPECT_REFUSED(derive(*skills, {{"changes", {{"rank", 8}}}}), Code::invalid_config, "lora_a");
    EXPECT_REFUSED(derive(*skills, {{"changes", {{"rnk", 8}}}}), Code::invalid_config, "rnk");
    EXPECT_REFUSED(derive(*skills, {{"form", "press"}}), Code::invalid_config, "squeeze");
    EXPECT_REFUSED(derive(*skills, {{"form", "squeeze"}}), Code::invalid_config, "task");
    EXPECT_REFUSED(derive(*skills, {{"form", "squeeze"}, {"task", "sideways"}}), Code::unknown_task, "'up'");
    EXPECT_REFUSED(derive(*skills, {{"form", "avg"}, {"changes", {{"tau", 2}}}}), Code::invalid_config,
                   "changes");
}

TEST(Derive, ADisabledExpertIsOnNoRoute) {
    SKIP_WITHOUT_TINY_MODEL();
    const auto skills = tiny::skillset(moe("lora", {{"select", "softmax"}}), *tiny::dataset());
    tiny::shake(*skills, 6);
    Json off = Json::array();
    for (int layer = 0; layer < skills->backbone()->info().layers; ++layer) off.push_back({layer, 1});
    const auto without = derive(*skills, {{"changes", {{"disabled_experts", off}}}});
    EXPECT_GT(skills->method().task_weights(0)[1], 0.01f);
    EXPECT_EQ(without->method().task_weights(0)[1], 0.0f);
    EXPECT_NE(answer(without, 0), answer(skills, 0));
    EXPECT_REFUSED(derive(*skills, {{"changes", {{"disabled_experts", {{0, 3}}}}}}), Code::invalid_config,
                   "disabled_experts");
}

}  // namespace
}  // namespace polyad
