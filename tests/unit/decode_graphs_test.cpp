// SPDX-License-Identifier: Apache-2.0
// Steps that are recorded once and played again: the same answers as launching every kernel, whatever changes
// between steps. On the tests' own device, or the one POLYAD_TEST_DEVICE names ("cuda").
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mm.h>

#include <cstdlib>
#include <map>

#include "backbone/decode_step.h"
#include "backbone/device.h"
#include "backbone/kv_cache.h"
#include "base/log.h"
#include "device/shadow_memory.h"
#include "device/shadow_recorder.h"
#include "device/test_device.h"
#include "serving/engine.h"
#include "tiny_skillsets.h"

namespace polyad {
namespace {

std::string device_name() {
    const char* named = std::getenv("POLYAD_TEST_DEVICE");
    return named && *named ? named : "shadow";
}

class Graphs : public testing::Test {
  protected:
    void SetUp() override {
        SKIP_WITHOUT_TINY_MODEL();
        try {
            device_ = test_device(device_name());
        } catch (const Error& e) {
            GTEST_SKIP() << "no CUDA device: " << e.what();
        }
        if (!make_recorder(device_)) GTEST_SKIP() << "this build records nothing on " << device_.str();
        BackboneOptions options;
        options.precision = Precision::fp32;
        options.device = device_;
        there_ = Backbone::open(tiny::model(), options);
        data_ = tiny::dataset();
    }
    void TearDown() override { set_shadow_refuses_recording(false); }

    /// The same skillset on both devices.
    std::map<bool, std::shared_ptr<const Skillset>> both(const char* method, uint64_t seed, int rank = 4) {
        Json config = tiny::method(method);
        config["rank"] = rank;
        const auto first = tiny::skillset(config, *data_);
        tiny::shake(*first, seed);
        const Bytes bundle = Bytes::copy_of(first->save_to_memory(), "bundle");
        return {{false, Skillset::load(tiny::backbone(), bundle)}, {true, Skillset::load(there_, bundle)}};
    }
    Engine engine(bool there, int max_batch = 4) {
        EngineOptions options;
        options.max_batch = max_batch;
        return Engine(there ? there_ : tiny::backbone(), options);
    }
    static int64_t played(const Engine& engine) { return engine.stats().at("graph_steps"); }

    at::Device device_ = at::kCPU;
    std::shared_ptr<const Backbone> there_;
    std::shared_ptr<const Dataset> data_;
};

RequestOptions ask(const std::string& skillset, const std::string& task, int tokens, int first = 20,
                   int prompt = 4) {
    RequestOptions out;
    out.skillset = skillset;
    out.task = task;
    for (int i = 0; i < prompt; ++i) out.tokens.push_back(first + i % 50);
    out.sampling.max_tokens = tokens;
    out.sampling.ignore_eos = true;
    return out;
}

using Answers = std::vector<std::vector<int32_t>>;

/// Rows that come and go, of other lengths, tasks, skillsets and ranks; a version published on the way. Rows
/// go on beyond the keys that a recording allows for.
Answers serve(Engine& engine, const std::shared_ptr<const Skillset>& poly,
              const std::shared_ptr<const Skillset>& lora, const std::shared_ptr<const Skillset>& wide) {
    engine.publish("poly", poly);
    std::vector<std::shared_ptr<Request>> asked;
    const auto submit = [&](const RequestOptions& options) { asked.push_back(engine.submit(options)); };
    submit(ask("poly", "up", 90, 20));
    submit(ask("poly", "down", 24, 30));
    submit(ask("", "", 40, 40));
    for (int i = 0; i < 12; ++i) engine.step();
    engine.publish("lora", lora);
    submit(ask("lora", "up", 30, 50, 30));
    for (int i = 0; i < 12; ++i) engine.step();
    engine.publish("poly", wide);  // running rows keep their version
    engine.retire("lora");
    submit(ask("poly", "up", 30, 60));
    RequestOptions drawn = ask("poly", "down", 30, 70);
    drawn.sampling.temperature = 0.8f;
    drawn.sampling.seed = 9;
    submit(drawn);
    while (engine.step() > 0) {
    }
    Answers out;
    for (const auto& request : asked) {
        EXPECT_EQ(request->state(), RequestState::finished);
        out.push_back(request->result().tokens);
    }
    return out;
}

TEST_F(Graphs, PlayedStepsAnswerAsLaunchedOnes) {
    const auto poly = both("poly", 1), lora = both("lora", 2), wide = both("poly", 3, 12);
    Engine here = engine(false), there = engine(true);
    const Answers wanted = serve(here, poly.at(false), lora.at(false), wide.at(false));
    const Answers got = serve(there, poly.at(true), lora.at(true), wide.at(true));
    EXPECT_EQ(got, wanted);
    EXPECT_EQ(played(here), 0);
    const int64_t steps = there.stats().at("steps");
    EXPECT_GT(played(there), steps / 2) << "of " << steps;
    EXPECT_LT(played(there), steps);
}

TEST_F(Graphs, WithoutThemAnswersAreTheSame) {
    if (device_name() != "shadow") GTEST_SKIP() << "only the tests' own device refuses to record";
    const auto poly = both("poly", 1), lora = both("lora", 2), wide = both("poly", 3, 12);
    Engine recorded = engine(true);
    const Answers wanted = serve(recorded, poly.at(true), lora.at(true), wide.at(true));
    EXPECT_GT(played(recorded), 0);
    std::string said;
    set_log_sink([&](LogLevel, std::string_view message) { said += message; });
    set_shadow_refuses_recording(true);
    Engine launched = engine(true);
    EXPECT_EQ(serve(launched, poly.at(true), lora.at(true), wide.at(true)), wanted);
    set_log_sink({});
    EXPECT_EQ(played(launched), 0);
    EXPECT_NE(said.find("without graphs from now on: the shadow device does not record"), std::string::npos)
        << said;
}

TEST_F(Graphs, StepsOnMergedWeightsEndWithThem) {
    const auto skills = both("poly", 4).at(true);
    const auto served = std::make_shared<const ServedSkillset>(skills, int64_t{1} << 30);
    GenerationInput input;
    input.skillset = skills;
    input.served = served;
    input.task = 1;
    input.prompt = {20, 21, 22};
    input.sampling.max_tokens = 40;
    input.sampling.ignore_eos = true;
    const auto answer = [&](bool merge) {
        GenerationBatch batch(there_, 1, 64);
        const auto row = std::make_shared<GenerationRow>(*there_, input);
        batch.add(row);
        for (int step = 0; !row->finished(); ++step) {
            if (merge && step == 10) batch.set_merged(std::make_shared<MergedTask>(served, 1));
            if (merge && step == 25) batch.set_merged(nullptr);
            batch.step();
            EXPECT_EQ(batch.ran_merged(), merge && step >= 10 && step < 25) << step;
        }
        EXPECT_GT(batch.graph_steps(), merge ? 28 : 34);
        return row->tokens;
    };
    EXPECT_EQ(answer(true), answer(false));
}

TEST_F(Graphs, RowsWhoseMethodComputesAsItGoesAreLaunched) {
    const auto skills = both("molora", 5);
    Engine here = engine(false), there = engine(true);
    for (Engine* one : {&here, &there}) one->publish("molora", skills.at(one == &there));
    const auto a = here.submit(ask("molora", "up", 12)), b = there.submit(ask("molora", "up", 12));
    while (here.step() > 0) {
    }
    while (there.step() > 0) {
    }
    EXPECT_EQ(a->result().tokens, b->result().tokens);
    EXPECT_EQ(played(there), 0);
}

TEST_F(Graphs, PackedWeightsThatNeedScratchAreLaunched) {
    BackboneOptions options;
    options.precision = Precision::fp32;
    options.weights = WeightStorage::packed;
    options.device = device_;
    const auto packed = Backbone::open(tiny::model(), options);
    const auto recorder = make_recorder(device_);
    // The fixture has float matrices among its blocks: these are expanded into scratch that moves.
    EXPECT_EQ(packed->make_decode_step(2, 64, *recorder), nullptr);
    EXPECT_NE(there_->make_decode_step(2, 64, *recorder), nullptr);
}

TEST_F(Graphs, AStepRefusesWhatItWasNotMadeFor) {
    const auto recorder = make_recorder(device_);
    const auto step = there_->make_decode_step(2, 64, *recorder);
    const auto made = there_->make_cache(3, 128);
    auto& cache = dynamic_cast<DecoderCache&>(*made);
    for (int slot = 0; slot < 3; ++slot) {
        ASSERT_TRUE(cache.reserve(slot, 60));
        cache.grow(slot, 60);
    }
    EXPECT_REFUSED(step->set({1, 2, 3}, cache, {0, 1, 2}), Code::internal, "tokens.size()");
    for (int slot = 0; slot < 3; ++slot) ASSERT_TRUE(cache.reserve(slot, 1));
    step->set({1, 2}, cache, {2, 0});
    ASSERT_TRUE(cache.reserve(1, 8));
    cache.grow(1, 8);
    EXPECT_REFUSED(step->set({1, 2}, cache, {2, 1}), Code::internal, "length < keys_");
}

TEST_F(Graphs, RecordingsSeeWhatIsThereWhenTheyPlay) {
    const at::NoGradGuard no_gradients;
    const auto options = at::TensorOptions().dtype(at::kFloat).device(device_);
    const auto recorder = make_recorder(device_);
    at::Tensor x = at::full({2, 3}, 1.0, options), w = at::full({3, 4}, 2.0, options), y;
    const auto work = [&] { y = at::mm(x, w).mul_(3.0); };
    recorder->rehearse(work);
    EXPECT_EQ(on_host(y).sum().item<double>(), 8 * 18.0);
    const auto recording = recorder->record(work);
    recording->play();
    EXPECT_EQ(on_host(y).sum().item<double>(), 8 * 18.0);
    x.fill_(5.0);
    recording->play();
    EXPECT_EQ(on_host(y).sum().item<double>(), 8 * 90.0);
    if (device_name() != "shadow") return;
    w = at::Tensor();
    EXPECT_REFUSED(recording->play(), Code::internal, "given back since it was made");
}

TEST_F(Graphs, WhatCannotBeRecordedIsRefusedAndTheNextIsNot) {
    const at::NoGradGuard no_gradients;
    const auto recorder = make_recorder(device_);
    const at::Tensor x = at::full({4}, 1.0, at::TensorOptions().dtype(at::kFloat).device(device_));
    EXPECT_ANY_THROW(recorder->record([&] { on_host(x); }));
    EXPECT_ANY_THROW(recorder->record([&] { fail(Code::internal, "of its own"); }));
    at::Tensor y;
    const auto recording = recorder->record([&] { y = x + x; });
    recording->play();
    EXPECT_EQ(on_host(y).sum().item<double>(), 8.0);
}

}  // namespace
}  // namespace polyad
