// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstdio>

#include "common.h"
#include "run_folder.h"

namespace cli {
namespace {

struct Eval {
    Common common;
    std::string bundle, tasks, run_folder, split = "test", mode = "generate", config, out;
    int batch_size = 0, max_tokens = 0;
    int64_t max_examples = 0;
    bool baseline = false;

    evaluator_ptr score(polyad_backbone* model, polyad_skillset* skills, polyad_dataset* data,
                        const Json& options, const char* title) const {
        evaluator_ptr evaluator =
            make<evaluator_ptr>(polyad_evaluator_create, model, skills, data, options.dump().c_str());
        polyad_progress progress;
        polyad_progress_init(&progress);
        ProgressLine line(!common.quiet && !common.json, title);
        while (!progress.done) {
            if (stop_requested) throw Failure(POLYAD_CANCELLED, "stopped; scores are not kept", "");
            check(polyad_evaluator_step(evaluator.get(), &progress));
            line.show(progress, "examples", false);
        }
        return evaluator;
    }

    void read_run();
    int run();
};

double score_of(const Json& scores, const std::string& task, const char* metric) {
    return scores.at("tasks").at(task).at(metric).get<double>();
}

/// What the run says, where the command line does not.
void Eval::read_run() {
    if (!run_folder.empty()) {
        const Json config = RunFolder(run_folder).read("config.json");
        const auto known = [&](std::string& value, const char* key, const char* unsaid) {
            if (value == unsaid && config.contains(key) && config[key].is_string()) value = config[key];
        };
        known(common.model, "model", "");
        known(tasks, "tasks_path", "");
        known(bundle, "bundle", "");
        known(common.precision, "precision", "auto");
        known(common.weights, "weights", "auto");
    }
    if (common.model.empty()) throw CLI::RequiredError("--model (or --run)");
    if (tasks.empty()) throw CLI::RequiredError("--tasks (or --run)");
}

int Eval::run() {
    read_run();
    const context_ptr context = common.open_context();
    const backbone_ptr model = common.open_model(context.get());
    const dataset_ptr data = make<dataset_ptr>(polyad_dataset_open, context.get(), tasks.c_str(), nullptr);
    const skillset_ptr skills =
        bundle.empty() ? nullptr : make<skillset_ptr>(polyad_skillset_load, model.get(), bundle.c_str());
    Json options = json_argument(config, "evaluation configuration");
    options["split"] = split;
    options["mode"] = mode;
    if (batch_size > 0) options["batch_size"] = batch_size;
    if (max_tokens > 0) options["max_tokens"] = max_tokens;
    if (max_examples > 0) options["max_examples_per_task"] = max_examples;

    Json result;
    std::string table;
    if (!skills || baseline) {
        Json base_options = options;
        if (skills)
            base_options["prompt"] =
                json_of(polyad_skillset_info, skills.get())["config"].value("prompt", Json::object());
        const evaluator_ptr base = score(model.get(), nullptr, data.get(), base_options, "base   ");
        result["base"] = json_of(polyad_evaluator_result, base.get());
        table = text_of(polyad_evaluator_table, base.get());
    }
    if (skills) {
        const evaluator_ptr trained = score(model.get(), skills.get(), data.get(), options, "skills ");
        result["skills"] = json_of(polyad_evaluator_result, trained.get());
        table = text_of(polyad_evaluator_table, trained.get());
    }
    if (!out.empty()) write_whole_file(out, result.dump(2) + "\n");
    if (!run_folder.empty()) RunFolder(run_folder).write("scores.json", result);
    if (common.json) {
        std::printf("%s\n", result.dump(2).c_str());
    } else if (result.contains("base") && result.contains("skills")) {
        size_t width = 4;
        for (const auto& [task, unused] : result["skills"]["tasks"].items())
            width = std::max(width, task.size());
        const int w = static_cast<int>(width);
        std::printf("%-*s  %8s  %16s  %16s\n", w, "", "", "exact match", "ROUGE-L");
        std::printf("%-*s  %8s  %7s  %7s  %7s  %7s\n", w, "task", "examples", "base", "skills", "base",
                    "skills");
        const auto row = [&](const std::string& name, int64_t count, double b1, double s1, double b2,
                             double s2) {
            std::printf("%-*s  %8lld  %7.1f  %7.1f  %7.1f  %7.1f\n", w, name.c_str(),
                        static_cast<long long>(count), b1, s1, b2, s2);
        };
        const Json &b = result["base"], &s = result["skills"];
        for (const auto& [task, scores] : s["tasks"].items())
            row(task, scores["count"].get<int64_t>(), score_of(b, task, "exact_match"),
                score_of(s, task, "exact_match"), score_of(b, task, "rouge_l"), score_of(s, task, "rouge_l"));
        row("all", s["overall"]["count"].get<int64_t>(), b["overall"]["exact_match"].get<double>(),
            s["overall"]["exact_match"].get<double>(), b["overall"]["rouge_l"].get<double>(),
            s["overall"]["rouge_l"].get<double>());
    } else {
        std::printf("%s", table.c_str());
    }
    return success;
}

}  // namespace

void add_eval(CLI::App& app, int& exit) {
    auto eval = std::make_shared<Eval>();
    CLI::App* sub = app.add_subcommand(
        "eval", "Score a bundle, or the backbone alone, on a split: exact match and ROUGE-L");
    eval->common.add_to(*sub, false);
    sub->add_option("-b,--bundle", eval->bundle, "Bundle to score; without it the backbone alone");
    sub->add_option("-t,--tasks", eval->tasks, "Task file, JSON Lines file, or a folder of them");
    sub->add_option("--run", eval->run_folder,
                    "Score a run of `polyad train --run`: its model, tasks and bundle unless given; the "
                    "scores go into it");
    sub->add_option("--split", eval->split, "train, validation or test")->capture_default_str();
    sub->add_option("--mode", eval->mode, "generate (greedy) or labels (rank the label set)")
        ->capture_default_str();
    sub->add_option("--max-tokens", eval->max_tokens, "Longest answer");
    sub->add_option("--batch-size", eval->batch_size, "Rows decoded together");
    sub->add_option("--max-examples", eval->max_examples, "Examples per task; 0 = all");
    sub->add_option("--config", eval->config,
                    "Evaluation configuration: JSON text or file (docs/configuration.md)");
    sub->add_flag("--baseline", eval->baseline, "Score the backbone without skills as well, side by side");
    sub->add_option("-o,--out", eval->out, "Also write the result as JSON to this file");
    sub->callback([eval, &exit] { exit = eval->run(); });
}

}  // namespace cli
