// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>

#include "common.h"
#include "run_folder.h"

namespace cli {
namespace {

struct Train {
    Common common;
    std::string tasks, out, run_folder, method = "cpoly", config, training, checkpoint, prompt_style,
                                        start = "fresh", bad_rows = "error", init;
    std::vector<std::string> targets;
    int rank = 0, batch_size = 0, checkpoint_every = 0;
    double epochs = 0, learning_rate = 0;
    int64_t seed = 0, max_examples = 0, max_steps = 0;
    bool resume = false;

    Json method_config() const {
        Json c = json_argument(config, "method configuration");
        if (!c.contains("method")) c["method"] = method;
        if (rank > 0) c["rank"] = rank;
        if (!c.contains("seed")) c["seed"] = seed;
        if (!targets.empty()) c["target_modules"] = targets.size() == 1 ? Json(targets[0]) : Json(targets);
        if (!prompt_style.empty()) c["prompt"]["style"] = prompt_style;
        return c;
    }

    Json training_config() const {
        Json c = json_argument(training, "training configuration");
        if (epochs > 0) c["epochs"] = epochs;
        if (max_steps > 0) c["max_steps"] = max_steps;
        if (batch_size > 0) c["batch_size"] = batch_size;
        if (learning_rate > 0) c["learning_rate"] = learning_rate;
        if (!c.contains("seed")) c["seed"] = seed;
        return c;
    }

    /// Few-shot: tasks of the data that the loaded bundle does not know get a row of their own.
    void add_new_tasks(polyad_skillset* skills, const polyad_dataset* data) const {
        const Json known =
            json_of(polyad_skillset_info, static_cast<const polyad_skillset*>(skills))["tasks"];
        const Json wanted = json_of(polyad_dataset_info, data)["tasks"];
        for (const Json& task : wanted) {
            const auto same = [&](const Json& k) { return k["name"] == task["name"]; };
            if (std::any_of(known.begin(), known.end(), same)) continue;
            check(polyad_skillset_add_task(skills, data, task["name"].get<std::string>().c_str(),
                                           start.c_str()));
        }
    }

    /// What a run folder keeps beside the bundle.
    void write_run(const RunFolder& folder, const polyad_backbone* model, const polyad_dataset* data,
                   const polyad_skillset* skills, const polyad_trainer* trainer) const;
    int run();
};

void Train::write_run(const RunFolder& folder, const polyad_backbone* model, const polyad_dataset* data,
                      const polyad_skillset* skills, const polyad_trainer* trainer) const {
    Json backbone = json_of(polyad_backbone_info, model), list = json_of(polyad_dataset_info, data)["tasks"];
    backbone.erase("sites");
    for (Json& task : list) task.erase("instruction");
    const Json info = json_of(polyad_skillset_info, skills);
    folder.write("config.json", {{"format", "polyad-run"},
                                 {"polyad", polyad_version_string()},
                                 {"model", std::filesystem::absolute(common.model).string()},
                                 {"precision", common.precision},
                                 {"weights", common.weights},
                                 {"tasks_path", std::filesystem::absolute(tasks).string()},
                                 {"bundle", std::filesystem::absolute(out).string()},
                                 {"backbone", std::move(backbone)},
                                 {"tasks", std::move(list)},
                                 {"method", info["config"]},
                                 {"parameters", info["parameters"]}});
    folder.write("training.json", json_of(polyad_trainer_report, trainer));
    folder.write("routing.json", routing_of(skills, data));
}

int Train::run() {
    const RunFolder folder(run_folder);
    if (out.empty() && run_folder.empty()) throw CLI::RequiredError("--out or --run");
    if (!run_folder.empty()) folder.create();
    if (out.empty()) out = folder.bundle();
    const bool talk = !common.quiet && !common.json;
    const context_ptr context = common.open_context();
    const backbone_ptr model = common.open_model(context.get());
    const Json data_options{{"on_bad_row", bad_rows}, {"max_examples_per_task", max_examples}};
    const dataset_ptr data =
        make<dataset_ptr>(polyad_dataset_open, context.get(), tasks.c_str(), data_options.dump().c_str());
    const skillset_ptr skills = init.empty()
                                    ? make<skillset_ptr>(polyad_skillset_create, model.get(), data.get(),
                                                         method_config().dump().c_str())
                                    : make<skillset_ptr>(polyad_skillset_load, model.get(), init.c_str());
    if (!init.empty()) add_new_tasks(skills.get(), data.get());
    const trainer_ptr trainer =
        make<trainer_ptr>(polyad_trainer_create, skills.get(), data.get(), training_config().dump().c_str());

    const std::string saved = checkpoint.empty() ? out + ".checkpoint" : checkpoint;
    if (resume) {
        check(polyad_trainer_resume(trainer.get(), saved.c_str()));
        if (talk) std::fprintf(stderr, "going on from %s\n", saved.c_str());
    }
    if (talk) {
        const Json m = json_of(polyad_backbone_info, model.get()),
                   s = json_of(polyad_skillset_info, skills.get());
        const Json d = json_of(polyad_dataset_info, data.get());
        size_t rows = 0;
        for (const Json& task : d["tasks"]) rows += task["train"].get<size_t>();
        std::fprintf(stderr, "backbone  %s: %s, %lld layers, %.0fM parameters, %s\n",
                     m["name"].get<std::string>().c_str(), m["family"].get<std::string>().c_str(),
                     m["layers"].get<long long>(), m["parameters"].get<double>() / 1e6,
                     m["precision"].get<std::string>().c_str());
        std::fprintf(stderr, "tasks     %zu with %zu training rows\n", d["tasks"].size(), rows);
        if (!d["bad_rows"].empty())
            std::fprintf(stderr, "          %zu bad rows skipped\n", d["bad_rows"].size());
        const Json& config = s["config"];
        const std::string rank_text = config.contains("rank") ? ", rank " + config["rank"].dump() : "";
        std::fprintf(stderr, "skills    %s%s, %.2fM trainable parameters on %lld sites\n",
                     config["method"].get<std::string>().c_str(), rank_text.c_str(),
                     s["parameters"]["trainable"].get<double>() / 1e6, s["sites"].get<long long>());
    }

    polyad_progress progress;
    polyad_progress_init(&progress);
    ProgressLine line(talk, "train");
    int64_t last_saved = progress.step;
    while (!progress.done) {
        if (stop_requested) {
            line.finish();
            check(polyad_trainer_save_checkpoint(trainer.get(), saved.c_str()));
            std::fprintf(
                stderr,
                "stopped at step %lld; saved %s\ngo on with the same command and --resume --checkpoint %s\n",
                static_cast<long long>(progress.step), saved.c_str(), saved.c_str());
            return interrupted;
        }
        check(polyad_trainer_step(trainer.get(), &progress));
        line.show(progress, "steps", true);
        if (checkpoint_every > 0 && progress.step - last_saved >= checkpoint_every) {
            check(polyad_trainer_save_checkpoint(trainer.get(), saved.c_str()));
            last_saved = progress.step;
        }
    }
    line.finish();
    check(polyad_skillset_save(skills.get(), out.c_str()));
    if (checkpoint_every > 0 || resume) std::filesystem::remove(saved);
    if (!run_folder.empty()) write_run(folder, model.get(), data.get(), skills.get(), trainer.get());
    if (talk) {
        if (progress.stopped_early) std::fprintf(stderr, "validation stopped improving; best weights kept\n");
        if (progress.truncated_rows > 0)
            std::fprintf(stderr, "%lld prompts were longer than max_tokens and were cut on the left\n",
                         static_cast<long long>(progress.truncated_rows));
        std::fprintf(stderr, "saved %s (%.1f MB)\n", out.c_str(),
                     static_cast<double>(std::filesystem::file_size(out)) / 1e6);
    }
    if (common.json) {
        Json report = json_of(polyad_trainer_report, trainer.get());
        report["bundle"] = out;
        std::printf("%s\n", report.dump(2).c_str());
    }
    return success;
}

}  // namespace

void add_train(CLI::App& app, int& exit) {
    auto train = std::make_shared<Train>();
    CLI::App* sub =
        app.add_subcommand("train", "Train skills on a folder of tasks and save them as one bundle");
    train->common.add_to(*sub, true);
    sub->add_option("-t,--tasks", train->tasks, "Task file, JSON Lines file, or a folder of them")
        ->required();
    sub->add_option("-o,--out", train->out, "Bundle to write (with --run: DIR/skills.polyad unless given)");
    sub->add_option("--run", train->run_folder,
                    "Folder that keeps the run for `polyad eval --run` and `polyad report`");
    sub->add_option("--method", train->method, "lora, poly, mhr, cpoly, ... (polyad --version lists them)")
        ->capture_default_str();
    sub->add_option("--rank", train->rank, "Rank of one skill (default: the method's own, 8 for most)");
    sub->add_option("--target-modules", train->targets,
                    "Sites by last name (q_proj v_proj ...) or one regular expression");
    sub->add_option("--config", train->config,
                    "Method configuration: JSON text or file (docs/configuration.md)");
    sub->add_option("--training", train->training,
                    "Training configuration: JSON text or file (docs/configuration.md)");
    sub->add_option("--epochs", train->epochs, "Passes over the training rows");
    sub->add_option("--max-steps", train->max_steps, "Optimiser steps, instead of --epochs");
    sub->add_option("--batch-size", train->batch_size, "Rows per step");
    sub->add_option("--learning-rate", train->learning_rate,
                    "Of the skills; the router's follows unless configured");
    sub->add_option("--max-examples", train->max_examples, "Training rows per task; 0 = all");
    sub->add_option("--prompt", train->prompt_style,
                    "auto, chat, plain, or a text with {instruction} and {input}");
    sub->add_option("--on-bad-row", train->bad_rows, "error or skip")->capture_default_str();
    sub->add_option("--seed", train->seed, "Same seed, same weights")->capture_default_str();
    sub->add_option("--init", train->init,
                    "Start from this bundle instead of fresh skills (few-shot: new tasks are added)");
    sub->add_option("--start", train->start,
                    "With --init, routing of tasks the bundle does not know: fresh or uniform")
        ->capture_default_str();
    sub->add_option("--checkpoint", train->checkpoint, "Checkpoint file (default: OUT.checkpoint)");
    sub->add_option("--checkpoint-every", train->checkpoint_every,
                    "Steps between checkpoints; 0 = only on Ctrl-C");
    sub->add_flag("--resume", train->resume, "Go on from the checkpoint, bit for bit");
    sub->callback([train, &exit] { exit = train->run(); });
}

}  // namespace cli
