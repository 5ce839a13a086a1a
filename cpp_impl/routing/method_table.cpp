// SPDX-License-Identifier: Apache-2.0
#include "routing/method_table.h"

#include "base/error.h"

namespace polyad {
namespace {

struct Row {
    const char* name;
    const char* summary;
    std::unique_ptr<Method> (*make)(const Json&, const MethodContext&);
    const char* target_modules = "all-linear";
};

constexpr Row rows[] = {
    {"lora",
     "one low-rank adapter for all tasks (arXiv 2106.09685; rsLoRA with \"use_rslora\", DoRA with "
     "\"use_dora\")",
     make_lora},
    {"lora_set", "several LoRAs of any ranks side by side, mixed by given or learned weights", make_lora_set},
    {"poly", "tasks mix shared skills by learned logits (Polytropon, arXiv 2202.13914)", make_poly},
    {"mhr", "Poly with a mixture of its own per block of features (multi-head routing, arXiv 2211.03831)",
     make_poly},
    {"cpoly", "skills common to all tasks plus private ones of each task (C-Poly, arXiv 2312.03248)",
     make_cpoly},
    {"molora", "every token mixes low-rank experts by a router on the layer's input (arXiv 2309.05444)",
     make_molora},
    {"moelora_task", "a task's embedding gates low-rank experts that share the rank (arXiv 2310.18339)",
     make_moelora},
    {"mor1e", "rank-1 experts weighted per token and by the instance's cluster scores (arXiv 2404.08985)",
     make_mor1e},
    {"mixlora",
     "every token runs through the best few of many low-rank variants of its feed-forward (arXiv 2404.15159)",
     make_mixlora},
    {"task_moe",
     "a task's vector routes every layer over expert copies of it, or low-rank ones (arXiv 2205.12701)",
     make_task_moe},
    {"orchmoe",
     "the prompt tells which latent tasks, a table which skills: no task is named (arXiv 2401.10559)",
     make_orchmoe},
    {"private_lora", "one LoRA for each task, nothing shared: the baseline", make_private_lora},
    {"xlora", "a head on the backbone's own states scales LoRA experts per token (arXiv 2402.07148)",
     make_xlora},
    {"pemt_source", "stage 1 of PEMT: an expert and a description prompt per source task (arXiv 2402.15082)",
     make_pemt_source, "feed-forward-out"},
    {"pemt", "a target task's gates mix frozen source experts, led by its prompt (PEMT, arXiv 2402.15082)",
     make_pemt, "feed-forward-out"},
};

const Row& find(std::string_view name) {
    for (const Row& row : rows)
        if (name == row.name) return row;
    std::string known;
    for (const Row& row : rows) known += (known.empty() ? "" : ", ") + std::string(row.name);
    throw Error(Code::invalid_config, text("method.method: '", name, "' is not known, allowed: ", known),
                "method");
}

}  // namespace

std::unique_ptr<Method> make_method(const Json& config, const MethodContext& context) {
    if (!config.is_object())
        fail(Code::invalid_config, "method must be a JSON object, got ", config.type_name());
    const auto name = config.find("method");
    if (name == config.end() || !name->is_string())
        throw Error(Code::invalid_config, "method.method: needs the name of a method, for example \"cpoly\"",
                    "method");
    if (context.tasks < 0) fail(Code::invalid_argument, "the number of tasks is negative");
    return find(name->get<std::string>()).make(config, context);
}

std::vector<std::string> method_names() {
    std::vector<std::string> names;
    for (const Row& row : rows) names.emplace_back(row.name);
    return names;
}

std::string method_summary(std::string_view name) {
    return find(name).summary;
}

const char* default_target_modules(std::string_view method) {
    return find(method).target_modules;
}

}  // namespace polyad
