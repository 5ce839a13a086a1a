// SPDX-License-Identifier: Apache-2.0
#include "training/trainer.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <thread>

#include "routing/derive.h"
#include "tiny_skillsets.h"

namespace polyad {
namespace {

namespace fs = std::filesystem;

class TrainerTest : public testing::Test {
  protected:
    void SetUp() override {
        SKIP_WITHOUT_TINY_MODEL();
        folder_ = fs::temp_directory_path() / ("polyad_trainer_" + std::to_string(getpid()));
        fs::create_directories(folder_);
    }
    void TearDown() override {
        if (!folder_.empty()) fs::remove_all(folder_);
    }

    fs::path folder_;
    std::shared_ptr<const Dataset> data_ = tiny::dataset();
};

Json training(int64_t steps, const Json& more = Json::object()) {
    Json out = {{"max_steps", steps}, {"batch_size", 3}, {"learning_rate", 0.01}, {"seed", 5}};
    out.update(more);
    return out;
}

Progress run(Trainer& trainer) {
    while (!trainer.progress().done) trainer.step();
    return trainer.progress();
}

TEST_F(TrainerTest, LossFallsWithEveryMethod) {
    for (const char* method : {"lora", "poly", "mhr", "cpoly"}) {
        SCOPED_TRACE(method);
        Json config = tiny::method(method);
        if (method == std::string("mhr")) config["n_splits"] = 4;
        const auto skills = tiny::skillset(config, *data_);
        const std::string before = tiny::weights(*skills);
        Trainer trainer(skills, data_, training(40, {{"validation_examples", 0}}));
        const double first = trainer.step().loss;
        const Progress last = run(trainer);
        EXPECT_LT(last.loss, 0.5 * first);
        EXPECT_EQ(last.step, 40);
        EXPECT_EQ(last.total_steps, 40);
        EXPECT_NEAR(last.epoch, 40 * 3 / 5.0, 1e-9);
        EXPECT_GT(last.tokens, 40 * 3 * 4);
        EXPECT_TRUE(std::isnan(last.validation_loss));
        EXPECT_NE(tiny::weights(*skills), before);
        EXPECT_EQ(skills->metadata()["training"]["steps"], 40);
        EXPECT_REFUSED(trainer.step(), Code::wrong_state, "done");
    }
}

TEST_F(TrainerTest, SameSeedGivesTheSameWeights) {
    const auto weights_of = [&](uint64_t seed) {
        const auto skills = tiny::skillset(tiny::method("poly"), *data_);
        Trainer trainer(skills, data_, training(5, {{"seed", seed}}));
        run(trainer);
        return tiny::weights(*skills);
    };
    const std::string first = weights_of(5);
    EXPECT_EQ(first, weights_of(5));
    EXPECT_NE(first, weights_of(6));
}

TEST_F(TrainerTest, StopAndResumeIsBitwiseNotStopping) {
    // Noise in the router, several forwards per step, validation, best weights and a learning rate that
    // moves.
    const Json config = training(9, {{"gradient_accumulation", 2},
                                     {"validation_every", 2},
                                     {"schedule", "cosine"},
                                     {"sampling", "temperature"},
                                     {"label_smoothing", 0.1}});
    for (const char* method : {"poly", "cpoly"}) {
        SCOPED_TRACE(method);
        const auto whole = tiny::skillset(tiny::method(method), *data_);
        Trainer uninterrupted(whole, data_, config);
        for (int i = 0; i < 4; ++i) uninterrupted.step();
        uninterrupted.save_checkpoint(folder_ / "run.checkpoint");
        const std::string midway = tiny::weights(*whole);
        run(uninterrupted);

        const auto again = tiny::skillset(tiny::method(method, 3), *data_);
        Trainer resumed(again, data_, config);
        resumed.step();  // whatever happened before is replaced
        resumed.resume(folder_ / "run.checkpoint");
        EXPECT_EQ(tiny::weights(*again), midway);
        EXPECT_EQ(resumed.progress().step, 4);
        run(resumed);
        EXPECT_EQ(tiny::weights(*again), tiny::weights(*whole));
        EXPECT_EQ(resumed.progress().loss, uninterrupted.progress().loss);
        EXPECT_EQ(resumed.progress().best_validation_loss, uninterrupted.progress().best_validation_loss);
        EXPECT_EQ(resumed.progress().tokens, uninterrupted.progress().tokens);
        EXPECT_EQ(resumed.report()["history"], uninterrupted.report()["history"]);
        EXPECT_EQ(resumed.report()["validation"], uninterrupted.report()["validation"]);
    }
}

TEST_F(TrainerTest, CheckpointsOfAnotherRunAreRefusedByName) {
    const fs::path file = folder_ / "run.checkpoint";
    const auto skills = tiny::skillset(tiny::method("poly"), *data_);
    Trainer trainer(skills, data_, training(6));
    trainer.step();
    trainer.save_checkpoint(file);

    const auto refused = [&](const Json& method, std::shared_ptr<const Dataset> data, const Json& config) {
        const auto other = tiny::skillset(method, *data);
        const std::string before = tiny::weights(*other);
        Trainer target(other, data, config);
        const Error error = tiny::error_of([&] { target.resume(file); });
        EXPECT_EQ(tiny::weights(*other), before);
        EXPECT_EQ(target.progress().step, 0);
        return error;
    };
    Error error = refused(tiny::method("poly"), data_, training(6, {{"learning_rate", 0.02}}));
    EXPECT_EQ(error.code(), Code::invalid_config);
    EXPECT_NE(std::string(error.what()).find("learning_rate"), std::string::npos) << error.what();
    error = refused(tiny::method("lora"), data_, training(6));
    EXPECT_EQ(error.code(), Code::invalid_config) << error.what();
    Json rank = tiny::method("poly");
    rank["rank"] = 2;
    error = refused(rank, data_, training(6));
    EXPECT_NE(std::string(error.what()).find("rank"), std::string::npos) << error.what();
    std::string fewer = tiny::rows();
    fewer.erase(0, fewer.find('\n') + 1);
    error = refused(tiny::method("poly"), tiny::dataset(fewer), training(6));
    EXPECT_EQ(error.code(), Code::invalid_argument) << error.what();

    // Only the way of saving differs: that is the same run.
    Trainer same(tiny::skillset(tiny::method("poly"), *data_), data_,
                 training(6, {{"checkpoint", (folder_ / "other").string()}, {"checkpoint_every", 2}}));
    same.resume(file);
    run(same);
    EXPECT_TRUE(fs::exists(folder_ / "other"));

    Trainer target(tiny::skillset(tiny::method("poly"), *data_), data_, training(6));
    EXPECT_REFUSED(target.resume(folder_ / "nosuch"), Code::not_found, "nosuch");
    skills->save(folder_ / "run.polyad");
    EXPECT_REFUSED(target.resume(folder_ / "run.polyad"), Code::bad_format, "not a checkpoint");
    fs::resize_file(file, fs::file_size(file) / 2);
    EXPECT_REFUSED(target.resume(file), Code::bad_format, "run.checkpoint");
}

TEST_F(TrainerTest, NumbersThatAreNoneStopTheStepAndNothingChanges) {
    const auto skills = tiny::skillset(tiny::method("lora"), *data_);
    Trainer trainer(skills, data_, training(4));
    trainer.step();
    at::Tensor& value = skills->method().parameters().front().value;
    float* entry = static_cast<float*>(value.data_ptr());
    const float before = *entry;
    *entry = std::numeric_limits<float>::quiet_NaN();
    skills->method().parameters_changed();
    const std::string weights = tiny::weights(*skills);
    EXPECT_REFUSED(trainer.step(), Code::numeric_error, "step 2");
    EXPECT_REFUSED(trainer.step(), Code::numeric_error, "task '");
    EXPECT_EQ(tiny::weights(*skills), weights);
    EXPECT_EQ(trainer.progress().step, 1);
    for (const Parameter& p : skills->method().parameters()) EXPECT_FALSE(p.value.grad().defined());
    *entry = before;
    skills->method().parameters_changed();
    run(trainer);

    const auto undisturbed = tiny::skillset(tiny::method("lora"), *data_);
    Trainer reference(undisturbed, data_, training(4));
    run(reference);
    EXPECT_EQ(tiny::weights(*skills), tiny::weights(*undisturbed));
}

TEST_F(TrainerTest, CancelledStepsCanBeTakenAgain) {
    const auto skills = tiny::skillset(tiny::method("poly"), *data_);
    Trainer trainer(skills, data_, training(4));
    trainer.step();
    const std::string weights = tiny::weights(*skills);
    trainer.cancel();
    EXPECT_REFUSED(trainer.step(), Code::cancelled, "step 1");
    EXPECT_EQ(tiny::weights(*skills), weights);
    run(trainer);
    const auto undisturbed = tiny::skillset(tiny::method("poly"), *data_);
    Trainer reference(undisturbed, data_, training(4));
    run(reference);
    EXPECT_EQ(tiny::weights(*skills), tiny::weights(*undisturbed));
}

TEST_F(TrainerTest, EndsWithTheBestWeightsAndStopsEarly) {
    const auto skills = tiny::skillset(tiny::method("lora"), *data_);
    // Far too fast: validation gets worse again.
    Trainer trainer(skills, data_,
                    training(60, {{"learning_rate", 0.3},
                                  {"max_grad_norm", 0},
                                  {"schedule", "constant"},
                                  {"validation_every", 1},
                                  {"early_stop_patience", 3}}));
    const Progress end = run(trainer);
    EXPECT_TRUE(end.stopped_early);
    EXPECT_LT(end.step, 60);
    EXPECT_LT(end.best_validation_loss, end.validation_loss);
    // A run that changes nothing measures what was kept.
    Trainer still(skills, data_, training(1, {{"learning_rate", 0}}));
    EXPECT_DOUBLE_EQ(still.step().validation_loss, end.best_validation_loss);
}

TEST_F(TrainerTest, SplittingAForwardChangesTheLossByRoundingOnly) {
    const auto first_step = [&](const Json& more) {
        const auto skills = tiny::skillset(tiny::method("lora"), *data_);
        tiny::shake(*skills, 1, 0.1);
        Trainer trainer(skills, data_, training(3, more));
        return trainer.step();
    };
    const Progress whole = first_step({{"batch_size", 5}});
    const Progress by_tokens = first_step({{"batch_size", 5}, {"max_tokens_per_batch", 20}});
    const Progress by_rows = first_step({{"batch_size", 1}, {"gradient_accumulation", 5}});
    for (const Progress& parts : {by_tokens, by_rows}) {
        EXPECT_NEAR(parts.loss, whole.loss, 1e-5);
        EXPECT_NEAR(parts.gradient_norm, whole.gradient_norm, 1e-4 * whole.gradient_norm);
        EXPECT_EQ(parts.tokens, whole.tokens);
    }
}

TEST_F(TrainerTest, WhatTheMethodTrainsMoves) {
    for (const char* choice : {"router", "skills"}) {
        SCOPED_TRACE(choice);
        const auto first = tiny::skillset(tiny::method("poly"), *data_);
        tiny::shake(*first, 2, 0.1);
        const auto skills = reconfigured(*first, {{"train", choice}});
        Trainer trainer(skills, data_, training(2, {{"warmup_ratio", 0}}));
        run(trainer);
        for (size_t i = 0; i < skills->method().parameters().size(); ++i) {
            const Parameter &before = first->method().parameters()[i],
                            &after = skills->method().parameters()[i];
            const bool routes = after.group == ParameterGroup::router;
            EXPECT_EQ(!before.value.equal(after.value), routes == (choice == std::string("router")))
                << after.name;
        }
    }
}

TEST_F(TrainerTest, UnusableDataIsRefusedBeforeTraining) {
    const auto skills = tiny::skillset(tiny::method("lora"), *data_);
    const auto strange =
        tiny::dataset(R"({"task": "sideways", "input": "a", "output": "b", "split": "train"})");
    EXPECT_REFUSED(Trainer(skills, strange, training(2)), Code::unknown_task, "sideways");
    std::string text = tiny::rows();
    text +=
        R"({"task": "up", "input": "z", "output": "so long an answer that it cannot fit into sixteen tokens", )"
        R"("split": "train", "id": "long one"})";
    const auto long_answer = tiny::dataset(text);
    EXPECT_REFUSED(Trainer(skills, long_answer, training(2)), Code::context_overflow, "long one");
    EXPECT_REFUSED(Trainer(skills, long_answer, training(2)), Code::context_overflow, "task 'up'");
}

TEST_F(TrainerTest, CutPromptsAreCounted) {
    std::string words;
    for (int i = 0; i < 100; ++i) words += " word";
    const auto data =
        tiny::dataset(R"({"task": "t", "input": ")" + words + R"(", "output": "b", "split": "train"})");
    const auto skills = tiny::skillset(tiny::method("lora"), *data);
    Trainer trainer(skills, data, training(2, {{"batch_size", 2}}));
    EXPECT_EQ(trainer.step().truncated_rows, 2);
    EXPECT_EQ(trainer.step().truncated_rows, 4);
    EXPECT_LE(trainer.progress().tokens, 4 * 64);
}

TEST_F(TrainerTest, LearnsTheSharedTaskPack) {
    const fs::path pack = fs::path(POLYAD_SHARED_DIR) / "superni-mini";
    if (!fs::exists(pack)) GTEST_SKIP() << "no task pack at " << pack;
    DatasetOptions options;
    options.max_examples_per_task = 8;
    const auto data = std::make_shared<const Dataset>(Dataset::open(pack, options));
    Json config = tiny::method("cpoly");
    config["prompt"] = {{"style", "plain"}, {"max_tokens", 120}, {"max_answer_tokens", 80}};
    const auto skills = tiny::skillset(config, *data);
    Trainer trainer(skills, data,
                    training(30, {{"batch_size", 8}, {"sampling", "uniform"}, {"validation_examples", 0}}));
    const double first = trainer.step().loss;
    const Progress end = run(trainer);
    EXPECT_LT(end.loss, 0.9 * first);
    EXPECT_GT(end.truncated_rows, 0);
}

// Run by the test below in a process of its own.
TEST(CheckpointWriter, DISABLED_WritesForever) {
    const char* path = std::getenv("POLYAD_TEST_CHECKPOINT");
    ASSERT_NE(path, nullptr);
    const auto data = tiny::dataset();
    Trainer trainer(tiny::skillset(tiny::method("poly"), *data), data, training(1000000));
    for (;;) {
        trainer.step();
        trainer.save_checkpoint(path);
    }
}

TEST_F(TrainerTest, KillingTheProcessLeavesALoadableCheckpoint) {
    const fs::path file = folder_ / "killed.checkpoint";
    const std::string variable = "POLYAD_TEST_CHECKPOINT=" + file.string();
    Generator random(7);
    for (int round = 0; round < 4; ++round) {
        fs::remove(file);
        const pid_t child = fork();
        ASSERT_GE(child, 0);
        if (child == 0) {
            const char* arguments[] = {"trainer_test", "--gtest_filter=CheckpointWriter.*",
                                       "--gtest_also_run_disabled_tests", nullptr};
            const char* environment[] = {variable.c_str(), "OMP_NUM_THREADS=1", nullptr};
            execve("/proc/self/exe", const_cast<char**>(arguments), const_cast<char**>(environment));
            _exit(127);
        }
        int status = 0;
        bool running = true;
        for (int i = 0; i < 60000 && !fs::exists(file) && running; ++i) {
            std::this_thread::sleep_for(std::chrono::milliseconds(2));
            running = waitpid(child, &status, WNOHANG) == 0;
        }
        ASSERT_TRUE(running) << "the writer ended by itself";
        std::this_thread::sleep_for(std::chrono::microseconds(random.below(40000)));
        kill(child, SIGKILL);
        ASSERT_EQ(waitpid(child, &status, 0), child);
        ASSERT_TRUE(WIFSIGNALED(status));
        Trainer trainer(tiny::skillset(tiny::method("poly"), *data_), data_, training(1000000));
        trainer.resume(file);
        EXPECT_GE(trainer.progress().step, 1);
        trainer.step();
    }
}

TEST(TrainingConfig, RoundTripsAndNamesWhatIsWrong) {
    const TrainingConfig config =
        TrainingConfig::from_json({{"learning_rate", 0.002}, {"schedule", "cosine"}});
    EXPECT_DOUBLE_EQ(config.optimiser.group(ParameterGroup::router).learning_rate, 0.02);
    EXPECT_DOUBLE_EQ(config.optimiser.group(ParameterGroup::router).weight_decay, 0.0);
    EXPECT_DOUBLE_EQ(config.optimiser.group(ParameterGroup::private_weights).learning_rate, 0.002);
    EXPECT_EQ(TrainingConfig::from_json(config.to_json()).to_json(), config.to_json());
    const auto refused = [](const Json& object, const char* part) {
        EXPECT_REFUSED(TrainingConfig::from_json(object), Code::invalid_config, part);
    };
    refused({{"lr", 1}}, "learning_rate");
    refused({{"learning_rate", -1}}, "training.learning_rate");
    refused({{"batch_size", 0}}, "batch_size");
    refused({{"schedule", "wavy"}}, "cosine");
    refused({{"epochs", 0}}, "epochs");
    refused({{"checkpoint_every", 5}}, "checkpoint");
    refused({{"label_smoothing", 1.0}}, "label_smoothing");
}

}  // namespace
}  // namespace polyad
