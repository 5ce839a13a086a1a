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
                                        start = "fresh", bad_rows = "error", init, source_tasks, source_out,
                                        source_config, source_training;
    std::vector<std::string> targets, sources;
    int rank = 0, batch_size = 0, checkpoint_every = 0;
    double epochs = 0, learning_rate = 0;
    int64_t seed = 0, max_examples = 0, max_steps = 0;
    bool resume = false;

    /// One skillset trained on one data set: all of most runs, each stage of a method with two.
    struct Stage {
        std::string tasks, out, checkpoint, title;
        Json method, training;
        bool resume = false;
    };

    /// Where a first stage keeps its bundle: words.polyad -> words.sources.polyad.
    std::string source_bundle() const {
        if (!source_out.empty()) return source_out;
        std::filesystem::path path = out;
        return path.replace_extension(".sources.polyad").string();
    }

    Json method_config(const std::string& given, const std::string& name, bool with_rank) const {
        Json c = json_argument(given, "method configuration");
        if (!c.contains("method")) c["method"] = name;
        if (rank > 0 && with_rank) c["rank"] = rank;
        if (!c.contains("seed")) c["seed"] = seed;
        if (!targets.empty()) c["target_modules"] = targets.size() == 1 ? Json(targets[0]) : Json(targets);
        if (!prompt_style.empty()) c["prompt"]["style"] = prompt_style;
        return c;
    }

    Json training_config(const std::string& given) const {
        Json c = json_argument(given, "training configuration");
        if (epochs > 0) c["epochs"] = epochs;
        if (max_steps > 0) c["max_steps"] = max_steps;
        if (batch_size > 0) c["batch_size"] = batch_size;
        if (learning_rate > 0) c["learning_rate"] = learning_rate;
        if (!c.contains("seed")) c["seed"] = seed;
        return c;
    }

    /// What a run folder keeps beside the bundle.
    void write_run(const RunFolder& folder, const polyad_backbone* model, const polyad_dataset* data,
                   const polyad_skillset* skills, const polyad_trainer* trainer) const;
    /// Trains a stage and saves its bundle; `report` receives the trainer's.
    int run(const Stage& stage, polyad_context* context, polyad_backbone* model, Json& report) const;
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
    const context_ptr context = common.open_context();
    const backbone_ptr model = common.open_model(context.get());
    Json report, first_report;
    Stage stage{tasks, out,    checkpoint.empty() ? out + ".checkpoint" : checkpoint,
                "",    Json(), training_config(training),
                resume};
    std::vector<std::string> bundles = sources;
    if (!source_tasks.empty()) {
        Stage first{source_tasks, source_bundle(), source_bundle() + ".checkpoint", "stage 1", Json(), Json(),
                    false};
        first.method = method_config(source_config, method + "_source", true);
        first.training = training_config(source_training.empty() ? training : source_training);
        first.resume = resume && std::filesystem::exists(first.checkpoint);
        stage.title = "stage 2";
        if (resume && !first.resume && std::filesystem::exists(first.out)) {
            if (!common.quiet && !common.json)
                std::fprintf(stderr, "stage 1 is done: %s\n", first.out.c_str());
        } else {
            if (const int exit = run(first, context.get(), model.get(), first_report); exit != success)
                return exit;
        }
        // Stopped in stage 1, the second has no checkpoint to go on from.
        stage.resume = resume && std::filesystem::exists(stage.checkpoint);
        bundles.push_back(first.out);
    }
    if (init.empty()) {
        stage.method = method_config(config, method, source_tasks.empty());
        if (!bundles.empty()) stage.method["sources"] = bundles;
    }
    if (const int exit = run(stage, context.get(), model.get(), report); exit != success) return exit;
    if (common.json) {
        if (!first_report.is_null()) report["stage1"] = std::move(first_report);
        std::printf("%s\n", report.dump(2).c_str());
    }
    return success;
}

int Train::run(const Stage& stage, polyad_context* context, polyad_backbone* model, Json& report) const {
    const bool talk = !common.quiet && !common.json;
    if (talk && !stage.title.empty()) std::fprintf(stderr, "%s\n", stage.title.c_str());
    const Json data_options{{"on_bad_row", bad_rows}, {"max_examples_per_task", max_examples}};
    const dataset_ptr data =
        make<dataset_ptr>(polyad_dataset_open, context, stage.tasks.c_str(), data_options.dump().c_str());
    const bool fresh = !stage.method.is_null();
    skillset_ptr skills =
        fresh ? make<skillset_ptr>(polyad_skillset_create, model, data.get(), stage.method.dump().c_str())
              : make<skillset_ptr>(polyad_skillset_load, model, init.c_str());
    if (!fresh) {
        if (!config.empty()) {
            const Json options{{"form", "copy"}, {"changes", json_argument(config, "method configuration")}};
            skills = make<skillset_ptr>(polyad_skillset_derive, skills.get(), options.dump().c_str());
        }
        add_new_tasks(skills.get(), data.get(), start);
    }
    const trainer_ptr trainer =
        make<trainer_ptr>(polyad_trainer_create, skills.get(), data.get(), stage.training.dump().c_str());

    const std::string& saved = stage.checkpoint;
    if (stage.resume) {
        check(polyad_trainer_resume(trainer.get(), saved.c_str()));
        if (talk) std::fprintf(stderr, "going on from %s\n", saved.c_str());
    }
    if (talk) {
        const Json m = json_of(polyad_backbone_info, static_cast<const polyad_backbone*>(model)),
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
    check(polyad_skillset_save(skills.get(), stage.out.c_str()));
    if (checkpoint_every > 0 || stage.resume) std::filesystem::remove(saved);
    if (!run_folder.empty() && stage.out == out)  // the run is about what the last stage made
        write_run(RunFolder(run_folder), model, data.get(), skills.get(), trainer.get());
    if (talk) {
        if (progress.stopped_early) std::fprintf(stderr, "validation stopped improving; best weights kept\n");
        if (progress.truncated_rows > 0)
            std::fprintf(stderr, "%lld prompts were longer than max_tokens and were cut on the left\n",
                         static_cast<long long>(progress.truncated_rows));
        std::fprintf(stderr, "saved %s (%.1f MB)\n", stage.out.c_str(),
                     static_cast<double>(std::filesystem::file_size(stage.out)) / 1e6);
    }
    report = json_of(polyad_trainer_report, trainer.get());
    report["bundle"] = stage.out;
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
    sub->add_option("--sources", train->sources,
                    "With --method pemt: bundles of pemt_source whose experts the targets mix");
    sub->add_option("--source-tasks", train->source_tasks,
                    "With --method pemt: both stages; the first trains one expert per task of this data");
    sub->add_option("--source-out", train->source_out,
                    "With --source-tasks, the first stage's bundle (default: OUT with .sources.polyad)")
        ->needs("--source-tasks");
    sub->add_option("--source-config", train->source_config, "As --config, of the first stage")
        ->needs("--source-tasks");
    sub->add_option("--source-training", train->source_training,
                    "As --training, of the first stage (default: the same)")
        ->needs("--source-tasks");
    sub->add_option("--config", train->config,
                    "Method configuration: JSON text or file (docs/configuration.md); with --init, changes "
                    "to the bundle's");
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
                    "Start from this bundle instead of fresh skills (few-shot: new tasks are added)")
        ->excludes("--sources")
        ->excludes("--source-tasks");
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
