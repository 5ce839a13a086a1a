// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "common.h"

namespace cli {
namespace {

enum class What { model, bundle, tasks };

What guess(const std::string& path) {
    namespace fs = std::filesystem;
    if (!fs::exists(path)) throw Failure(POLYAD_NOT_FOUND, "'" + path + "' does not exist", path);
    if (fs::is_directory(path)) return fs::exists(fs::path(path) / "config.json") ? What::model : What::tasks;
    std::ifstream file(path, std::ios::binary);
    char magic[4] = {};
    file.read(magic, sizeof magic);
    if (std::string(magic, 4) == "GGUF") return What::model;
    const std::string ending = fs::path(path).extension().string();
    return ending == ".json" || ending == ".jsonl" ? What::tasks : What::bundle;
}

void print_tasks(const Json& info) {
    size_t width = 4;
    for (const Json& task : info["tasks"]) width = std::max(width, task["name"].get<std::string>().size());
    const int w = static_cast<int>(width);
    std::printf("%-*s  %6s  %10s  %5s  %6s  %s\n", w, "task", "train", "validation", "test", "labels",
                "category");
    for (const Json& task : info["tasks"])
        std::printf("%-*s  %6zu  %10zu  %5zu  %6zu  %s\n", w, task["name"].get<std::string>().c_str(),
                    task["train"].get<size_t>(), task["validation"].get<size_t>(), task["test"].get<size_t>(),
                    task["labels"].size(), task["category"].get<std::string>().c_str());
    for (const Json& row : info["bad_rows"])
        std::printf("bad row %s:%lld: %s\n", row["file"].get<std::string>().c_str(),
                    row["line"].get<long long>(), row["why"].get<std::string>().c_str());
}

void print_model(const Json& info) {
    for (const char* key : {"name", "family", "layers", "width", "vocab", "context", "parameters",
                            "precision", "tokenizer", "fingerprint"})
        std::printf("%-12s %s\n", key,
                    info[key].is_string() ? info[key].get<std::string>().c_str() : info[key].dump().c_str());
    std::printf("%-12s %zu\n", "sites", info["sites"].size());
    for (size_t i = 0; i < info["sites"].size() && i < 8; ++i) {
        const Json& site = info["sites"][i];
        std::printf("  %-40s %lld -> %lld\n", site["path"].get<std::string>().c_str(),
                    site["d_in"].get<long long>(), site["d_out"].get<long long>());
    }
    if (info["sites"].size() > 8) std::printf("  ... and %zu more\n", info["sites"].size() - 8);
}

void print_bundle(const Json& info) {
    std::printf("%-12s %s\n", "backbone", info["backbone"].value("name", std::string("?")).c_str());
    std::printf("%-12s %s\n", "fingerprint", info["backbone"].value("fingerprint", std::string("?")).c_str());
    std::printf("%-12s %.2fM\n", "parameters", info["parameters"]["stored"].get<double>() / 1e6);
    std::printf("%-12s %zu\n", "tensors", info["tensors"].size());
    std::printf("config\n%s\n", info["config"].dump(2).c_str());
    std::printf("tasks\n");
    for (const Json& task : info["tasks"]) std::printf("  %s\n", task["name"].get<std::string>().c_str());
}

/// The mixture of every task: which skills it uses, averaged over the sites.
void print_skill_weights(const polyad_skillset* skills, const Json& info) {
    const Json& tasks = info["tasks"];
    size_t width = 4;
    for (const Json& task : tasks) width = std::max(width, task["name"].get<std::string>().size());
    std::printf("skills each task uses (mean weight over sites; '.' is below 0.05)\n");
    if (const auto sources = info["config"].find("sources"); sources != info["config"].end()) {
        std::printf("  columns:");  // the skills are other tasks' experts
        for (const Json& source : *sources) std::printf(" %s", source.value("name", "?").c_str());
        std::printf("\n");
    }
    for (const Json& task : tasks) {
        const std::string name = task["name"];
        size_t count = 0;
        check(polyad_skillset_task_weights(skills, name.c_str(), nullptr, 0, &count));
        std::vector<float> weights(count);
        check(polyad_skillset_task_weights(skills, name.c_str(), weights.data(), count, &count));
        std::printf("  %-*s", static_cast<int>(width), name.c_str());
        for (const float w : weights) {
            if (w < 0.05f && w > -0.05f)
                std::printf("     .");
            else
                std::printf("  %4.2f", w);
        }
        std::printf("\n");
    }
}

struct Inspect {
    Common common;
    std::string path;

    int run() {
        const context_ptr context = common.open_context();
        Json info;
        switch (guess(path)) {
            case What::model: {
                common.model = path;
                common.weights = "packed";
                const backbone_ptr model = common.open_model(context.get());
                info = json_of(polyad_backbone_info, static_cast<const polyad_backbone*>(model.get()));
                if (!common.json) print_model(info);
                break;
            }
            case What::bundle:
                info = json_of(polyad_bundle_inspect, context.get(), path.c_str());
                if (!common.json) print_bundle(info);
                if (!common.json && !common.model.empty()) {
                    const backbone_ptr model = common.open_model(context.get());
                    const skillset_ptr skills =
                        make<skillset_ptr>(polyad_skillset_load, model.get(), path.c_str());
                    print_skill_weights(skills.get(), info);
                }
                break;
            case What::tasks: {
                const dataset_ptr data = make<dataset_ptr>(polyad_dataset_open, context.get(), path.c_str(),
                                                           R"({"on_bad_row":"skip"})");
                info = json_of(polyad_dataset_info, static_cast<const polyad_dataset*>(data.get()));
                if (!common.json) print_tasks(info);
                break;
            }
        }
        if (common.json) std::printf("%s\n", info.dump(2).c_str());
        return success;
    }
};

struct Tasks {
    Common common;
    std::string path, task, split = "train";
    int64_t examples = 0;

    int run() const {
        const context_ptr context = common.open_context();
        const dataset_ptr data =
            make<dataset_ptr>(polyad_dataset_open, context.get(), path.c_str(), R"({"on_bad_row":"skip"})");
        Json info = json_of(polyad_dataset_info, static_cast<const polyad_dataset*>(data.get()));
        if (examples > 0) {
            const int32_t which = split == "train"        ? POLYAD_TRAIN
                                  : split == "validation" ? POLYAD_VALIDATION
                                                          : POLYAD_TEST;
            for (Json& entry : info["tasks"]) {
                const std::string name = entry["name"];
                if (!task.empty() && name != task) continue;
                for (int64_t i = 0; i < std::min(examples, entry[split].get<int64_t>()); ++i)
                    entry["examples"].push_back(json_of(polyad_dataset_example,
                                                        static_cast<const polyad_dataset*>(data.get()),
                                                        name.c_str(), which, i));
            }
        }
        if (common.json) {
            std::printf("%s\n", info.dump(2).c_str());
            return success;
        }
        print_tasks(info);
        for (const Json& entry : info["tasks"]) {
            if (!entry.contains("examples")) continue;
            std::printf("\n%s: %s\n", entry["name"].get<std::string>().c_str(),
                        entry["instruction"].get<std::string>().c_str());
            for (const Json& e : entry["examples"])
                std::printf("  %s\n    -> %s\n", e["input"].get<std::string>().c_str(),
                            e["outputs"][0].get<std::string>().c_str());
        }
        return success;
    }
};

}  // namespace

void add_inspect(CLI::App& app, int& exit) {
    auto inspect = std::make_shared<Inspect>();
    CLI::App* sub = app.add_subcommand(
        "inspect",
        "Say what a model, a bundle (with --model: and the skills each task uses) or a task file holds");
    inspect->common.add_to(*sub, false);
    sub->add_option("path", inspect->path, "GGUF file, Hugging Face folder, bundle, task file or folder")
        ->required();
    sub->callback([inspect, &exit] { exit = inspect->run(); });
}

void add_tasks(CLI::App& app, int& exit) {
    auto tasks = std::make_shared<Tasks>();
    CLI::App* sub = app.add_subcommand("tasks", "List tasks, their sizes, and examples");
    tasks->common.add_to(*sub, false);
    sub->add_option("path", tasks->path, "Task file, JSON Lines file, or a folder of them")->required();
    sub->add_option("--examples", tasks->examples, "Examples to show per task")->capture_default_str();
    sub->add_option("--task", tasks->task, "Show examples of this task only");
    sub->add_option("--split", tasks->split, "train, validation or test")
        ->check(CLI::IsMember({"train", "validation", "test"}));
    sub->callback([tasks, &exit] { exit = tasks->run(); });
}

}  // namespace cli
