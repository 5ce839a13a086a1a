// SPDX-License-Identifier: Apache-2.0
#include "routing/peft_skillset.h"

#include <ATen/core/grad_mode.h>

#include <cmath>
#include <map>

#include "base/error.h"
#include "routing/peft_experts.h"
#include "routing/stored_values.h"

namespace polyad {
namespace {

Json config_of(const PeftAdapter& adapter) {
    Json modules = Json::array();
    for (const PeftModule& module : adapter.modules) modules.push_back(module.path);
    Json config = {{"rank", adapter.rank}, {"target_modules", std::move(modules)}};
    if (adapter.kind == PeftKind::poly) {
        config["method"] = adapter.splits > 1 ? "mhr" : "poly";
        config["n_skills"] = adapter.skills;
        config["n_splits"] = adapter.splits;
        config["init"] = "peft_poly";
        return config;
    }
    config["method"] = "lora";
    config["alpha"] = adapter.alpha;
    // rsLoRA is a scale and may stand beside DoRA.
    const bool rooted = adapter.config.value("use_rslora", Json(false)) == true;
    config["use_rslora"] = rooted;
    config["use_dora"] = adapter.kind == PeftKind::dora;
    config["lora_dropout"] = adapter.dropout;
    const auto rank = static_cast<double>(adapter.rank);
    const double scale = adapter.alpha / (rooted ? std::sqrt(rank) : rank);
    for (const PeftModule& module : adapter.modules)
        if (module.rank != adapter.rank || std::abs(module.scale - scale) > 1e-9 * scale)
            fail(Code::unsupported, "module '", module.path, "' has rank ", module.rank, " and scale ",
                 module.scale, ", the adapter has ", adapter.rank, " and ", scale,
                 ": one rank and scale for all is needed");
    return config;
}

/// Values under the names the method gives them. PEFT keeps Poly's factors as [splits, skills, features /
/// splits, rank] and [splits, skills, rank, features / splits].
std::map<std::string, at::Tensor> parameters_of(const PeftAdapter& adapter) {
    std::map<std::string, at::Tensor> values;
    for (const PeftModule& module : adapter.modules) {
        at::Tensor a = values_of(module.a), b = values_of(module.b);
        if (adapter.kind == PeftKind::poly) {
            const int64_t skills = adapter.skills;
            a = a.permute({1, 3, 0, 2}).reshape({skills, adapter.rank, module.d_in});
            b = b.permute({1, 0, 3, 2}).reshape({skills, module.d_out, adapter.rank});
            values[module.path + ".logits"] = values_of(module.logits.value());
        }
        if (module.magnitude) values[module.path + ".magnitude"] = values_of(*module.magnitude);
        values[module.path + ".lora_a"] = a;
        values[module.path + ".lora_b"] = b;
    }
    return values;
}

std::vector<Task> tasks_of(const PeftAdapter& adapter, const std::vector<std::string>& given) {
    const auto count = static_cast<size_t>(adapter.kind == PeftKind::poly ? adapter.tasks : 1);
    const std::vector<std::string>& names = given.empty() ? adapter.task_names : given;
    if (!names.empty() && names.size() != count)
        fail(Code::invalid_config, "import.tasks: ", names.size(), " names, the adapter has ", count,
             " tasks");
    std::vector<Task> tasks(count);
    for (size_t i = 0; i < count; ++i) tasks[i].name = names.empty() ? "task" + std::to_string(i) : names[i];
    return tasks;
}

}  // namespace

std::shared_ptr<Skillset> import_peft(std::shared_ptr<const Backbone> backbone, const PeftAdapter& adapter,
                                      const Json& options) {
    ConfigReader reader(options, "import");
    const std::vector<Task> tasks = tasks_of(adapter, reader.strings("tasks", {}));
    const Json prompt = reader.object("prompt");
    reader.finish();
    std::vector<BaseModule> base;
    for (const Site& site : backbone->sites()) base.push_back({site.path, site.d_in, site.d_out});
    check_against_base(adapter, base);
    Json config = config_of(adapter);
    config["prompt"] = prompt;
    std::shared_ptr<Skillset> skillset = Skillset::create(std::move(backbone), tasks, config);
    const std::map<std::string, at::Tensor> values = parameters_of(adapter);
    at::NoGradGuard no_grad;
    for (Parameter& p : skillset->method().parameters()) {
        const auto value = values.find(p.name);
        if (value == values.end() || value->second.sizes() != p.value.sizes())
            throw Error(Code::bad_format,
                        text("the adapter has no tensor for '", p.name, "' of shape ", p.value.sizes()),
                        p.name);
        if (!value->second.isfinite().all().item<bool>())
            throw Error(Code::bad_format, text("the adapter's '", p.name, "' holds NaN or infinity"), p.name);
        p.value.copy_(value->second);
    }
    skillset->method().parameters_changed();
    skillset->metadata()["peft"] = {{"base_model", adapter.base_model}};
    return skillset;
}

}  // namespace polyad
