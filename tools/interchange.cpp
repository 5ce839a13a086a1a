// SPDX-License-Identifier: Apache-2.0
#include <cstdio>

#include "common.h"

namespace cli {
namespace {

struct Import {
    Common common;
    std::string out, options, prompt, combination;
    std::vector<std::string> paths, tasks;
    std::vector<double> weights;
    double density = 0;

    int run() const {
        Json settings = json_argument(options, "options");
        if (!tasks.empty()) settings["tasks"] = tasks;
        if (!prompt.empty()) settings["prompt"]["style"] = prompt;
        if (!combination.empty()) settings["combination"] = combination;
        if (!weights.empty()) settings["weights"] = weights;
        if (density > 0) settings["density"] = density;
        const context_ptr context = common.open_context();
        const backbone_ptr model = common.open_model(context.get());
        const std::string text = settings.dump();
        const skillset_ptr skills = read(model.get(), text);
        check(polyad_skillset_save(skills.get(), out.c_str()));
        const Json info = json_of(polyad_skillset_info, static_cast<const polyad_skillset*>(skills.get()));
        if (common.json)
            std::printf("%s\n", info.dump(2).c_str());
        else if (!common.quiet)
            std::printf("saved %s: method %s, %zu tasks\n", out.c_str(),
                        info["config"]["method"].get<std::string>().c_str(), info["tasks"].size());
        return success;
    }

    /// One folder keeps its own kind; several, or a combination that is asked for, become a set or a merge.
    skillset_ptr read(polyad_backbone* model, const std::string& settings) const {
        if (paths.size() == 1 && combination.empty())
            return make<skillset_ptr>(polyad_skillset_import_peft, model, paths[0].c_str(), settings.c_str());
        std::vector<const char*> folders;
        for (const std::string& path : paths) folders.push_back(path.c_str());
        return make<skillset_ptr>(polyad_skillset_import_peft_set, model, folders.data(), folders.size(),
                                  settings.c_str());
    }
};

struct Export {
    Common common;
    std::string bundle, task, out, format = "peft", options;

    int run() const {
        const std::string text = json_argument(options, "options").dump();
        const context_ptr context = common.open_context();
        const backbone_ptr model = common.open_model(context.get());
        const skillset_ptr skills = make<skillset_ptr>(polyad_skillset_load, model.get(), bundle.c_str());
        const auto write = format == "gguf" ? polyad_skillset_export_gguf : polyad_skillset_export_peft;
        check(write(skills.get(), task.empty() ? nullptr : task.c_str(), out.c_str(), text.c_str()));
        if (common.json)
            std::printf("%s\n", Json{{"out", out}, {"format", format}}.dump(2).c_str());
        else if (!common.quiet)
            std::printf("wrote %s\n", out.c_str());
        return success;
    }
};

}  // namespace

void add_import(CLI::App& app, int& exit) {
    auto import = std::make_shared<Import>();
    CLI::App* sub =
        app.add_subcommand("import", "Make a bundle from one or several Hugging Face PEFT adapters");
    import->common.add_to(*sub, true);
    sub->add_option("paths", import->paths, "Folders with adapter_config.json and adapter_model.safetensors")
        ->required();
    sub->add_option(
        "--combine", import->combination,
        "Several adapters: set (side by side, weights per request; the default), linear, cat, ties, "
        "dare_linear, dare_ties or magnitude_prune (merged)");
    sub->add_option("--mix", import->weights, "A weight per adapter, for a merge")->delimiter(',');
    sub->add_option("--density", import->density, "Share of entries ties, dare_* and magnitude_prune keep");
    sub->add_option("-o,--out", import->out, "Bundle to write")->required();
    sub->add_option("--task-names", import->tasks, "Names of its tasks, in the order of its table")
        ->delimiter(',');
    sub->add_option("--prompt", import->prompt, "Prompt style: auto, chat, plain or a template");
    sub->add_option("--options", import->options, "More options: JSON or a file with it");
    sub->callback([import, &exit] { exit = import->run(); });
}

void add_export(CLI::App& app, int& exit) {
    auto command = std::make_shared<Export>();
    CLI::App* sub = app.add_subcommand(
        "export", "Write a bundle's task as a Hugging Face PEFT folder or a LoRA file for llama.cpp");
    command->common.add_to(*sub, true);
    sub->add_option("-b,--bundle", command->bundle, "Bundle to read")->required();
    sub->add_option("--task", command->task,
                    "Task to write as plain LoRA; without it the whole skillset, where the format has it");
    sub->add_option("--format", command->format, "peft (a folder) or gguf (a file)")
        ->check(CLI::IsMember({"peft", "gguf"}))
        ->capture_default_str();
    sub->add_option("-o,--out", command->out, "Folder or file to write")->required();
    sub->add_option("--options", command->options, "More options: JSON or a file with it");
    sub->callback([command, &exit] { exit = command->run(); });
}

}  // namespace cli
