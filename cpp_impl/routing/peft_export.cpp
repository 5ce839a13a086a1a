// SPDX-License-Identifier: Apache-2.0
#include "routing/peft_export.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros_like.h>

#include <map>

#include "base/error.h"
#include "routing/plain_lora.h"
#include "routing/router_tables.h"
#include "routing/stored_values.h"

namespace polyad {
namespace {

StoredTensor stored(const at::Tensor& value) {
    if (!value.isfinite().all().item<bool>())
        fail(Code::numeric_error, "the skillset holds NaN or infinity: not exported");
    return stored_values(value);
}

/// Values by parameter name.
class Values {
  public:
    explicit Values(const Skillset& skillset) {
        for (const Parameter& p : skillset.method().parameters()) by_name_[p.name] = p.value.detach();
    }
    const at::Tensor& at(const std::string& name) const {
        const auto found = by_name_.find(name);
        POLYAD_CHECK(found != by_name_.end());
        return found->second;
    }

  private:
    std::map<std::string, at::Tensor> by_name_;
};

/// Last path parts when they name exactly the adapted sites, else the whole paths.
std::vector<std::string> target_names(const Skillset& skillset, const std::vector<PeftModule>& modules) {
    std::map<std::string, size_t> wanted, there;
    for (const PeftModule& module : modules) ++wanted[module.path.substr(module.path.rfind('.') + 1)];
    for (const Site& site : skillset.backbone()->sites()) ++there[site.name()];
    std::vector<std::string> names;
    for (const auto& [name, count] : wanted) {
        if (there[name] != count) {
            names.clear();
            for (const PeftModule& module : modules) names.push_back(module.path);
            return names;
        }
        names.push_back(name);
    }
    return names;
}

PeftModule module_of(const Site& site, int64_t rank) {
    PeftModule module;
    module.path = site.path;
    module.rank = rank;
    module.d_in = site.d_in;
    module.d_out = site.d_out;
    return module;
}

void add_task(const Skillset& skillset, int task, PeftAdapter& out) {
    const PlainLora plain = plain_lora(skillset, task);
    out.rank = plain.rank;
    out.alpha = static_cast<double>(plain.rank);  // alpha / r = 1: the scale is inside B
    for (const PlainLora::Pair& pair : plain.pairs) {
        PeftModule module = module_of(pair.site, plain.rank);
        module.a = stored(pair.a);
        module.b = stored(pair.b);
        out.modules.push_back(std::move(module));
    }
}

/// The skillset's own factors and scale, so that a LoRA that came from PEFT goes back bit for bit.
void add_lora(const Skillset& skillset, const Json& config, PeftAdapter& out) {
    const bool dora = config.at("use_dora") == true, rslora = config.at("use_rslora") == true;
    out.kind = dora ? PeftKind::dora : rslora ? PeftKind::rslora : PeftKind::lora;
    out.config["use_rslora"] = rslora;
    out.rank = config.at("rank").get<int64_t>();
    out.alpha = config.at("alpha").get<double>();
    out.dropout = config.at("lora_dropout").get<double>();
    const Values values(skillset);
    for (const Site& site : skillset.sites()) {
        PeftModule module = module_of(site, out.rank);
        module.a = stored(values.at(site.path + ".lora_a"));
        module.b = stored(values.at(site.path + ".lora_b"));
        if (dora) module.magnitude = stored(values.at(site.path + ".magnitude"));
        out.modules.push_back(std::move(module));
    }
}

/// PEFT keeps Poly's factors as [splits, skills, d_in / splits, r] and [splits, skills, r, d_out / splits],
/// has a table per module and no alpha: tables shared by many sites are repeated, alpha goes into B.
void add_poly(const Skillset& skillset, const Json& config, PeftAdapter& out) {
    if (config.at("combine") != "factors")
        fail(Code::invalid_argument, "PEFT's Poly mixes factors, this skillset has combine '",
             config.at("combine").get<std::string>(), "': name a task to export it as plain LoRA");
    out.kind = PeftKind::poly;
    out.rank = config.at("rank").get<int64_t>();
    out.skills = config.at("n_skills").get<int64_t>();
    out.splits = config.at("n_splits").get<int64_t>();
    out.tasks = static_cast<int64_t>(skillset.tasks().size());
    for (const TaskEntry& task : skillset.tasks()) out.task_names.push_back(task.name);
    const double alpha = config.at("alpha").get<double>();
    const bool even = config.at("train") == "uniform";  // logits 0 are the even mix
    const RouterSharing sharing =
        share_routers(skillset.sites(), config.at("router_granularity").get<std::string>());
    const Values values(skillset);
    for (size_t i = 0; i < skillset.sites().size(); ++i) {
        const Site& site = skillset.sites()[i];
        PeftModule module = module_of(site, out.rank);
        const at::Tensor a = values.at(site.path + ".lora_a"), b = values.at(site.path + ".lora_b");
        module.a =
            stored(a.view({out.skills, out.rank, out.splits, site.d_in / out.splits}).permute({2, 0, 3, 1}));
        module.b = stored((alpha == 1.0 ? b : b * alpha)
                              .view({out.skills, out.splits, site.d_out / out.splits, out.rank})
                              .permute({1, 0, 3, 2}));
        const at::Tensor& logits = values.at(sharing.tables[sharing.table_of_site[i]] + ".logits");
        module.logits = stored(even ? at::zeros_like(logits) : logits);
        out.modules.push_back(std::move(module));
    }
}

/// One LoRA expert of a method that scales experts by token; its router has no form there.
void add_expert(const Skillset& skillset, const Json& config, int64_t expert, PeftAdapter& out) {
    const auto method = config.at("method").get<std::string>();
    if (method != "xlora" && method != "molora")
        fail(Code::invalid_argument, "export.expert: method '", method,
             "' has no LoRA experts, xlora and molora have");
    const auto experts = config.at("n_experts").get<int64_t>();
    if (expert >= experts)
        fail(Code::invalid_argument, "export.expert is ", expert, ", allowed: 0 to ", experts - 1);
    out.rank = config.at("rank").get<int64_t>();
    out.alpha = config.at("alpha").get<double>();
    const Values values(skillset);
    for (const Site& site : skillset.sites()) {
        PeftModule module = module_of(site, out.rank);
        module.a = stored(values.at(site.path + ".lora_a")[expert]);
        module.b = stored(values.at(site.path + ".lora_b")[expert]);
        out.modules.push_back(std::move(module));
    }
}

const char* task_type(const BackboneInfo& info) {
    return info.encoder_only ? "FEATURE_EXTRACTION" : info.encoder_decoder ? "SEQ_2_SEQ_LM" : "CAUSAL_LM";
}

}  // namespace

PeftAdapter export_peft(const Skillset& skillset, int task, const Json& options) {
    ConfigReader reader(options, "export");
    PeftAdapter out;
    out.base_model = reader.string("base_model", skillset.backbone()->info().name);
    const int64_t expert = reader.integer("expert", -1, 0, int64_t{1} << 20);
    if (expert >= 0 && task >= 0)
        reader.refuse("expert", "an expert belongs to no task: give one of the two");
    reader.finish();
    out.config = {{"task_type", task_type(skillset.backbone()->info())}};
    at::NoGradGuard no_grad;
    const Json config = skillset.method().config();
    const std::string method = config.at("method").get<std::string>();
    if (expert >= 0)
        add_expert(skillset, config, expert, out);
    else if (task < 0 && method == "lora")
        add_lora(skillset, config, out);
    else if (task < 0 && (method == "poly" || method == "mhr"))
        add_poly(skillset, config, out);
    else
        add_task(skillset, task, out);
    out.target_modules = target_names(skillset, out.modules);
    return out;
}

}  // namespace polyad
