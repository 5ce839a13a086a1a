// SPDX-License-Identifier: Apache-2.0
// New bundles from parts of a trained one: plain weights of one task, a second stage, a changed
// configuration.
#include <cstdio>

#include "common.h"

namespace cli {
namespace {

struct Derive {
    Common common;
    std::string bundle, out, form = "copy", task, changes, tasks, start = "fresh";
    std::vector<std::string> disabled;

    /// "LAYER:EXPERT" as [layer, expert].
    static Json disabled_expert(const std::string& text) {
        const size_t colon = text.find(':');
        size_t layer_end = 0, expert_end = 0;
        try {
            if (colon != std::string::npos) {
                const int layer = std::stoi(text.substr(0, colon), &layer_end),
                          expert = std::stoi(text.substr(colon + 1), &expert_end);
                if (layer_end == colon && expert_end == text.size() - colon - 1) return {layer, expert};
            }
        } catch (const std::logic_error&) {  // what stoi throws
        }
        throw CLI::ValidationError("--disable", "'" + text + "' is not LAYER:EXPERT, for example 3:0");
    }

    int run() const {
        Json options{{"form", form}};
        if (!task.empty()) options["task"] = task;
        Json over = json_argument(changes, "changes");
        for (const std::string& expert : disabled)
            over["disabled_experts"].push_back(disabled_expert(expert));
        if (!over.empty()) options["changes"] = over;
        const context_ptr context = common.open_context();
        const backbone_ptr model = common.open_model(context.get());
        const skillset_ptr learned = make<skillset_ptr>(polyad_skillset_load, model.get(), bundle.c_str());
        if (!tasks.empty()) {
            const dataset_ptr data = make<dataset_ptr>(polyad_dataset_open, context.get(), tasks.c_str(), "");
            add_new_tasks(learned.get(), data.get(), start);
        }
        const skillset_ptr derived =
            make<skillset_ptr>(polyad_skillset_derive, learned.get(), options.dump().c_str());
        check(polyad_skillset_save(derived.get(), out.c_str()));
        const Json info = json_of(polyad_skillset_info, static_cast<const polyad_skillset*>(derived.get()));
        if (common.json)
            std::printf("%s\n", info.dump(2).c_str());
        else if (!common.quiet)
            std::printf("saved %s: method %s, %zu tasks, %.2fM trainable of %.2fM parameters\n", out.c_str(),
                        info["config"]["method"].get<std::string>().c_str(), info["tasks"].size(),
                        info["parameters"]["trainable"].get<double>() / 1e6,
                        info["parameters"]["stored"].get<double>() / 1e6);
        return success;
    }
};

}  // namespace

void add_derive(CLI::App& app, int& exit) {
    auto derive = std::make_shared<Derive>();
    CLI::App* sub = app.add_subcommand(
        "derive",
        "Make a bundle from parts of another: one task as plain weights, a second stage, other routes");
    derive->common.add_to(*sub, true);
    sub->add_option("-b,--bundle", derive->bundle, "Bundle to start from")->required();
    sub->add_option("-o,--out", derive->out, "Bundle to write")->required();
    sub->add_option(
           "--form", derive->form,
           "copy, squeeze (one task as plain weights), second_stage, keep_moe_route, avg (the last three "
           "for Task-level MoE)")
        ->capture_default_str();
    sub->add_option("--task", derive->task, "The task squeeze keeps");
    sub->add_option("--disable", derive->disabled, "LAYER:EXPERT that no route may take any more (several)");
    sub->add_option("--changes", derive->changes, "Configuration over the bundle's: JSON text or file");
    sub->add_option("-t,--tasks", derive->tasks,
                    "Data whose tasks are added first where the bundle lacks them");
    sub->add_option("--start", derive->start, "Routing of added tasks: fresh or uniform")
        ->capture_default_str();
    sub->callback([derive, &exit] { exit = derive->run(); });
}

}  // namespace cli
