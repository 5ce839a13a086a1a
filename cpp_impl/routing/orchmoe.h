// SPDX-License-Identifier: Apache-2.0
// OrchMoE (methods.md 2, after arXiv 2401.10559): no task is named. A row's prompt says which latent tasks it
// belongs to, and a table says which skills these use.
//
//     g = pooled prompt (prompt_pool.h),   p = softmax(W_task g + b)            latent tasks, [T]
//     z = relaxed Bernoulli of the table's logits in training, sigmoid(Z) else  [T, S]
//     v = sum_t p_t z_t / sum_j z_tj,      y = W0 x + s B'(A' x),  A' = sum_j v_j A_j,  B' = sum_j v_j B_j
//
// With router = softmax_gate the table is left out and v = softmax(W g + b): the ablation.
#pragma once

#include <string>
#include <vector>

#include "routing/prompt_pool.h"
#include "routing/site_method.h"

namespace polyad {

struct OrchOptions {
    int64_t rank = 8, skills = 4, splits = 1, latent_tasks = 8;
    double alpha = 1.0, tau = 1.0, task_tau = 1.0;
    bool gate_only = false;    ///< router = softmax_gate
    bool model_scope = false;  ///< one p from the prompt's token embeddings instead of one per site
    bool attention = true;
    bool per_token = false;  ///< the mixture follows the tokens: task_pool none, route_span causal
    bool products = false;
    std::string pool, span, activation, sampling, task_init, table_init, train;
    SkillInit init = SkillInit::kaiming;

    static OrchOptions read(const Json& config);
    Json to_json() const;
    double scale() const { return alpha / static_cast<double>(rank); }
    bool samples_skills() const { return !gate_only && sampling == "relaxed_bernoulli"; }
    bool samples_tasks() const { return activation == "st_gumbel"; }
    /// What the classifier tells apart: [blocks, classes] numbers of each unit.
    int64_t blocks() const { return gate_only ? splits : 1; }
    int64_t classes() const { return gate_only ? skills : latent_tasks; }
};

class OrchMoe final : public SiteMethod {
  public:
    OrchMoe(const MethodContext& context, OrchOptions options);

    std::unique_ptr<Adaptation> adapt(const RouteInput& input) override;
    int skill_count() const override { return static_cast<int>(options_.skills); }
    bool needs_task() const override { return false; }
    bool exclusive() const override { return options_.model_scope || options_.span == "causal"; }
    void set_training(const std::string& what) override;
    std::optional<CollapsedSite> collapse(const Site& site, int task) override;
    void add_task(const std::string& start, Generator& noise) override;
    /// Depends on the prompt: the mix of evenly weighted latent tasks stands for it in reports.
    std::vector<float> task_weights(int task) override;
    Json config() const override { return options_.to_json(); }

    const OrchOptions& options() const { return options_; }
    const std::vector<Site>& adapted() const { return sites_; }
    using SiteMethod::position;
    /// True for a site that has the decoder's tokens as input while its prompt is what the encoder read.
    bool reads_encoder(const Site& site) const { return encoder_decoder_ && site.stream == Stream::tokens; }

    /// p [units, blocks, classes] from g [units, d]; `gumbel` of p's shape, undefined = none.
    at::Tensor classify(size_t site, const at::Tensor& g, const at::Tensor& gumbel) const;
    /// What each latent task makes of the skills, of all sites at once: [units, T, splits * skills] of each,
    /// from noise `u` [sites, units, T, splits, skills]; [T, splits * skills] with `u` undefined.
    std::vector<at::Tensor> task_rows(const at::Tensor& u) const;
    /// v [units, splits, skills]: p against its site's task_rows(), which may be undefined for a softmax
    /// gate.
    at::Tensor allocate(const at::Tensor& p, const at::Tensor& rows) const;
    /// `weights` [rows, splits, skills], or [tokens, 1, skills] with per_token.
    LowRank update(size_t site, const at::Tensor& weights) const;

  private:
    size_t router_of(size_t site) const { return options_.model_scope ? 0 : site; }

    OrchOptions options_;
    bool encoder_decoder_ = false;
    std::vector<size_t> down_, up_, table_;        ///< parameter indices per site
    std::vector<size_t> task_weight_, task_bias_;  ///< per router
};

/// Which input tensors are one: q, k and v of a block read the same x, and what is read from it is computed
/// once. The reference kept here keeps its storage from being used again.
class SharedInput {
  public:
    bool is(const Site& site, const at::Tensor& x) const;
    /// `layer`: whose linears read x; any_layer for an input of several.
    void remember(const at::Tensor& x, int layer);
    static constexpr int any_layer = -2;

  private:
    at::Tensor x_;
    int layer_ = -1;
    uint32_t version_ = 0;
};

/// Where the classifier of one batch gets its vectors from.
std::unique_ptr<Adaptation> make_orch_adaptation(const OrchMoe& method, const RouteInput& input);

}  // namespace polyad
