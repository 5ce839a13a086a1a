// SPDX-License-Identifier: Apache-2.0
#include "golden/options.h"

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "base/error.h"

namespace polyad::golden {
namespace {

/// Product option <- case option.
using Names = std::vector<std::pair<const char*, const char*>>;

const std::map<std::string, Names>& option_names() {
    static const Names poly = {{"rank", "r"},
                               {"alpha", "alpha"},
                               {"n_skills", "n_skills"},
                               {"n_splits", "n_splits"},
                               {"combine", "combine"},
                               {"skill_sampling", "skill_sampling"},
                               {"tau", "tau"}};
    static const std::map<std::string, Names> names = {
        {"lora",
         {{"rank", "r"}, {"alpha", "alpha"}, {"use_rslora", "use_rslora"}, {"lora_dropout", "lora_dropout"}}},
        {"poly", poly},
        {"mhr", poly},
        {"cpoly",
         {{"rank", "r"},
          {"alpha", "alpha"},
          {"common_skills", "n_common"},
          {"private_skills", "n_specific"},
          {"n_splits", "n_splits"},
          {"combine", "combine"},
          {"specific_routing", "specific_routing"},
          {"tau", "tau"}}},
        {"molora",
         {{"rank", "r"},
          {"alpha", "alpha"},
          {"n_experts", "n_experts"},
          {"top_k", "top_k"},
          {"top_k_mode", "top_k_mode"}}},
        {"moelora_task",
         {{"rank", "r"},
          {"alpha", "alpha"},
          {"n_experts", "n_experts"},
          {"task_embedding_dim", "task_embedding_dim"}}},
        {"orchmoe",
         {{"rank", "r"},
          {"alpha", "alpha"},
          {"n_latent_tasks", "n_latent_tasks"},
          {"n_skills", "n_skills"},
          {"n_splits", "n_splits"},
          {"combine", "combine"},
          {"task_attention", "task_attention"},
          {"task_pool", "task_pool"},
          {"task_activation", "task_activation"},
          {"route_span", "route_span"},
          {"skill_sampling", "skill_sampling"},
          {"tau", "tau"}}},
        {"mor1e",
         {{"variant", "variant"},
          {"rank", "r"},
          {"r1", "r1"},
          {"r2", "r2"},
          {"c_tok", "c_tok"},
          {"c_task", "c_task"},
          {"gate_factor", "gate_factor"},
          {"ablation", "ablation"}}},
        {"task_moe",
         {{"rank", "r"},
          {"alpha", "alpha"},
          {"n_experts", "n_experts"},
          {"task_vec_dim", "task_vec_dim"},
          {"router_hidden", "router_hidden"},
          {"tau", "tau"},
          {"tau_min", "tau"},
          {"eval_route", "eval_route"},
          {"train_task_vectors", "train_task_vectors"}}},
        {"pemt",
         {{"source_rank", "r"},
          {"source_alpha", "alpha"},
          {"adapter_dim", "adapter_dim"},
          {"ts_weight", "ts_weight"},
          {"ts_mask_padding", "ts_mask_padding"},
          {"ts_detach_output", "ts_detach_output"}}},
        {"pemt_prompt", {{"prompt_dropout", "dropout"}}},
    };
    return names;
}

/// The sources as a bundle of stage 2 lists them, and a prompt of the case's length.
void add_pemt(const Json& config, Json& out) {
    out["method"] = "pemt";
    const Json lengths = config.value("source_prompt_len", Json::array());
    for (size_t i = 0; i < config.at("n_sources").get<size_t>(); ++i)
        out["sources"].push_back(
            {{"name", text("source ", i)}, {"prompt_tokens", lengths.empty() ? Json(1) : lengths.at(i)}});
    out["train_norms"] = false;
    out["prompt_init"] = "random";
    out["prompt_tokens"] = std::max<int64_t>(1, config.at("prompt_len").get<int64_t>());
}

}  // namespace

bool has_product_config(const std::string& method) {
    return option_names().count(method) > 0;
}

Json product_config(const std::string& method, const Json& config) {
    for (const char* variant : {"rank1", "rank1_flex"})  // metrics.json names the variants as methods
        if (method == std::string("mor1e_") + variant) {
            Json named = config;
            named["variant"] = variant;
            return product_config("mor1e", named);
        }
    const auto names = option_names().find(method);
    if (names == option_names().end()) fail(Code::unsupported, "method '", method, "' is not known");
    Json out = {{"method", method}};
    for (const auto& [ours, theirs] : names->second)
        if (config.contains(theirs)) out[ours] = config.at(theirs);
    if (method == "pemt" || method == "pemt_prompt") add_pemt(config, out);
    if (method == "cpoly" && config.contains("skill_sampling"))
        out["common_noise"] = config.at("skill_sampling") == "sigmoid" ? "none" : "relaxed_bernoulli";
    if (method == "task_moe") {
        const bool mlp = config.value("expert_kind", "lora") == "mlp";
        out["expert_kind"] = mlp ? "layer" : "lora";
        const auto select = config.value("select", std::string("softmax"));
        out["select"] = select == "softmax"  ? "softmax"
                        : select == "gumbel" ? "gumbel_softmax"
                                             : "gumbel_softmax_st";
    }
    return out;
}

}  // namespace polyad::golden
