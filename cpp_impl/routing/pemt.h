// SPDX-License-Identifier: Apache-2.0
// PEMT, stage 2 (arXiv 2402.15082): a target task learns how much to trust each frozen source expert.
//
//     P* = P + sum_i dropout(softmax(P S_i^T)) S_i             S_i frozen source prompts; P* before the row
//     c  = mean over the prompt's positions of the layer's u   (an encoder-decoder's decoder: of the
//                                                              encoder's final states)
//     g  = softmax(W_g c),  W_g = 0 at the start               one vector per row and layer
//     h  = W0 u + sum_i g_i e_i(u),  e_i(u) = s B_i A_i u      e_i frozen source experts
//     y  = h + Up gelu_tanh(Down h)                            the target's own adapter
//     loss += ts_weight * mean over layers of the task sparsity (routing/task_sparsity.h)
//
// Every target task has a prompt, gates, adapters and norms of its own; all share the sources.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "routing/bottleneck.h"
#include "routing/pemt_sources.h"
#include "routing/site_method.h"
#include "routing/task_prompts.h"
#include "routing/task_sparsity.h"

namespace polyad {

class Pemt final : public SiteMethod {
  public:
    Pemt(const Json& config, const MethodContext& context);

    std::unique_ptr<Adaptation> adapt(const RouteInput& input) override;
    int skill_count() const override { return static_cast<int>(sources_.count()); }
    bool needs_task() const override { return true; }
    at::Tensor auxiliary_loss(Adaptation& adaptation) override;
    bool exclusive() const override { return true; }
    int prefix_tokens(int task) const override { return static_cast<int>(prompts_->tokens(task)); }
    bool reads_prompt() const override { return true; }
    std::optional<CollapsedSite> collapse(const Site& site, int task) override;
    void add_task(const std::string& start, Generator& noise) override;
    void add_described_task(const std::string& text, const std::string& start, Generator& noise) override;
    /// Gates of a row that consists of the task's description, averaged over layers. In a decoder whose gates
    /// read the prefix alone, those of every row of the task.
    std::vector<float> task_weights(int task) override;
    void parameters_changed() override;
    Json config() const override;

    struct Options {
        int64_t adapter_dim = 0;
        bool dynamic = true;     ///< P* is made in every forward; else once, as P's start
        bool reads_row = false;  ///< the gate reads the row's own prompt with the prefix
        bool train_norms = true;
        double prompt_dropout = 0.1, ts_weight = 0.1;
        bool ts_mask_padding = false, ts_detach_output = false;
    };
    /// Parameter indices of one adapted feed-forward.
    struct Place {
        Site site;
        bool from_encoder = false;    ///< its gate reads the encoder's final states
        std::vector<size_t> experts;  ///< [m, ...]: lora_a, lora_b or the four of a bottleneck
        size_t gate = 0;              ///< [T, m, q]
        size_t down = 0, down_bias = 0, up = 0, up_bias = 0;  ///< [T, ...]
    };
    struct NormTable {
        size_t index = 0;  ///< [T, width]
        Stream stream = Stream::tokens;
    };

    const Options& options() const { return options_; }
    const PemtSources& sources() const { return sources_; }
    const std::vector<Place>& places() const { return places_; }
    const TaskPrompts& prompts() const { return *prompts_; }
    /// -1 when the layer is not adapted.
    int place_of(int layer) const;
    using SiteMethod::position;
    using SiteMethod::value;
    Bottleneck adapter(const Place& place) const;
    /// Low-rank source experts side by side, in `dtype`. They are frozen, so they are stacked and converted
    /// once.
    StackedExperts stacked(size_t place, at::ScalarType dtype) const;
    /// The source experts of a bottleneck form, one line per source.
    Bottleneck expert_bottleneck(const Place& place) const;
    /// Null when the norm is not trained.
    const NormTable* norm(const std::string& path) const;
    const at::Tensor& prompt(int task) const { return value(prompt_[static_cast<size_t>(task)]); }
    const at::Tensor& source_prompt(size_t i) const { return value(source_prompt_[i]); }

  private:
    void add_experts(Place& place);
    void add_norms();
    size_t add_frozen(const std::string& name, const std::string& source_name, std::vector<int64_t> shape);
    /// The start with the sources' answer to it added (corr_prompt = init_once).
    at::Tensor prompt_start(at::Tensor start) const;

    Options options_;
    PemtSources sources_;
    const Backbone* backbone_;
    std::unique_ptr<TaskPrompts> prompts_;
    std::vector<Place> places_;
    std::vector<std::string> norm_paths_;
    std::unordered_map<std::string, NormTable> norms_;
    std::unordered_map<int, int> place_of_layer_;
    std::vector<size_t> source_prompt_, prompt_;
    mutable std::mutex mutex_;  ///< of what follows
    mutable std::vector<StackedExperts> stacked_;
};

/// P + sum_i (softmax(P S_i^T) * keep_i) S_i; an undefined keep_i [n, n_i] = 1.
at::Tensor correlated_prompt(const at::Tensor& prompt, const std::vector<at::Tensor>& sources,
                             const std::vector<at::Tensor>& keep);

/// The adapters of one forward, made by Pemt::adapt.
std::unique_ptr<Adaptation> adapt_pemt(const Pemt& method, PromptedRows rows, RouteInput input);
/// Mean task sparsity of the layers that ran; undefined when it was not asked for.
at::Tensor mean_task_sparsity(Adaptation& adaptation);

}  // namespace polyad
