// SPDX-License-Identifier: Apache-2.0
#include "evaluation/evaluator.h"

#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <functional>

#include "base/error.h"
#include "echo_backbone.h"
#include "evaluation/answer_likelihood.h"
#include "evaluation/report.h"

namespace polyad {
namespace {

std::shared_ptr<const Dataset> dataset(std::string_view rows) {
    return std::make_shared<const Dataset>(Dataset::from_jsonl(Bytes::copy_of(rows, "rows.jsonl")));
}

/// "echo": two of three answers repeat the input. "pick": labels; the echo prefers the one that is the input.
std::shared_ptr<const Dataset> small_data() {
    return dataset(
        R"({"task": "echo", "category": "Copying", "instruction": "Say it", "input": "hello", "output": "Hello.", "split": "test", "id": "e1"}
{"task": "echo", "input": "the cat sat", "output": "the cat", "split": "test", "id": "e2"}
{"task": "echo", "input": "yes", "outputs": ["no", "yes"], "split": "test", "id": "e3"}
{"task": "pick", "category": "Choosing", "instruction": "Choose", "input": "red", "output": "red", "split": "test", "labels": ["blue", "red", "redder"], "id": "p1"}
{"task": "pick", "input": "blue", "output": "red", "split": "test", "id": "p2"}
{"task": "pick", "input": "redder", "output": "redder", "split": "train", "id": "p3"})");
}

Json run(Evaluator& evaluator) {
    int steps = 0;
    while (!evaluator.step()) EXPECT_LT(++steps, 1000);
    return evaluator.result();
}

EvaluatorOptions options(const Json& object = Json::object()) {
    return EvaluatorOptions::from_json(object);
}

Error error_of(const std::function<void()>& run) {
    try {
        run();
    } catch (const Error& e) {
        return e;
    }
    return Error(Code::ok, "no error");
}

TEST(Evaluator, GeneratesAndScoresPerTaskCategoryAndOverall) {
    Evaluator evaluator(std::make_shared<EchoBackbone>(), nullptr, small_data(),
                        options({{"batch_size", 2}}));
    EvaluationProgress progress = evaluator.progress();
    EXPECT_EQ(progress.total, 5);
    EXPECT_TRUE(std::isnan(progress.seconds_left));
    EXPECT_THROW(evaluator.result(), Error);
    EXPECT_FALSE(evaluator.step(&progress));
    EXPECT_EQ(progress.done, 2);
    EXPECT_GT(progress.tokens, 0);
    const Json result = run(evaluator);
    EXPECT_TRUE(evaluator.progress().finished);
    EXPECT_EQ(error_of([&] { evaluator.step(); }).code(), Code::wrong_state);

    EXPECT_EQ(result["split"], "test");
    const Json& echo = result["tasks"]["echo"];
    EXPECT_EQ(echo["count"], 3);
    EXPECT_EQ(echo["exact_match"], 66.6667);
    EXPECT_EQ(echo["rouge_l"], 93.3333) << "1, 0.8 and 1";
    EXPECT_EQ(echo["mode"], "generate");
    EXPECT_EQ(result["tasks"]["pick"]["exact_match"], 50.0);
    EXPECT_EQ(result["categories"]["Copying"]["rouge_l"], 93.3333);
    EXPECT_EQ(result["overall"]["count"], 5);
    EXPECT_EQ(result["overall"]["exact_match"], 60.0);
    EXPECT_EQ(result["overall"]["rouge_l"], 76.0);

    ASSERT_EQ(result["predictions"].size(), 5u);
    EXPECT_EQ(result["predictions"][1]["id"], "e2") << "in the data's order, not in the batches'";
    EXPECT_EQ(result["predictions"][1]["prediction"], "the cat sat");
    EXPECT_EQ(result["predictions"][2]["references"].size(), 2u);
}

TEST(Evaluator, BatchSizeAndOrderChangeNothing) {
    Json first;
    for (const int size : {1, 2, 3, 64}) {
        for (const char* mode : {"generate", "labels"}) {
            Evaluator evaluator(std::make_shared<EchoBackbone>(), nullptr, small_data(),
                                options({{"batch_size", size}, {"mode", mode}}));
            const Json scores = run(evaluator)["tasks"]["echo"];
            if (first.is_null()) first = scores;
            EXPECT_EQ(scores, first) << size << " " << mode;
        }
    }
}

TEST(Evaluator, RanksLabelsByTheirLogProbability) {
    Evaluator evaluator(std::make_shared<EchoBackbone>(), nullptr, small_data(),
                        options({{"mode", "labels"}, {"split", "test"}}));
    const Json result = run(evaluator);
    EXPECT_EQ(result["tasks"]["pick"]["mode"], "labels");
    EXPECT_EQ(result["tasks"]["echo"]["mode"], "generate") << "free text cannot be ranked";
    EXPECT_EQ(result["tasks"]["pick"]["exact_match"], 50.0);
    const Json& first = result["predictions"][3];
    EXPECT_EQ(first["id"], "p1");
    EXPECT_EQ(first["prediction"], "red");
    // The echo gives its next token log p = -log(1 + 257 e^-10), any other one 10 less.
    const double hit = -std::log1p(257 * std::exp(-10.0)), miss = hit - 10;
    EXPECT_NEAR(first["label_scores"]["red"].get<double>(), hit, 1e-5)
        << "3 letters and the end token, all expected";
    EXPECT_NEAR(first["label_scores"]["blue"].get<double>(), miss + (hit - miss) / 5, 1e-4)
        << "only the end token is expected";
    EXPECT_NEAR(first["label_scores"]["redder"].get<double>(), (4 * hit + 3 * miss) / 7, 1e-4);
}

TEST(Evaluator, LengthNormalisationCanChangeTheWinner) {
    // Echo of "aaaa": "b" misses once in 2 tokens, "aabbbb" four times in 7 or so; the sum prefers the short
    // one.
    const auto data = dataset(
        R"({"task": "t", "input": "aaaaaaaaaaaa", "output": "b", "labels": ["b", "aaaaaaaaab"], "split": "test"})");
    const auto scores = [&](bool normalize) {
        Evaluator evaluator(std::make_shared<EchoBackbone>(), nullptr, data,
                            options({{"mode", "labels"}, {"normalize_length", normalize}}));
        return run(evaluator)["predictions"][0]["label_scores"];
    };
    const Json sum = scores(false), mean = scores(true);
    EXPECT_NEAR(sum["b"].get<double>(), 2 * mean["b"].get<double>(), 1e-5);
    EXPECT_NEAR(sum["aaaaaaaaab"].get<double>(), 11 * mean["aaaaaaaaab"].get<double>(), 1e-5);
    EXPECT_GT(mean["aaaaaaaaab"].get<double>(), mean["b"].get<double>());
}

TEST(AnswerLikelihood, SharedPromptsScoreLikeWholeRows) {
    const EchoBackbone model;
    const auto ids = [&](const char* text) { return model.tokenizer()->encode(text, false); };
    std::vector<Question> together = {
        {ids("Input: abc\nOutput:\n"), {ids("abc"), ids("a"), ids("xbc"), ids("abcd")}, -1},
        {ids("Input: q\nOutput:\n"), {ids("q"), ids("qqqqq")}, -1}};
    std::vector<Question> alone;  // a single answer is a whole row
    for (const Question& question : together)
        for (const auto& answer : question.answers) alone.push_back({question.prompt, {answer}, -1});
    for (const int batch_size : {1, 3, 8}) {
        AnswerLikelihood shared(model, nullptr, batch_size), whole(model, nullptr, batch_size);
        const auto a = shared.score(together, [] {}), b = whole.score(alone, [] {});
        size_t row = 0;
        for (const auto& question : a)
            for (const double score : question) EXPECT_NEAR(score, b[row++].front(), 1e-5);
        EXPECT_LT(shared.tokens(), whole.tokens());
    }
}

/// A skillset on a tiny model, its parameters moved off their start so that tasks differ. Null without the
/// fixture.
std::shared_ptr<Skillset> tiny_skillset(const std::vector<Task>& tasks) {
    const auto folder = std::filesystem::path(POLYAD_SHARED_DIR) / "fixtures/models/llama";
    if (!std::filesystem::exists(folder)) return nullptr;
    BackboneOptions fp32;
    fp32.precision = Precision::fp32;
    const auto skillset = Skillset::create(Backbone::open(folder, fp32), tasks,
                                           {{"method", "poly"}, {"rank", 2}, {"n_skills", 3}});
    const c10::NoGradGuard no_gradients;
    Generator random(3);
    for (Parameter& parameter : skillset->method().parameters())
        random.fill_normal(parameter.value.mutable_data_ptr<float>(),
                           static_cast<size_t>(parameter.value.numel()), 0, 0.3);
    skillset->method().parameters_changed();
    return skillset;
}

TEST(AnswerLikelihood, SharedPromptsOfARealModelScoreLikeWholeRows) {
    Task one, two;
    one.name = "one", two.name = "two";
    const auto skillset = tiny_skillset({one, two});
    if (!skillset) GTEST_SKIP() << "no fixtures in " << POLYAD_SHARED_DIR;
    const Backbone& model = *skillset->backbone();
    std::vector<Question> together = {{{5, 6, 7, 8, 9}, {{10, 2}, {11, 12, 13, 2}, {14}}, 0},
                                      {{5, 6, 7, 8, 9}, {{10, 2}, {11, 12, 13, 2}}, 1},
                                      {{20}, {{10, 2}, {21, 22}}, 1}};
    std::vector<Question> alone;
    for (const Question& question : together)
        for (const auto& answer : question.answers)
            alone.push_back({question.prompt, {answer}, question.task});
    const c10::NoGradGuard no_gradients;
    AnswerLikelihood shared(model, skillset.get(), 8), whole(model, skillset.get(), 8);
    ASSERT_TRUE(shared.shares_prompts(0));
    const auto a = shared.score(together, [] {}), b = whole.score(alone, [] {});
    size_t row = 0;
    for (const auto& question : a)
        for (const double score : question) EXPECT_NEAR(score, b[row++].front(), 1e-4);
    EXPECT_GT(std::abs(a[0][0] - a[1][0]), 1e-3) << "the tasks differ";
    EXPECT_LT(shared.tokens(), whole.tokens());
}

TEST(Evaluator, SkillsetsNeedTheTasksOfTheData) {
    Task echo;
    echo.name = "echoes";
    const auto skillset = tiny_skillset({echo});
    if (!skillset) GTEST_SKIP() << "no fixtures in " << POLYAD_SHARED_DIR;
    EXPECT_EQ(error_of([&] { Evaluator(skillset->backbone(), skillset, small_data(), options()); }).code(),
              Code::unknown_task);
    EXPECT_EQ(error_of([&] {
                  Evaluator(std::make_shared<EchoBackbone>(), skillset, small_data(), options());
              }).code(),
              Code::invalid_argument);
}

TEST(Evaluator, ChoosesSplitTasksAndExamples) {
    const auto model = std::make_shared<EchoBackbone>();
    Evaluator train(model, nullptr, small_data(), options({{"split", "train"}}));
    EXPECT_EQ(run(train)["overall"]["count"], 1);
    Evaluator few(model, nullptr, small_data(), options({{"max_examples_per_task", 1}}));
    const Json result = run(few);
    EXPECT_EQ(result["overall"]["count"], 2);
    EXPECT_EQ(result["predictions"][0]["id"], "e1");
    Evaluator one(model, nullptr, small_data(), options({{"tasks", "pick"}}));
    EXPECT_EQ(run(one)["tasks"].size(), 1u);
    EXPECT_EQ(error_of([&] {
                  Evaluator(model, nullptr, small_data(), options({{"tasks", "pickle"}}));
              }).code(),
              Code::unknown_task);
    EXPECT_EQ(error_of([&] {
                  Evaluator(model, nullptr, small_data(), options({{"split", "validation"}}));
              }).code(),
              Code::bad_data);
}

TEST(Evaluator, StopsAtAStopStringAndAtMaxTokens) {
    const auto model = std::make_shared<EchoBackbone>();
    Evaluator stop(model, nullptr, small_data(), options({{"stop", "at s"}}));
    EXPECT_EQ(run(stop)["predictions"][1]["prediction"], "the c");
    Evaluator shorter(model, nullptr, small_data(), options({{"max_tokens", 3}}));
    EXPECT_EQ(run(shorter)["predictions"][1]["prediction"], "the");
}

TEST(Evaluator, NotANumberNamesTaskAndExample) {
    for (const char* mode : {"generate", "labels"}) {
        Evaluator evaluator(std::make_shared<EchoBackbone>("blue\nOutput"), nullptr, small_data(),
                            options({{"mode", mode}, {"batch_size", 1}, {"tasks", {"pick"}}}));
        EXPECT_FALSE(evaluator.step());
        for (int again = 0; again < 2; ++again) {
            const Error e = error_of([&] { evaluator.step(); });
            EXPECT_EQ(e.code(), Code::numeric_error) << mode;
            EXPECT_NE(std::string(e.what()).find("task 'pick', example 'p2'"), std::string::npos) << e.what();
            EXPECT_EQ(evaluator.progress().done, 1) << "a failed step changes nothing";
        }
    }
}

TEST(Evaluator, CancelEndsTheStepAndTheNextGoesOn) {
    Evaluator evaluator(std::make_shared<EchoBackbone>(), nullptr, small_data(), options());
    evaluator.cancel();
    EXPECT_EQ(error_of([&] { evaluator.step(); }).code(), Code::cancelled);
    EXPECT_EQ(run(evaluator)["overall"]["exact_match"], 60.0);
}

TEST(Evaluator, LongInputsAreCutAndCounted) {
    const std::string input(5000, 'x');
    const auto data = dataset(text(R"({"task": "t", "instruction": "Say", "input": ")", input,
                                   R"(", "output": "xx", "split": "test"})"));
    Evaluator evaluator(std::make_shared<EchoBackbone>("", 256), nullptr, data, options());
    const Json result = run(evaluator);
    EXPECT_EQ(result["truncated_prompts"], 1);
    EXPECT_LE(result["predictions"][0]["prediction"].get<std::string>().size(), 128u);
    Evaluator too_long(std::make_shared<EchoBackbone>("", 256), nullptr, data,
                       options({{"prompt", {{"max_tokens", 2000}}}}));
    EXPECT_EQ(error_of([&] { too_long.step(); }).code(), Code::context_overflow);
}

TEST(Evaluator, TableIsAligned) {
    Evaluator evaluator(std::make_shared<EchoBackbone>(), nullptr, small_data(), options());
    run(evaluator);
    EXPECT_EQ(evaluator.table(),
              "task      examples  exact match  ROUGE-L\n"
              "echo             3         66.7     93.3\n"
              "pick             2         50.0     50.0\n"
              "\n"
              "category\n"
              "Choosing         2         50.0     50.0\n"
              "Copying          3         66.7     93.3\n"
              "\n"
              "all              5         60.0     76.0\n");
}

TEST(Evaluator, ReadsItsOptions) {
    EXPECT_EQ(error_of([] { options({{"mode", "rank"}}); }).code(), Code::invalid_config);
    EXPECT_EQ(error_of([] { options({{"batchsize", 2}}); }).code(), Code::invalid_config);
    EXPECT_EQ(error_of([] { options({{"batch_size", 0}}); }).code(), Code::invalid_config);
    EXPECT_EQ(error_of([] { options({{"prompt", {{"styl", "plain"}}}}); }).code(), Code::invalid_config);
}

TEST(Evaluator, ScoresAWholePack) {
    const auto folder = std::filesystem::path(POLYAD_SHARED_DIR) / "superni-mini";
    if (!std::filesystem::exists(folder)) GTEST_SKIP() << "no task pack in " << POLYAD_SHARED_DIR;
    const auto data = std::make_shared<const Dataset>(Dataset::open(folder));
    Evaluator evaluator(
        std::make_shared<EchoBackbone>(), nullptr, data,
        options({{"mode", "labels"}, {"max_examples_per_task", 3}, {"max_tokens", 8}, {"batch_size", 7}}));
    const Json result = run(evaluator);
    EXPECT_EQ(result["overall"]["count"], 18);
    EXPECT_EQ(result["tasks"].size(), 6u);
}

}  // namespace
}  // namespace polyad
