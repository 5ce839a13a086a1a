// SPDX-License-Identifier: Apache-2.0
// Encoder-decoders (T5, BART): two stacks of the same parts over ragged rows, with adapters on every linear.
// A row's prompt is its source, read by the encoder; Batch::tokens are the decoder's, its start token first.
// Families differ in what stands around those parts: norms, positions, the head.
//
// Layers and sites are counted through both stacks, the encoder's first. ForwardOptions::embeddings stand for
// the decoder's tokens [N, width], or for source and tokens [M + N, width], source first.
// ForwardOptions::trace receives, of each stack that runs, the input of its first layer and every layer's
// output.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backbone/adapted_block.h"
#include "backbone/backbone.h"
#include "backbone/biased_attention.h"
#include "backbone/load_plan.h"
#include "backbone/weights.h"
#include "io/model_files.h"

namespace polyad {

class EncoderDecoderCache;

class EncoderDecoder : public Backbone {
  public:
    const BackboneInfo& info() const override { return info_; }
    const std::vector<Site>& sites() const override { return sites_; }
    const std::vector<NormSite>& norms() const override { return norm_sites_; }
    at::Tensor frozen(const std::string& path) const override;
    const std::shared_ptr<const Tokenizer>& tokenizer() const override { return tokenizer_; }
    at::ScalarType compute_dtype() const override { return dtype_; }
    at::Device device() const override { return device_; }
    at::Tensor embed(const std::vector<int32_t>& tokens) const override;
    at::Tensor hidden(const Batch& batch, const ForwardOptions& options) const override;
    at::Tensor logits(const at::Tensor& hidden) const override;
    at::Tensor token_nll(const at::Tensor& hidden, const std::vector<int32_t>& targets,
                         double label_smoothing) const override;
    /// Room for `capacity` tokens of the decoder per row; a row's source takes what it needs.
    std::unique_ptr<KvCache> make_cache(int slots, int capacity) const override;

  protected:
    /// A norm's gain and, in families that have one, its bias.
    struct Norm {
        std::string path;  ///< of the module: ".weight" and ".bias" follow
        at::Tensor gain, bias;
    };
    struct Place {
        int site = -1;  ///< in sites_
        Linear linear;
    };
    struct Attention {
        Place q, k, v, o;
        Norm norm;
    };
    struct Layer {
        Attention self;
        std::optional<Attention> cross;
        std::vector<Place> ffn_in;  ///< one, or gate and up
        Place ffn_out;
        Norm ffn_norm;
    };
    struct Stack {
        bool decoder = false;
        int64_t first_layer = 0;  ///< its layers' place among both stacks'
        AttentionShape shape;
        std::vector<Layer> layers;
        Norm outer_norm;  ///< the one outside its layers
    };
    /// What one forward carries through one stack.
    struct Pass;
    using Part = std::function<at::Tensor(const at::Tensor&)>;

    EncoderDecoder(const ModelFiles& files, const LoadPlan& plan, std::shared_ptr<const Tokenizer> tokenizer);

    // What families differ in.
    /// The stream before the first layer, from token embeddings [N, width]; `positions` [N] in their rows.
    virtual at::Tensor enter(const Stack& stack, Adaptation* adaptation, const at::Tensor& embeddings,
                             const std::vector<int32_t>& positions) const = 0;
    /// The stream x with one part of a layer added and normed, before or after.
    virtual at::Tensor around(Adaptation* adaptation, const Norm& norm, const at::Tensor& x,
                              const Part& part) const = 0;
    /// The stream after the last layer.
    virtual at::Tensor leave(const Stack& stack, Adaptation* adaptation, const at::Tensor& x) const = 0;
    /// Added to self-attention's scores: float32 [heads, queries, past + queries], the first query standing
    /// at `past`; undefined = nothing.
    virtual at::Tensor position_score(const Stack& /*stack*/, int64_t /*past*/, int64_t /*queries*/) const {
        return {};
    }
    /// Factor on hidden states before the output head.
    virtual double head_scale() const { return 1.0; }

    // Loading, in the order of the sites.
    Place load_linear(const std::string& path, int64_t d_out, int64_t d_in, bool biased, int layer, Role role,
                      Stream stream);
    Norm load_norm(const std::string& path, bool biased, int layer);
    std::shared_ptr<const FrozenMatrix> load_matrix(const std::string& path, int64_t rows, int64_t columns);
    /// The token embedding and the head, which is the same when the config ties them.
    void load_embedding(const std::string& embedding, const std::string& head);
    /// Both stacks and what else there was are loaded: the files are let go.
    void finish_loading();
    const TensorStore& store() const;

    ModelConfig config_;
    BackboneInfo info_;
    at::ScalarType dtype_;
    at::Device device_;
    std::vector<Site> sites_;
    std::vector<NormSite> norm_sites_;
    std::shared_ptr<const Tokenizer> tokenizer_;
    std::shared_ptr<const FrozenMatrix> embedding_, head_;
    at::Tensor head_bias_;  ///< float32 [vocab] or undefined
    Stack encoder_, decoder_;

  private:
    void for_each_part(const std::function<void(const Place&)>& place,
                       const std::function<void(const Norm&)>& norm) const;
    EncoderDecoderCache* checked_cache(const Batch& batch, const ForwardOptions& options) const;
    /// Every row brings a source or has one in the cache; nothing is longer than model or cache hold.
    void check_source(const Batch& batch, const ForwardOptions& options,
                      const EncoderDecoderCache* cache) const;
    void check_lengths(const Pass& pass) const;

    at::Tensor run_stack(Pass& pass, at::Tensor x) const;
    /// Copies of a layer side by side on the stream x, joined.
    at::Tensor run_copies(Pass& pass, int64_t layer, int copies, const at::Tensor& x) const;
    at::Tensor run_layer(const Pass& pass, int64_t layer, const at::Tensor& x) const;
    std::vector<at::Tensor> linears(const Pass& pass, const std::vector<const Place*>& places,
                                    const at::Tensor& x, const RowBegin& rows) const;
    at::Tensor self_attention(const Pass& pass, int64_t layer, const at::Tensor& h) const;
    at::Tensor cross_attention(const Pass& pass, int64_t layer, const at::Tensor& h) const;
    at::Tensor feed_forward(const Pass& pass, int64_t layer, const at::Tensor& h) const;
    /// One pass through the feed-forward: what it adds, and the input of its output projection.
    std::pair<at::Tensor, at::Tensor> ffn(const Pass& pass, int64_t layer, const at::Tensor& h) const;
    /// The same with tokens spread over copies; [N, width].
    at::Tensor spread_ffn(const Pass& pass, int64_t layer, const at::Tensor& h, Spread spread) const;
    /// The activation of what the first linear makes, times the second's where there is one.
    at::Tensor gated(const std::vector<at::Tensor>& inner) const;
    PlacedLinear placed(const Place& place) const {
        return {&sites_[static_cast<size_t>(place.site)], &place.linear};
    }

    struct Loading {
        const TensorStore* store;
        LoadPlan plan;
    };
    std::optional<Loading> loading_;
};

}  // namespace polyad
