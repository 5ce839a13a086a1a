// SPDX-License-Identifier: Apache-2.0
// Decoder-only transformers with rotary positions, RMS norms and a gated SiLU FFN: Llama, Qwen2, Qwen3 and
// Mistral differ by flags of ModelConfig only.
#pragma once

#include <functional>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "backbone/adapted_block.h"
#include "backbone/backbone.h"
#include "backbone/fused.h"
#include "backbone/load_plan.h"
#include "backbone/rope.h"
#include "backbone/weights.h"
#include "io/model_files.h"

namespace polyad {

class Decoder final : public Backbone {
  public:
    Decoder(const ModelFiles& files, const LoadPlan& plan, std::shared_ptr<const Tokenizer> tokenizer);

    const ModelConfig& config() const { return config_; }
    const BackboneInfo& info() const override { return info_; }
    const std::vector<Site>& sites() const override { return sites_; }
    const std::vector<NormSite>& norms() const override { return norms_; }
    at::Tensor frozen(const std::string& path) const override;
    at::Tensor frozen_product(const std::string& path, const at::Tensor& x) const override;
    const std::shared_ptr<const Tokenizer>& tokenizer() const override { return tokenizer_; }
    bool shares_beginnings() const override;
    int64_t spared_bytes(int64_t tokens) const override;
    at::ScalarType compute_dtype() const override { return dtype_; }
    at::Device device() const override { return device_; }
    at::Tensor embed(const std::vector<int32_t>& tokens) const override;
    at::Tensor hidden(const Batch& batch, const ForwardOptions& options) const override;
    at::Tensor logits(const at::Tensor& hidden) const override;
    at::Tensor token_nll(const at::Tensor& hidden, const std::vector<int32_t>& targets,
                         double label_smoothing) const override;
    std::unique_ptr<KvCache> make_cache(int slots, int capacity) const override;
    std::unique_ptr<DecodeStep> make_decode_step(int rows, int keys, Recorder& recorder) const override;

  private:
    /// Linears in execution order; Layer::linear and the seven sites of a layer use the same order.
    enum Place { q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, places };

    struct Norm {
        std::string path;
        at::Tensor gain;
    };
    struct Layer {
        Linear linear[places];
        Norm input_norm, post_norm, q_norm, k_norm;
    };
    struct Pass;  ///< what one forward carries from layer to layer

    void load_layer(const ModelFiles& files, const LoadPlan& plan, int64_t index);
    PlacedLinear placed(int64_t layer, Place place) const;
    /// The linears at `chosen` places of a layer, which all read x, with the adaptation's updates.
    std::vector<at::Tensor> linears(const Pass& pass, int64_t layer, std::initializer_list<Place> chosen,
                                    const at::Tensor& x, std::function<at::Tensor()> recompute = {},
                                    Replay* replay = nullptr) const;
    /// `again` makes h from what is kept anyway.
    at::Tensor attend(const Pass& pass, int64_t layer, const at::Tensor& h,
                      std::function<at::Tensor()> again) const;
    at::Tensor feed_forward(const Pass& pass, int64_t layer, const at::Tensor& h,
                            std::function<at::Tensor()> again) const;
    /// One pass through the feed-forward: what it adds, and the input of its output projection.
    std::pair<at::Tensor, at::Tensor> gated_ffn(const Pass& pass, int64_t layer, const at::Tensor& h,
                                                std::function<at::Tensor()> again) const;
    /// The same with tokens spread over copies; [N, width].
    at::Tensor spread_ffn(const Pass& pass, int64_t layer, const at::Tensor& h, Spread spread,
                          std::function<at::Tensor()> again) const;
    /// The residual stream after layer l, from the stream before it and its input norm h.
    std::pair<at::Tensor, at::Tensor> layer_parts(const Pass& pass, int64_t layer, const at::Tensor& x,
                                                  const at::Tensor& h) const;
    /// Copies of layer l side by side on the stream x, joined.
    at::Tensor run_copies(Pass& pass, int64_t layer, int copies, const at::Tensor& x) const;
    /// Room in the cache for every row's new tokens.
    void make_room(const Pass& pass) const;
    void check_shared(const Batch& batch, const ForwardOptions& options) const;
    /// Of one layer's gate and up.
    int64_t wide_bytes(int64_t tokens) const;
    /// Layers that make gate and up again in the backward pass, counted from the first.
    int64_t layers_made_again(int64_t tokens, int64_t activation_bytes) const;
    /// `past`: [rows] tokens in the cache; null = none.
    std::shared_ptr<const AttentionPlan> plan_attention(const RowBegin& rows,
                                                        const std::vector<int32_t>& parent,
                                                        const std::vector<int32_t>* past) const;

    ModelConfig config_;
    BackboneInfo info_;
    at::ScalarType dtype_;
    at::Device device_;
    std::vector<Site> sites_;
    std::shared_ptr<const Tokenizer> tokenizer_;
    std::shared_ptr<const FrozenMatrix> embedding_, head_;
    Norm final_norm_;
    std::vector<NormSite> norms_;
    std::vector<Layer> layers_;
    std::unique_ptr<Rope> rope_;
};

}  // namespace polyad
