// SPDX-License-Identifier: Apache-2.0
#include "objects.h"
#include "routing/gguf_export.h"
#include "routing/peft_export.h"
#include "routing/peft_skillset.h"

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

}  // namespace

polyad_status* polyad_skillset_import_peft(polyad_backbone* backbone, const char* path,
                                           const char* options_text, polyad_skillset** skillset) {
    return guarded([&] {
        clear_out(skillset, "skillset");
        const std::filesystem::path folder = required_string(path, "path");
        const Json options = options_json(options_text, "options");
        *skillset = make_skillset(
            backbone, [&](const auto& model) { return import_peft(model, open_peft(folder), options); });
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
