// SPDX-License-Identifier: Apache-2.0
// What the engine does with memory and time: budget, preemption, prefixes, versions, deadlines.
#include <thread>

#include "serving/engine.h"
#include "tiny_skillsets.h"

namespace polyad {
namespace {

void finish(Engine& engine) {
    for (int i = 0; engine.step() > 0; ++i) ASSERT_LT(i, 20000);
}

RequestOptions ids(const std::string& skillset, const std::string& task, std::vector<int32_t> tokens,
                   int max_tokens = 12) {
    RequestOptions out;
    out.skillset = skillset;
    out.task = task;
    out.tokens = std::move(tokens);
    out.sampling.max_tokens = max_tokens;
    out.sampling.ignore_eos = true;
    return out;
}

/// `count` ids that depend on `seed`.
std::vector<int32_t> prompt_of(int count, int seed = 0) {
    std::vector<int32_t> out;
    for (int i = 0; i < count; ++i) out.push_back(3 + (i * 7 + seed * 13) % 240);
    return out;
}

std::vector<int32_t> answer_of(Engine& engine, const RequestOptions& options) {
    const auto request = engine.submit(options);
    finish(engine);
    return request->result().tokens;
}

int64_t page_bytes() {
    return tiny::backbone()->make_cache(1, 32)->bytes_for(1, 0);
}

class EngineMemory : public testing::Test {
  protected:
    void SetUp() override {
        SKIP_WITHOUT_TINY_MODEL();
        data_ = tiny::dataset();
        poly_ = tiny::skillset(tiny::method("poly"), *data_);
        tiny::shake(*poly_, 1);
    }
    std::shared_ptr<Skillset> made(const char* method, uint64_t seed) const {
        auto out = tiny::skillset(tiny::method(method), *data_);
        tiny::shake(*out, seed);
        return out;
    }
    std::shared_ptr<const Dataset> data_;
    std::shared_ptr<Skillset> poly_;
};

TEST_F(EngineMemory, ResidentPairsAnswerAsTheMethodDoes) {
    for (const char* method : {"lora", "poly", "mhr", "cpoly"}) {
        SCOPED_TRACE(method);
        const auto skills = made(method, 7);
        const ServedSkillset served(skills, int64_t{1} << 30);
        const bool needs_task = skills->method().needs_task();
        EXPECT_EQ(served.lora(-1) == nullptr, needs_task);
        ASSERT_NE(served.lora(0), nullptr);
        EXPECT_EQ(served.lora(0) == served.lora(1), !needs_task);
        EXPECT_EQ(served.lora(2), nullptr);
        EXPECT_EQ(ServedSkillset(skills, 1000).lora(0), nullptr);  // too large to be resident
        EXPECT_GT(served.bytes(), ServedSkillset(skills, 1000).bytes());

        Engine engine(tiny::backbone());
        engine.publish("it", *skills);
        for (int task = 0; task < 2; ++task) {
            GenerationInput input;
            input.skillset = skills;
            input.task = task;
            input.prompt = prompt_of(9);
            input.sampling.max_tokens = 12;
            input.sampling.ignore_eos = true;
            EXPECT_EQ(
                answer_of(engine, ids("it", skills->tasks()[static_cast<size_t>(task)].name, input.prompt)),
                generate(tiny::backbone(), {input}).front().tokens);
        }
    }
    const auto tokens = made("molora", 3);
    EXPECT_EQ(ServedSkillset(tokens, int64_t{1} << 30).lora(0), nullptr);
}

TEST_F(EngineMemory, AMixedBatchOfSkillsetsEqualsEachAlone) {
    Engine alone(tiny::backbone()), engine(tiny::backbone(), {.max_batch = 8});
    std::vector<RequestOptions> requests;
    const char* methods[] = {"lora", "poly", "cpoly", "molora", "lora", "mhr"};
    for (int i = 0; i < 6; ++i) {
        const std::string name = text("s", i);
        const auto skills = made(methods[i], static_cast<uint64_t>(20 + i));
        alone.publish(name, *skills);
        engine.publish(name, *skills);
        requests.push_back(ids(name, i % 2 ? "up" : "down", prompt_of(5 + 3 * i, i)));
        if (std::string(methods[i]) == "poly" || std::string(methods[i]) == "lora") {
            requests.push_back(requests.back());  // explicit weights beside a named task of the same skillset
            requests.back().weights.assign(static_cast<size_t>(skills->method().skill_count()), 0.3f);
        }
    }
    requests.push_back(ids("", "", prompt_of(11, 3)));
    std::vector<std::shared_ptr<Request>> together;
    for (const RequestOptions& options : requests) together.push_back(engine.submit(options));
    finish(engine);
    for (size_t i = 0; i < requests.size(); ++i)
        EXPECT_EQ(together[i]->result().tokens, answer_of(alone, requests[i])) << i;
}

TEST_F(EngineMemory, PreemptedRequestsAnswerAsIfNothingHadHappened) {
    const char* methods[] = {"poly", "molora", "orchmoe", "cpoly"};
    Engine free(tiny::backbone(), {.max_batch = 8});
    EngineOptions tight{.max_batch = 8};
    int64_t skills = 0;
    std::vector<std::shared_ptr<Skillset>> sets;
    for (int i = 0; i < 4; ++i) {
        sets.push_back(made(methods[i], static_cast<uint64_t>(40 + i)));
        skills += ServedSkillset(sets.back(), int64_t{1} << 30).bytes();
    }
    tight.memory_budget = skills + 9 * page_bytes();
    Engine engine(tiny::backbone(), tight);
    std::vector<RequestOptions> requests;
    for (int i = 0; i < 4; ++i) {
        free.publish(methods[i], *sets[static_cast<size_t>(i)]);
        engine.publish(methods[i], *sets[static_cast<size_t>(i)]);
    }
    for (int i = 0; i < 12; ++i) {
        requests.push_back(ids(methods[i % 4], i % 2 ? "up" : "down", prompt_of(20 + i, i), 40));
        requests.back().priority = i % 3;
        if (i % 5 == 4) {
            requests.back().sampling.temperature = 0.8f;
            requests.back().sampling.seed = static_cast<uint64_t>(i);
        }
    }
    std::vector<std::shared_ptr<Request>> together;
    for (const RequestOptions& options : requests) together.push_back(engine.submit(options));
    int64_t peak = 0;
    while (engine.step() > 0) {
        const Json memory = engine.stats()["memory"];
        peak = std::max(peak, memory["cache"].get<int64_t>());
        EXPECT_LE(memory["skills"].get<int64_t>() + memory["cache"].get<int64_t>(), tight.memory_budget);
    }
    EXPECT_GT(engine.stats()["preempted"].get<int>(), 0);
    EXPECT_EQ(engine.stats()["finished"], 12);
    EXPECT_GT(peak, 4 * page_bytes());
    for (size_t i = 0; i < requests.size(); ++i)
        EXPECT_EQ(together[i]->result().tokens, answer_of(free, requests[i])) << i;
}

TEST_F(EngineMemory, WhatNeverFitsIsRefusedWithSizes) {
    const int64_t skills = ServedSkillset(poly_, int64_t{1} << 30).bytes();
    Engine engine(tiny::backbone(), {.memory_budget = skills + 2 * page_bytes()});
    EXPECT_EQ(answer_of(engine, ids("", "", prompt_of(100), 20)).size(),
              20u);  // no skillset yet: room enough
    engine.publish("words", *poly_);
    EXPECT_REFUSED(engine.submit(ids("words", "up", prompt_of(60), 20)), Code::out_of_memory,
                   std::to_string(3 * page_bytes()));
    EXPECT_REFUSED(engine.submit(ids("words", "up", prompt_of(60), 20)), Code::out_of_memory,
                   std::to_string(2 * page_bytes()));
    EXPECT_REFUSED(engine.publish("more", *poly_), Code::out_of_memory, std::to_string(skills));
    EXPECT_FALSE(engine.stats()["skillsets"].contains("more"));
    const auto running = engine.submit(ids("words", "up", prompt_of(40), 20));
    engine.step();
    // An accepted request keeps its room: not even a skillset that fits beside the free memory takes it.
    EXPECT_REFUSED(engine.publish("words", *poly_), Code::out_of_memory, "largest request");
    finish(engine);
    EXPECT_EQ(running->result().tokens.size(), 20u);
    EXPECT_REFUSED(Engine(tiny::backbone(), {.memory_budget = -1}), Code::invalid_argument, "memory_budget");
}

TEST_F(EngineMemory, CommonBeginningsAreComputedOnce) {
    Engine engine(tiny::backbone()), plain(tiny::backbone(), {.prefix_cache = false});
    for (Engine* one : {&engine, &plain}) one->publish("words", *poly_);
    std::vector<int32_t> first = prompt_of(100), second = first;
    second[97] ^= 1;  // differs in its fourth page
    for (const auto& prompt : {first, second, first}) {
        const RequestOptions options = ids("words", "up", prompt);
        EXPECT_EQ(answer_of(engine, options), answer_of(plain, options));
    }
    Json stats = engine.stats();
    EXPECT_EQ(stats["prefix_cache"]["hits"], 2);
    EXPECT_EQ(stats["prefix_cache"]["tokens"], 2 * 96);
    EXPECT_EQ(stats["memory"]["cache_shared"], 3 * page_bytes());
    EXPECT_EQ(stats["memory"]["cache"], 3 * page_bytes());
    EXPECT_EQ(plain.stats()["prefix_cache"]["hits"], 0);
    EXPECT_EQ(plain.stats()["memory"]["cache"], 0);

    // A prompt that ends with a page still reads its last token itself.
    const auto whole = engine.submit(ids("words", "up", prompt_of(64)));
    finish(engine);
    EXPECT_EQ(whole->result().cached_tokens, 32);
    EXPECT_EQ(whole->result().tokens, answer_of(plain, ids("words", "up", prompt_of(64))));
    // Rows side by side share while both run.
    const auto a = engine.submit(ids("words", "up", first, 20)),
               b = engine.submit(ids("words", "up", second, 20));
    finish(engine);
    EXPECT_EQ(a->result().tokens, answer_of(plain, ids("words", "up", first, 20)));
    EXPECT_EQ(b->result().tokens, answer_of(plain, ids("words", "up", second, 20)));
}

TEST_F(EngineMemory, NoPrefixIsUsedUnderAnotherRoute) {
    const auto twin = made("poly", 1);  // the same weights, but for one
    auto* weight = static_cast<float*>(twin->method().parameters()[0].value.data_ptr());
    weight[0] = std::nextafter(weight[0], 10.0f);
    twin->method().parameters_changed();
    Engine engine(tiny::backbone());
    engine.publish("one", *poly_);
    engine.publish("twin", *twin);
    engine.publish("tokens", *made("molora", 5));
    engine.publish("orch", *made("orchmoe", 6));
    const auto cached = [&](const RequestOptions& options) {
        const auto request = engine.submit(options);
        finish(engine);
        EXPECT_EQ(request->state(), RequestState::finished);
        return request->result().cached_tokens;
    };
    const auto prompt = prompt_of(70);
    EXPECT_EQ(cached(ids("one", "up", prompt)), 0);
    EXPECT_EQ(cached(ids("twin", "up", prompt)), 0);
    EXPECT_EQ(cached(ids("one", "down", prompt)), 0);
    EXPECT_EQ(cached(ids("", "", prompt)), 0);
    EXPECT_EQ(cached(ids("one", "up", prompt)), 64);
    EXPECT_EQ(cached(ids("twin", "up", prompt)), 64);
    EXPECT_EQ(cached(ids("one", "down", prompt)), 64);
    EXPECT_EQ(cached(ids("", "", prompt)), 64);

    RequestOptions weighted = ids("one", "", prompt);
    weighted.weights.assign(static_cast<size_t>(poly_->method().skill_count()), 0.25f);
    EXPECT_EQ(cached(weighted), 0);
    EXPECT_EQ(cached(weighted), 64);
    weighted.weights[1] = std::nextafter(0.25f, 1.0f);  // the last bit
    EXPECT_EQ(cached(weighted), 0);
    weighted.weights[1] = 0.0f;
    EXPECT_EQ(cached(weighted), 0);
    weighted.weights[1] = -0.0f;
    EXPECT_EQ(cached(weighted), 0);

    // A token's own state is all a token router sees; a router that reads the whole prompt shares nothing.
    EXPECT_EQ(cached(ids("tokens", "up", prompt)), 0);
    EXPECT_EQ(cached(ids("tokens", "up", prompt)), 64);
    EXPECT_EQ(cached(ids("orch", "up", prompt)), 0);
    EXPECT_EQ(cached(ids("orch", "up", prompt)), 0);

    engine.publish("one", *poly_);  // a new version, even of the same values
    EXPECT_EQ(cached(ids("one", "up", prompt)), 0);
}

TEST_F(EngineMemory, VersionsLiveAsLongAsTheirRequests) {
    Engine engine(tiny::backbone(), {.max_batch = 2});
    const auto memory = [&](const char* what) { return engine.stats()["memory"][what].get<int64_t>(); };
    const int64_t one = ServedSkillset(poly_, int64_t{1} << 30).bytes();
    engine.publish("words", *poly_);
    EXPECT_EQ(memory("skills"), one);
    EXPECT_EQ(engine.stats()["skillsets"]["words"]["bytes"], one);
    const auto options = ids("words", "up", prompt_of(40), 8);
    const auto running = engine.submit(options), waiting = engine.submit(options);
    engine.step();
    tiny::shake(*poly_, 5);
    engine.publish("words", *poly_);
    EXPECT_EQ(memory("skills"), 2 * one);
    const auto next = engine.submit(options);
    engine.retire("words");
    EXPECT_EQ(memory("skills"), 2 * one);  // both have requests
    EXPECT_REFUSED(engine.submit(options), Code::not_found, "retired");
    while (running->state() < RequestState::finished || waiting->state() < RequestState::finished)
        engine.step();
    EXPECT_EQ(running->result().tokens, waiting->result().tokens);
    EXPECT_EQ(memory("skills"), one);
    next->cancel();
    finish(engine);
    EXPECT_EQ(memory("skills"), 0);
    EXPECT_EQ(memory("cache"), 0);  // and their prefixes went with them
    EXPECT_EQ(memory("cache_shared"), 0);
}

TEST_F(EngineMemory, MergedWeightsAnswerAsThePairsDo) {
    const auto served = std::make_shared<ServedSkillset>(poly_, int64_t{1} << 30);
    const auto merged = std::make_shared<MergedTask>(served, 1);
    EXPECT_GT(MergedTask::bytes(*served, 1), 0);
    std::vector<std::vector<int32_t>> answers;
    for (const bool merge : {false, true}) {
        GenerationBatch batch(tiny::backbone(), 2, 64);
        if (merge) batch.set_merged(merged);
        std::vector<std::shared_ptr<GenerationRow>> rows;
        for (const int task : {1, 1, 0}) {
            GenerationInput input;
            input.served = served;
            input.skillset = served->shared();
            input.task = task;
            input.prompt = prompt_of(9, static_cast<int>(rows.size()));
            input.sampling.max_tokens = 20;
            input.sampling.ignore_eos = true;
            rows.push_back(std::make_shared<GenerationRow>(*tiny::backbone(), input));
        }
        batch.add(rows[0]);
        batch.add(rows[1]);
        while (!rows[0]->finished()) {
            batch.step();
            EXPECT_EQ(batch.ran_merged(), merge);
        }
        batch.add(rows[2]);  // another task: on its pairs
        while (!rows[2]->finished()) {
            batch.step();
            EXPECT_FALSE(batch.ran_merged());
        }
        for (const auto& row : rows) answers.push_back(row->tokens);
    }
    for (size_t i = 0; i < 3; ++i) EXPECT_EQ(answers[i], answers[i + 3]) << i;
}

/// What decides, fed with made-up times.
TEST_F(EngineMemory, ATaskIsMergedWhileThatPays) {
    const auto served = std::make_shared<ServedSkillset>(poly_, int64_t{1} << 30);
    const int64_t plenty = int64_t{1} << 40;
    const auto wait = [](HotTask& hot) {
        while (!hot.merged()) std::this_thread::yield();
    };
    HotTask hot;
    for (int i = 0; i < HotTask::patience - 1; ++i) hot.stepped(served, 0, 4, 1.0, true, false, plenty);
    EXPECT_EQ(hot.bytes(), 0);
    hot.stepped(nullptr, -1, 4, 1.0, true, false, plenty);  // another row: all over again
    for (int i = 0; i < HotTask::patience - 1; ++i) hot.stepped(served, 0, 4, 1.0, true, false, plenty);
    hot.stepped(served, 0, 4, 1.0, true, false, 1000);  // no room for a copy
    EXPECT_EQ(hot.bytes(), 0);
    hot.stepped(served, 0, 4, 1.0, true, false, plenty);
    EXPECT_EQ(hot.bytes(), MergedTask::bytes(*served, 0));
    wait(hot);
    for (int i = 0; i < 100; ++i) hot.stepped(served, 0, 4, 0.8, true, true, plenty);
    EXPECT_TRUE(hot.merged());
    // Other traffic: given up, and merged again when it is over.
    for (int i = 0; i < HotTask::patience; ++i) hot.stepped(served, 1, 4, 1.0, i % 2, false, plenty);
    EXPECT_FALSE(hot.merged());
    EXPECT_EQ(hot.bytes(), 0);
    for (int i = 0; i < 2 * HotTask::patience; ++i) hot.stepped(served, 0, 4, 1.0, true, false, plenty);
    wait(hot);
    // Not faster any more: given up for good.
    for (int i = 0; i < HotTask::trial; ++i) hot.stepped(served, 0, 4, 0.99, true, true, plenty);
    EXPECT_FALSE(hot.merged());
    for (int i = 0; i < 3 * HotTask::patience; ++i) hot.stepped(served, 0, 4, 1.0, true, false, plenty);
    EXPECT_EQ(hot.bytes(), 0);
}

TEST_F(EngineMemory, AnEngineThatMergesAnswersTheSame) {
    Engine engine(tiny::backbone(), {.merge_hot_task = true}), plain(tiny::backbone());
    for (Engine* one : {&engine, &plain}) one->publish("words", *poly_);
    for (int i = 0; i < 12; ++i)
        for (const char* task : {"up", "up", "up", "down"}) {
            const RequestOptions options = ids("words", task, prompt_of(10, i), 50);
            EXPECT_EQ(answer_of(engine, options), answer_of(plain, options));
        }
}

TEST_F(EngineMemory, RequestsExpire) {
    Engine engine(tiny::backbone(), {.max_batch = 1});
    RequestOptions options = ids("", "", prompt_of(10), 5);
    options.timeout = 1e-9;
    const auto at_once = engine.submit(options);
    EXPECT_EQ(at_once->state(), RequestState::expired);  // whether or not anybody steps
    EXPECT_EQ(at_once->result().reason, FinishReason::expired);
    EXPECT_TRUE(at_once->result().tokens.empty());
    options.timeout = 1e6;
    const auto in_time = engine.submit(options);
    options.sampling.max_tokens = 60;
    options.timeout = 0.05;
    const auto too_long = engine.submit(options);
    while (in_time->state() < RequestState::finished) engine.step();
    EXPECT_EQ(in_time->state(), RequestState::finished);
    engine.step();
    std::this_thread::sleep_for(std::chrono::milliseconds(60));
    finish(engine);
    EXPECT_EQ(too_long->state(), RequestState::expired);
    EXPECT_LT(too_long->result().tokens.size(), 60u);
    EXPECT_EQ(engine.stats()["expired"], 2);
    EXPECT_EQ(engine.stats()["finished"], 1);
    for (const double bad : {-1.0, 1e300, std::nan("")}) {
        options.timeout = bad;
        EXPECT_REFUSED(engine.submit(options), Code::invalid_argument, "timeout");
    }
}

TEST_F(EngineMemory, UrgentRequestsGoFirstAndTasksTakeTurns) {
    Engine engine(tiny::backbone(), {.max_batch = 1});
    engine.publish("words", *poly_);
    std::vector<std::pair<std::string, std::shared_ptr<Request>>> all;
    const auto submit = [&](const std::string& name, const std::string& task, int priority) {
        RequestOptions options = ids("words", task, prompt_of(96), 32);
        options.priority = priority;
        all.emplace_back(name, engine.submit(options));
    };
    for (int i = 0; i < 6; ++i) submit(text("up", i), "up", 0);
    submit("down0", "down", 0);
    submit("urgent", "up", 1);
    std::vector<std::string> order;
    while (engine.step() > 0)
        for (auto& [name, request] : all)
            if (request->state() == RequestState::finished &&
                std::find(order.begin(), order.end(), name) == order.end())
                order.push_back(name);
    for (auto& [name, request] : all)
        if (std::find(order.begin(), order.end(), name) == order.end()) order.push_back(name);
    ASSERT_EQ(order.size(), 8u);
    EXPECT_EQ(order[0], "urgent");
    EXPECT_EQ(order[1], "up0");
    EXPECT_EQ(order[4], "up3");  // 4 x 128 tokens are up's turn
    EXPECT_EQ(order[5], "down0");
    EXPECT_EQ(order[7], "up5");
}

}  // namespace
}  // namespace polyad
