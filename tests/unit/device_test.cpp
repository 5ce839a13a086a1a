// SPDX-License-Identifier: Apache-2.0
// A device whose memory is used up: an error that names sizes, nothing half done, and everything goes on once
// there is memory again. Streams: everything is queued on the one that was given. On the tests' own device,
// which has as much memory as they say.
#include "backbone/device.h"

#include <ATen/TensorOperators.h>

#include <cmath>

#include "backbone/device_error.h"
#include "backbone/kv_cache.h"
#include "device/shadow_device.h"
#include "device/shadow_memory.h"
#include "device/shadow_ops.h"
#include "device/shadow_recorder.h"
#include "serving/engine.h"
#include "tiny_skillsets.h"
#include "training/trainer.h"

namespace polyad {
namespace {

class DeviceMemory : public testing::Test {
  protected:
    void SetUp() override {
        SKIP_WITHOUT_TINY_MODEL();
        BackboneOptions options;
        options.precision = Precision::fp32;
        options.device = shadow_device();
        model_ = Backbone::open(tiny::model(), options);
        data_ = tiny::dataset();
        Json config = tiny::method("poly");
        const auto seed = tiny::skillset(config, *data_);
        tiny::shake(*seed, 1);
        bundle_ = Bytes::copy_of(seed->save_to_memory(), "bundle");
    }
    void TearDown() override { set_shadow_memory(0); }

    static RequestOptions ask(const char* task, int prompt, int tokens) {
        RequestOptions out;
        out.skillset = "words";
        out.task = task;
        for (int i = 0; i < prompt; ++i) out.tokens.push_back(20 + i);
        out.sampling.max_tokens = tokens;
        out.sampling.ignore_eos = true;
        return out;
    }
    static void finish(Engine& engine) {
        for (int i = 0; engine.step() > 0; ++i) ASSERT_LT(i, 2000);
    }
    static std::vector<int32_t> answer(Engine& engine, const RequestOptions& options) {
        const auto request = engine.submit(options);
        finish(engine);
        return request->result().tokens;
    }
    /// What the request failed with, empty when it did not.
    static std::string failure(const Request& request) {
        try {
            request.result();
        } catch (const Error& e) {
            EXPECT_EQ(e.code(), Code::out_of_memory) << e.what();
            return e.what();
        } catch (const std::exception& e) {  // the C API makes this OUT_OF_MEMORY
            return out_of_device_memory(e);
        }
        return {};
    }

    std::shared_ptr<const Backbone> model_;
    std::shared_ptr<const Dataset> data_;
    Bytes bundle_;
};

TEST_F(DeviceMemory, RequestsFailAloneAndTheEngineGoesOn) {
    EngineOptions options;
    options.prefix_cache = false;
    Engine engine(model_, options);
    engine.publish("words", Skillset::load(model_, bundle_));
    const RequestOptions one = ask("up", 40, 30);
    const std::vector<int32_t> wanted = answer(engine, one);
    const size_t used = shadow_memory_used();
    int failed = 0, finished = 0;
    for (size_t more = 0; finished == 0; more += 16384) {
        set_shadow_memory(used + more);
        const auto request = engine.submit(one);
        finish(engine);
        if (request->state() == RequestState::finished) {
            EXPECT_EQ(request->result().tokens, wanted);
            ++finished;
        } else {
            ASSERT_EQ(request->state(), RequestState::failed);
            const std::string why = failure(*request);
            EXPECT_NE(why.find("Tried to allocate"), std::string::npos) << why;
            EXPECT_NE(why.find(" bytes are free"), std::string::npos) << why;
            ++failed;
        }
        set_shadow_memory(0);
        EXPECT_EQ(answer(engine, one), wanted) << "after " << more;
        ASSERT_LT(failed, 1000);
    }
    EXPECT_GT(failed, 3);  // the cache, activations of the prompt, logits
}

TEST_F(DeviceMemory, ACacheWithoutRoomIsAsItWas) {
    const auto made = model_->make_cache(1, 128);
    auto& cache = dynamic_cast<DecoderCache&>(*made);
    ASSERT_TRUE(cache.reserve(0, 40));
    cache.grow(0, 40);
    const size_t page = static_cast<size_t>(cache.pool().page_bytes());
    set_shadow_memory(shadow_memory_used() + 2 * page - 1);
    EXPECT_FALSE(cache.reserve(0, 80));  // two pages more
    EXPECT_EQ(cache.pages(0).size(), 2u);
    EXPECT_EQ(cache.length(0), 40);
    const std::string why = cache.pool().refusal();
    EXPECT_NE(why.find(text("Tried to allocate ", page, " bytes")), std::string::npos) << why;
    EXPECT_TRUE(cache.reserve(0, 40));  // one is there
    set_shadow_memory(0);
    cache.pool().set_limit(cache.pool().bytes());
    EXPECT_FALSE(cache.reserve(0, 80));
    EXPECT_NE(cache.pool().refusal().find("may take"), std::string::npos) << cache.pool().refusal();
    cache.pool().set_limit(cache.pool().bytes() + static_cast<int64_t>(page));
    EXPECT_TRUE(cache.reserve(0, 80));
}

TEST_F(DeviceMemory, AStepThatFailsIsAsIfItHadNotBegun) {
    const Json training = {{"max_steps", 3},
                           {"batch_size", 4},
                           {"learning_rate", 0.01},
                           {"validation_examples", 0},
                           {"gradient_accumulation", 1}};
    const auto whole = Skillset::load(model_, bundle_), hampered = Skillset::load(model_, bundle_);
    Trainer wanted(whole, data_, training), trainer(hampered, data_, training);
    int failed = 0;
    for (int step = 0; step < 3; ++step) {
        const Progress want = wanted.step();
        const size_t used = shadow_memory_used();
        for (size_t more = 0;; more += 8192) {
            ASSERT_LT(more, size_t{1} << 28);
            set_shadow_memory(used + more);
            try {
                const Progress got = trainer.step();
                EXPECT_EQ(got.loss, want.loss);
                EXPECT_EQ(got.gradient_norm, want.gradient_norm);
                break;
            } catch (const std::exception& e) {
                const std::string why = out_of_device_memory(e);
                ASSERT_NE(why.find("Tried to allocate"), std::string::npos) << e.what();
                ++failed;
            }
        }
        set_shadow_memory(0);
    }
    EXPECT_GT(failed, 10);
    const auto &left = whole->method().parameters(), &right = hampered->method().parameters();
    for (size_t i = 0; i < left.size(); ++i)
        EXPECT_TRUE(on_host(left[i].value.detach()).equal(on_host(right[i].value.detach()))) << left[i].name;
}

TEST_F(DeviceMemory, AnUpdateThatCouldNotBeQueuedIsNoStep) {
    const Json training = {
        {"max_steps", 4}, {"batch_size", 3}, {"learning_rate", 0.01}, {"validation_examples", 0}};
    const auto whole = Skillset::load(model_, bundle_), hampered = Skillset::load(model_, bundle_);
    Trainer wanted(whole, data_, training), trainer(hampered, data_, training);
    for (int step = 0; step < 4; ++step) {
        const Progress want = wanted.step();
        for (const auto& [text, code] :
             {std::pair("adamw_many: CUDA: out of memory (cudaErrorMemoryAllocation)", Code::out_of_memory),
              std::pair("adamw_many: CUDA: an illegal memory access was encountered", Code::internal)}) {
            set_shadow_failure(text);
            EXPECT_REFUSED(trainer.step(), code, text);
        }
        set_shadow_failure("");
        const Progress got = trainer.step();
        EXPECT_EQ(got.step, want.step);
        EXPECT_EQ(got.loss, want.loss);
    }
    const auto &left = whole->method().parameters(), &right = hampered->method().parameters();
    for (size_t i = 0; i < left.size(); ++i)
        EXPECT_TRUE(on_host(left[i].value.detach()).equal(on_host(right[i].value.detach()))) << left[i].name;
}

TEST(DeviceErrors, OutOfMemoryIsToldFromOtherFaults) {
    for (const char* full :
         {"out of device memory: an operator's scratch memory of 3 MiB is wanted, 1 of 9 MiB are free",
          "sample: CUDA: out of memory (cudaErrorMemoryAllocation)"})
        EXPECT_EQ(code_of_device_error(full), Code::out_of_memory) << full;
    for (const char* other : {"add: CUDA: an illegal memory access was encountered (cudaErrorIllegalAddress)",
                              "a kernel needs 99 KiB of shared memory, this device has 48 for it"})
        EXPECT_EQ(code_of_device_error(other), Code::internal) << other;
}

TEST_F(DeviceMemory, WhatWasGivenUpIsNotBlamedOnWhatFollows) {
    const auto skills = Skillset::load(model_, bundle_);
    Trainer trainer(skills, data_, {{"max_steps", 2}, {"batch_size", 3}, {"validation_examples", 0}});
    leave_shadow_error("a kernel of the step that is given up");
    set_shadow_memory(1);
    try {
        trainer.step();
        ADD_FAILURE() << "there was no memory";
    } catch (const std::exception& e) {
        EXPECT_FALSE(out_of_device_memory(e).empty()) << e.what();
    }
    set_shadow_memory(0);
    EXPECT_EQ(trainer.step().step, 1);

    Engine engine(model_);
    engine.publish("words", *skills);
    const RequestOptions one = ask("up", 40, 5);
    const std::vector<int32_t> wanted = answer(engine, one);
    leave_shadow_error("a kernel of the request that fails");
    set_shadow_memory(1);
    const auto request = engine.submit(one);
    finish(engine);
    EXPECT_EQ(request->state(), RequestState::failed);
    EXPECT_FALSE(failure(*request).empty());
    set_shadow_memory(0);
    EXPECT_EQ(answer(engine, one), wanted);

    leave_shadow_error("a kernel of anything else");
    EXPECT_ANY_THROW({
        const DeviceScope scope(shadow_device());
        throw std::runtime_error("given up");
    });
    EXPECT_NO_THROW(check_device(shadow_device()));
    leave_shadow_error("a kernel of what went on");
    { const DeviceScope scope(shadow_device()); }
    EXPECT_ANY_THROW(check_device(shadow_device()));
}

TEST_F(DeviceMemory, TheHostWaitsForWhatItNeedsAlone) {
    const auto copies = [](const auto& run) {
        take_shadow_waits();
        run();
        return take_shadow_waits();
    };
    const Json methods = {{{"method", "lora"}},
                          {{"method", "lora"}, {"lora_dropout", 0.25}},
                          {{"method", "molora"}, {"n_experts", 4}},
                          {{"method", "molora"}, {"n_experts", 4}, {"balance_loss", 0.1}},
                          {{"method", "poly"}},
                          {{"method", "mhr"}, {"n_splits", 4}},
                          {{"method", "cpoly"}, {"common_skills", 2}},
                          {{"method", "orchmoe"}},
                          {{"method", "xlora"}, {"n_experts", 3}, {"xlora_depth", 2}, {"xlora_size", 16}},
                          {{"method", "task_moe"}, {"expert_kind", "lora"}}};
    for (const Json& options : methods) {
        SCOPED_TRACE(options.dump());
        Json config = tiny::method("lora");
        config.update(options);
        const auto skills = tiny::skillset(config, *data_);
        const auto there = Skillset::load(model_, Bytes::copy_of(skills->save_to_memory(), "bundle"));
        Trainer trainer(there, data_, {{"max_steps", 3}, {"batch_size", 3}, {"validation_examples", 0}});
        trainer.step();
        EXPECT_EQ(copies([&] { trainer.step(); }), 1);  // the loss
    }
    Engine engine(model_);
    engine.publish("words", Skillset::load(model_, bundle_));
    std::vector<std::shared_ptr<Request>> requests;
    for (const char* task : {"up", "down"}) requests.push_back(engine.submit(ask(task, 5, 20)));
    for (int step = 0; step < 12; ++step) engine.step();
    EXPECT_EQ(copies([&] { engine.step(); }), 1);  // the logits, here without a sampling kernel
    EXPECT_GT(engine.stats().at("graph_steps"), 0);
    finish(engine);
}

TEST_F(DeviceMemory, EverythingIsQueuedOnTheStreamThatWasGiven) {
    const int first = 0, second = 0;
    const auto id = [](const int& at) { return static_cast<int64_t>(reinterpret_cast<intptr_t>(&at)); };
    const auto train_and_serve = [&] {
        const auto skills = Skillset::load(model_, bundle_);
        Trainer trainer(skills, data_, {{"max_steps", 2}, {"batch_size", 2}, {"validation_examples", 1}});
        while (!trainer.step().done) {
        }
        EngineOptions options;
        options.merge_hot_task = true;
        Engine engine(model_, options);
        engine.publish("words", *skills);
        // Long enough for the task to be merged into the weights beside the steps.
        EXPECT_EQ(answer(engine, ask("up", 5, 110)).size(), 110u);
        EXPECT_GT(engine.stats().at("graph_steps"), 0);
    };
    take_shadow_calls();
    {
        const DeviceScope scope(shadow_device(), const_cast<int*>(&first));
        train_and_serve();
        const auto calls = take_shadow_calls();
        ASSERT_EQ(calls.size(), 1u);
        EXPECT_EQ(calls.begin()->first, id(first));
        EXPECT_GT(calls.begin()->second, 1000);
        EXPECT_ANY_THROW({
            const DeviceScope inner(shadow_device(), const_cast<int*>(&second));
            EXPECT_EQ(shadow_stream(), id(second));
            model_->embed({-1});
        });
        EXPECT_EQ(shadow_stream(), id(first));
        const DeviceScope same(shadow_device());  // without a stream of its own: the one in force
        EXPECT_EQ(shadow_stream(), id(first));
    }
    EXPECT_EQ(shadow_stream(), 0);
    train_and_serve();
    EXPECT_EQ(take_shadow_calls().count(id(first)), 0u);
}

}  // namespace
}  // namespace polyad
