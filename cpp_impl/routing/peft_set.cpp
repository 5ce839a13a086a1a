// SPDX-License-Identifier: Apache-2.0
#include "routing/peft_set.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "base/error.h"
#include "base/log.h"
#include "io/file_json.h"
#include "routing/peft_skillset.h"
#include "routing/stored_values.h"
#include "skills/merge.h"
#include "skills/start.h"

namespace polyad {
namespace {

/// An adapter's part at one module.
struct Part {
    const PeftModule* module;
    double weight;
    size_t adapter;
};

void check_all(const Backbone& backbone, const std::vector<PeftAdapter>& adapters,
               const std::vector<std::string>& names) {
    if (adapters.empty() || adapters.size() != names.size())
        fail(Code::invalid_argument, "a set needs at least one adapter and a name for each, got ",
             adapters.size(), " and ", names.size());
    std::vector<BaseModule> base;
    for (const Site& site : backbone.sites()) base.push_back({site.path, site.d_in, site.d_out});
    for (size_t i = 0; i < adapters.size(); ++i) {
        if (adapters[i].kind != PeftKind::lora && adapters[i].kind != PeftKind::rslora)
            fail(Code::unsupported, "adapter '", names[i], "' is ", peft_kind_name(adapters[i].kind),
                 ": only lora and rslora can be combined");
        check_against_base(adapters[i], base);
    }
}

std::map<std::string, std::vector<Part>> by_module(const std::vector<PeftAdapter>& adapters,
                                                   const std::vector<double>& weights) {
    std::map<std::string, std::vector<Part>> parts;
    for (size_t i = 0; i < adapters.size(); ++i)
        for (const PeftModule& module : adapters[i].modules)
            parts[module.path].push_back({&module, weights[i], i});
    return parts;
}

struct Plan {
    std::string combination;
    std::vector<double> weights;
    MergeRule rule;
    uint64_t seed = 0;
    std::vector<std::string> tasks;
    Json prompt;
};

Plan read_plan(const Json& options, size_t adapters) {
    ConfigReader reader(options, "import");
    Plan plan;
    plan.combination =
        reader.choice("combination", "set",
                      {"set", "linear", "cat", "ties", "dare_linear", "dare_ties", "magnitude_prune"});
    const bool set = plan.combination == "set", cat = plan.combination == "cat";
    for (const char* key : {"weights", "density", "majority_sign", "seed"})
        if (set && reader.has(key))
            reader.refuse(key, "has no meaning for \"set\", whose weights come with each request");
    plan.weights = reader.numbers("weights", std::vector<double>(adapters, 1.0));
    if (plan.weights.size() != adapters)
        reader.refuse("weights", text("needs ", adapters, " numbers, got ", plan.weights.size()));
    for (const double weight : plan.weights)
        if (!std::isfinite(weight)) reader.refuse("weights", "holds what is not a finite number");
    for (const Merge merge :
         {Merge::linear, Merge::ties, Merge::dare_linear, Merge::dare_ties, Merge::magnitude_prune})
        if (plan.combination == merge_name(merge)) plan.rule.merge = merge;
    const bool drops = !set && !cat && plan.rule.merge != Merge::linear;
    if (drops && !reader.has("density"))
        reader.refuse("density", "is required: the share of entries to keep");
    if (!drops && reader.has("density"))
        reader.refuse("density", text("has no meaning for \"", plan.combination, "\""));
    plan.rule.density = reader.number("density", 1.0, 1e-6, 1.0);
    plan.rule.frequency = reader.choice("majority_sign", "total", {"total", "frequency"}) == "frequency";
    plan.seed = static_cast<uint64_t>(reader.integer("seed", 0, 0, INT64_MAX));
    plan.tasks = reader.strings("tasks", {});
    plan.prompt = reader.object("prompt");
    reader.finish();
    return plan;
}

PeftAdapter merged(const std::vector<PeftAdapter>& adapters, const Plan& plan) {
    const bool cat = plan.combination == "cat";
    PeftAdapter out;
    out.kind = PeftKind::lora;
    out.base_model = adapters[0].base_model;
    out.config = Json::object();
    const auto parts = by_module(adapters, plan.weights);
    for (const auto& [path, members] : parts) {
        int64_t ranks = 0;
        for (const Part& part : members) {
            if (!cat && part.module->rank != members[0].module->rank)
                fail(Code::invalid_config, "import.combination: \"", plan.combination,
                     "\" needs adapters of one rank, '", path, "' has ", members[0].module->rank, " and ",
                     part.module->rank, "; \"cat\" and \"set\" take any");
            ranks += part.module->rank;
        }
        out.rank = std::max(out.rank, cat ? ranks : members[0].module->rank);
    }
    out.alpha = static_cast<double>(out.rank);
    for (const auto& [path, members] : parts) {
        std::vector<at::Tensor> a, b;
        std::vector<double> a_coefficients, b_coefficients;
        for (const Part& part : members) {
            const double weight = part.weight * part.module->scale;
            a.push_back(values_of(part.module->a));
            b.push_back(values_of(part.module->b));
            // The sign goes to one side only, or it would be lost in the product.
            a_coefficients.push_back(std::copysign(std::sqrt(std::abs(weight)), weight));
            b_coefficients.push_back(std::sqrt(std::abs(weight)));
            if (cat) a.back() = a.back() * weight;
        }
        at::Tensor down, up;
        if (cat) {
            down = at::cat(a, 0);
            up = at::cat(b, 1);
        } else {
            Generator noise_a = named_generator(plan.seed, path + ".lora_a"),
                      noise_b = named_generator(plan.seed, path + ".lora_b");
            down = merge_factors(a, a_coefficients, plan.rule, noise_a);
            up = merge_factors(b, b_coefficients, plan.rule, noise_b);
        }
        if (const int64_t missing = out.rank - down.size(0); missing > 0) {
            down = at::cat({down, at::zeros({missing, down.size(1)})}, 0);
            up = at::cat({up, at::zeros({up.size(0), missing})}, 1);
        }
        PeftModule module;
        module.path = path;
        module.rank = out.rank;
        module.scale = 1.0;
        module.d_in = down.size(1);
        module.d_out = up.size(0);
        module.a = stored_values(down);
        module.b = stored_values(up);
        out.target_modules.push_back(path);
        out.modules.push_back(std::move(module));
    }
    return out;
}

std::shared_ptr<Skillset> side_by_side(std::shared_ptr<const Backbone> backbone,
                                       const std::vector<PeftAdapter>& adapters,
                                       const std::vector<std::string>& names, const Plan& plan) {
    const auto parts = by_module(adapters, plan.weights);
    Json members = Json::array(), paths = Json::array();
    for (const auto& [path, unused] : parts) paths.push_back(path);
    for (size_t i = 0; i < adapters.size(); ++i) {
        Json pattern = Json::object();
        for (const auto& [path, unused] : parts) pattern[path] = 0;
        for (const PeftModule& module : adapters[i].modules) {
            pattern[module.path] = module.rank;
            if (module.rank == adapters[i].rank) pattern.erase(module.path);
        }
        members.push_back(
            {{"name", names[i]}, {"rank", adapters[i].rank}, {"rank_pattern", std::move(pattern)}});
    }
    const std::vector<std::string>& titles = plan.tasks.empty() ? names : plan.tasks;
    if (titles.size() != names.size())
        fail(Code::invalid_config, "import.tasks: needs ", names.size(), " names, got ", titles.size());
    std::vector<Task> tasks(titles.size());
    for (size_t i = 0; i < titles.size(); ++i) tasks[i].name = titles[i];
    const auto skillset = Skillset::create(std::move(backbone), tasks,
                                           {{"method", "lora_set"},
                                            {"adapters", std::move(members)},
                                            {"target_modules", std::move(paths)},
                                            {"prompt", plan.prompt}});
    at::NoGradGuard no_grad;
    for (Parameter& p : skillset->method().parameters()) {
        const auto found = parts.find(p.name.substr(0, p.name.rfind('.')));
        if (found == parts.end()) continue;  // the table: each task is its adapter
        std::vector<at::Tensor> factors;
        const bool down = p.name.ends_with(".lora_a");
        for (const Part& part : found->second)
            factors.push_back(down ? values_of(part.module->a)
                                   : values_of(part.module->b) * part.module->scale);
        const at::Tensor all = at::cat(factors, down ? 0 : 1);
        if (!all.isfinite().all().item<bool>())
            throw Error(Code::bad_format, text("an adapter's '", p.name, "' holds NaN or infinity"), p.name);
        p.value.copy_(all);
    }
    skillset->method().parameters_changed();
    return skillset;
}

}  // namespace

std::shared_ptr<Skillset> import_peft_set(std::shared_ptr<const Backbone> backbone,
                                          const std::vector<PeftAdapter>& adapters,
                                          const std::vector<std::string>& names, const Json& options) {
    check_all(*backbone, adapters, names);
    const Plan plan = read_plan(options, adapters.size());
    std::shared_ptr<Skillset> skillset;
    if (plan.combination == "set") {
        skillset = side_by_side(std::move(backbone), adapters, names, plan);
    } else {
        Json rest = {{"prompt", plan.prompt}};
        if (!plan.tasks.empty()) rest["tasks"] = plan.tasks;
        skillset = import_peft(std::move(backbone), merged(adapters, plan), rest);
    }
    skillset->metadata()["peft"] = {
        {"base_model", adapters[0].base_model}, {"adapters", names}, {"combination", plan.combination}};
    return skillset;
}

std::shared_ptr<Skillset> import_xlora_experts(std::shared_ptr<const Backbone> backbone,
                                               const std::filesystem::path& folder, const Json& options) {
    const Bytes file = Bytes::map_file(folder / "adapter_config.json");
    const Json config = parse_file_json(file.text(), file.name());
    const auto experts = config.find("adapters");
    if (experts == config.end() || !experts->is_object() || experts->empty())
        fail(Code::bad_format, file.name(), ".adapters: needs an object with the experts");
    std::vector<PeftAdapter> adapters;
    std::vector<std::string> names;
    for (const auto& [name, unused] : experts->items()) {
        // Where the experts lay when they were trained says nothing here, and a file may not name any path.
        const std::filesystem::path part(name);
        if (name.empty() || name == "." || name == ".." || part.has_parent_path() || part.is_absolute())
            fail(Code::bad_format, file.name(), ".adapters: '", name.substr(0, 80), "' is no folder's name");
        if (!std::filesystem::is_directory(folder / part))
            fail(Code::not_found, "X-LoRA's expert '", name.substr(0, 80), "' has no folder of this name in ",
                 folder.string(), "; folders that lie elsewhere can be combined as a set");
        adapters.push_back(open_peft(folder / part));
        names.push_back(name);
    }
    log(LogLevel::warning, text(folder.string(),
                                ": X-LoRA's experts are taken in, its classifier is not: each is "
                                "a task, mixes are given by weights"));
    return import_peft_set(std::move(backbone), adapters, names, options);
}

std::shared_ptr<Skillset> import_peft_folder(std::shared_ptr<const Backbone> backbone,
                                             const std::filesystem::path& folder, const Json& options) {
    const Bytes file = Bytes::map_file(folder / "adapter_config.json");
    const Json config = parse_file_json(file.text(), file.name());
    if (config.value("peft_type", Json()) == "XLORA")
        return import_xlora_experts(std::move(backbone), folder, options);
    const PeftAdapter adapter = open_peft(folder);
    if (adapter.kind == PeftKind::lora || adapter.kind == PeftKind::rslora) {
        const PeftModule& first = adapter.modules.front();
        for (const PeftModule& module : adapter.modules)
            if (module.rank != adapter.rank || module.rank != first.rank || module.scale != first.scale) {
                Json cat = options;  // one rank and scale for all: what fills it up does nothing
                cat["combination"] = "cat";
                return import_peft_set(std::move(backbone), {adapter}, {"task0"}, cat);
            }
    }
    return import_peft(std::move(backbone), adapter, options);
}

}  // namespace polyad
