// SPDX-License-Identifier: Apache-2.0
// OrchMoE on Super-NaturalInstructions tasks, from training to a new process that serves the saved bundle,
// with no task named anywhere after the data: train -> save -> new process -> load -> answer and evaluate.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "evaluation/evaluator.h"
#include "serving/engine.h"
#include "tiny_skillsets.h"
#include "training/trainer.h"

namespace polyad {
namespace {

namespace fs = std::filesystem;

constexpr const char* bundle_variable = "POLYAD_END_TO_END_BUNDLE";

const std::vector<std::string>& names() {
    static const std::vector<std::string> names = {"task1210_atomic_classification_madeupof",
                                                   "task1434_head_qa_classification",
                                                   "task429_senteval_tense"};
    return names;
}

std::shared_ptr<const Dataset> mini() {
    DatasetOptions options;
    options.tasks = names();
    return std::make_shared<const Dataset>(
        Dataset::open(fs::path(POLYAD_SHARED_DIR) / "superni-mini", options));
}

/// Prompts of two test examples of each task, as the skillset makes them; their tasks stay behind.
std::vector<std::vector<int32_t>> prompts(const Skillset& skillset, const Dataset& data) {
    std::vector<std::vector<int32_t>> out;
    for (const Task& task : data.tasks())
        for (size_t i = 0; i < 2; ++i)
            out.push_back(skillset.prompts().prompt(task, task.examples(Split::test).at(i).input));
    return out;
}

/// Everything the served bundle says: greedy answers of all prompts in one batch, and its scores.
std::string answers(const std::shared_ptr<Skillset>& skillset, const std::shared_ptr<const Dataset>& data) {
    Engine engine(tiny::backbone());
    engine.publish("notes", *skillset);
    std::vector<std::shared_ptr<Request>> requests;
    for (const std::vector<int32_t>& prompt : prompts(*skillset, *data)) {
        RequestOptions request;
        request.skillset = "notes";
        request.tokens = prompt;
        request.sampling.max_tokens = 8;
        request.sampling.ignore_eos = true;
        requests.push_back(engine.submit(request));
    }
    for (int i = 0; engine.step() > 0; ++i)
        if (i > 1000) fail(Code::wrong_state, "the engine does not end");
    std::ostringstream out;
    for (const auto& request : requests) {
        for (const int32_t token : request->result().tokens) out << token << ' ';
        out << '\n';
    }
    EvaluatorOptions options = EvaluatorOptions::from_json(
        {{"split", "test"}, {"max_examples_per_task", 2}, {"max_tokens", 4}, {"batch_size", 4}});
    Evaluator evaluator(tiny::backbone(), skillset, data, options);
    while (!evaluator.step()) {
    }
    out << evaluator.result().at("tasks").dump() << '\n';
    return out.str();
}

std::string content(const fs::path& file) {
    std::ifstream in(file, std::ios::binary);
    std::stringstream text;
    text << in.rdbuf();
    return text.str();
}

/// Skill weights at the first linear for each prompt.
at::Tensor routes(const Skillset& skillset, const std::vector<std::vector<int32_t>>& prompts) {
    const at::NoGradGuard no_gradients;
    Batch batch;
    RouteInput route;
    std::map<std::string, std::map<std::string, at::Tensor>> trace;
    batch.row_begin = {0};
    for (const auto& prompt : prompts) {
        batch.tokens.insert(batch.tokens.end(), prompt.begin(), prompt.end());
        batch.row_begin.push_back(batch.size());
        batch.prompt_length.push_back(static_cast<int32_t>(prompt.size()));
    }
    route.row_begin = batch.row_begin;
    route.prompt_length = batch.prompt_length;
    route.trace = &trace;
    const auto adaptation = skillset.method().adapt(route);
    ForwardOptions options;
    options.adaptation = adaptation.get();
    tiny::backbone()->hidden(batch, options);
    return trace.at(skillset.sites().front().path).at("weights").squeeze(1);
}

TEST(EndToEnd, OrchMoeLearnsIsSavedAndAnswersWithoutATask) {
    SKIP_WITHOUT_TINY_MODEL();
    const fs::path pack = fs::path(POLYAD_SHARED_DIR) / "superni-mini";
    if (!fs::exists(pack)) GTEST_SKIP() << "no tasks at " << pack;
    const auto data = mini();
    if (const char* bundle = std::getenv(bundle_variable)) {  // the new process
        const auto loaded = Skillset::load(tiny::backbone(), fs::path(bundle));
        std::ofstream(std::string(bundle) + ".answers") << answers(loaded, data);
        return;
    }

    const fs::path folder = fs::temp_directory_path() / ("polyad_orchmoe_" + std::to_string(getpid()));
    fs::create_directories(folder);
    const auto skillset = tiny::skillset({{"method", "orchmoe"},
                                          {"rank", 4},
                                          {"n_skills", 4},
                                          {"n_latent_tasks", 6},
                                          {"seed", 3},
                                          {"prompt",
                                           {{"style", "{input} ->"},  // the tiny model reads 128 tokens
                                            {"max_tokens", 112},
                                            {"max_answer_tokens", 20}}}},
                                         *data);
    Trainer trainer(skillset, data,
                    {{"max_steps", 40},
                     {"batch_size", 6},
                     {"learning_rate", 0.01},
                     {"seed", 5},
                     {"validation_examples", 0}});
    const double first = trainer.step().loss;
    while (!trainer.progress().done) trainer.step();
    EXPECT_LT(trainer.progress().loss, 0.8 * first);

    const fs::path bundle = folder / "notes.polyad";
    skillset->save(bundle);
    const std::string here = answers(skillset, data);
    EXPECT_NE(here, answers(tiny::skillset(skillset->config(), *data), data)) << "training changed no answer";

    const std::string self = fs::read_symlink("/proc/self/exe").string();
    const pid_t child = fork();
    if (child == 0) {
        setenv(bundle_variable, bundle.c_str(), 1);
        execl(self.c_str(), self.c_str(), "--gtest_brief=1", static_cast<char*>(nullptr));
        _exit(127);
    }
    int status = -1;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_EQ(status, 0);
    EXPECT_EQ(content(bundle.string() + ".answers"), here);

    // The prompts alone tell the tasks apart: two of one task are closer than those of different ones.
    const at::Tensor weights = routes(*skillset, prompts(*skillset, *data));
    double same = 0.0, other = 0.0;
    int same_count = 0, other_count = 0;
    for (int64_t i = 0; i < 6; ++i)
        for (int64_t j = i + 1; j < 6; ++j) {
            const double apart = (weights[i] - weights[j]).abs().sum().item<double>();
            (i / 2 == j / 2 ? same : other) += apart;
            ++(i / 2 == j / 2 ? same_count : other_count);
        }
    EXPECT_LT(same / same_count, other / other_count);
    fs::remove_all(folder);
}

}  // namespace
}  // namespace polyad
