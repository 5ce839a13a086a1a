// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "objects.h"
#include "routing/gguf_export.h"
#include "routing/peft_export.h"
#include "routing/peft_set.h"

using namespace polyad;
using namespace polyad::capi;

namespace {

/// Runs write(skillset, task index or -1, path, options) where computing is done.
template <class Write>
polyad_status* exported(const polyad_skillset* skillset, const char* task, const char* path,
                        const char* options_text, Write write) {
    return guarded([&] {
        const auto object = get(skillset);
        const std::filesystem::path target = required_string(path, "path");
        const Json options = options_json(options_text, "options");
        const std::string name = task ? required_string(task, "task") : std::string();
        const Shared hold(object->use, "skillset");
        object->backbone->context->compute->run([&] {
            const Skillset& source = *object->skillset;
            write(source, task ? source.task_index(name) : -1, target, options);
        });
    });
}

/// Last parts of the paths, numbered where two are alike.
std::vector<std::string> folder_names(const std::vector<std::filesystem::path>& folders) {
    std::vector<std::string> names;
    for (const std::filesystem::path& folder : folders) {
        const std::filesystem::path whole = std::filesystem::absolute(folder).lexically_normal();
        const std::string name = (whole.has_filename() ? whole : whole.parent_path()).filename().string();
        std::string free = name.empty() ? "adapter" : name;
        for (int i = 2; std::find(names.begin(), names.end(), free) != names.end(); ++i)
            free = name + " " + std::to_string(i);
        names.push_back(free);
    }
    return names;
}

}  // namespace

polyad_status* polyad_skillset_import_peft(polyad_backbone* backbone, const char* path,
                                           const char* options_text, polyad_skillset** skillset) {
    return guarded([&] {
        clear_out(skillset, "skillset");
        const std::filesystem::path folder = required_string(path, "path");
        const Json options = options_json(options_text, "options");
        *skillset = make_skillset(
            backbone, [&](const auto& model) { return import_peft_folder(model, folder, options); });
    });
}

polyad_status* polyad_skillset_import_peft_set(polyad_backbone* backbone, const char* const* paths,
                                               size_t count, const char* options_text,
                                               polyad_skillset** skillset) {
    return guarded([&] {
        clear_out(skillset, "skillset");
        if (!paths || count == 0) fail(Code::invalid_argument, "'paths' names no folder");
        std::vector<std::filesystem::path> folders;
        for (size_t i = 0; i < count; ++i) folders.emplace_back(required_string(paths[i], "paths"));
        const Json options = options_json(options_text, "options");
        *skillset = make_skillset(backbone, [&](const auto& model) {
            std::vector<PeftAdapter> adapters;
            for (const auto& folder : folders) adapters.push_back(open_peft(folder));
            return import_peft_set(model, adapters, folder_names(folders), options);
        });
    });
}

polyad_status* polyad_skillset_export_peft(const polyad_skillset* skillset, const char* task,
                                           const char* path, const char* options_json) {
    return exported(skillset, task, path, options_json,
                    [](const Skillset& source, int index, const std::filesystem::path& folder,
                       const Json& options) { write_peft(folder, export_peft(source, index, options)); });
}

polyad_status* polyad_skillset_export_gguf(const polyad_skillset* skillset, const char* task,
                                           const char* path, const char* options_json) {
    return exported(
        skillset, task, path, options_json,
        [](const Skillset& source, int index, const std::filesystem::path& file, const Json& options) {
            write_file_atomically(file, std::string_view(export_gguf_lora(source, index, options)));
        });
}
