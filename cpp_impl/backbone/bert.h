// SPDX-License-Identifier: Apache-2.0
// BERT (Devlin et al. 2019, arXiv 1810.04805): a bidirectional encoder with learned positions and norms after
// each part. It gives states of a text; there is no head, so nothing is generated or trained on it, and it
// keeps no cache. Rows are ragged, so nothing is ever computed for padding.
//
// ForwardOptions::embeddings stand for the word embeddings; positions and the first segment's type embedding
// are added to them. ForwardOptions::trace receives the normed sum of the three and every layer's output.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "backbone/adapted_block.h"
#include "backbone/backbone.h"
#include "backbone/fused.h"
#include "backbone/load_plan.h"
#include "backbone/weights.h"
#include "io/model_files.h"

namespace polyad {

class Bert final : public Backbone {
  public:
    Bert(const ModelFiles& files, const LoadPlan& plan, std::shared_ptr<const Tokenizer> tokenizer);

    const BackboneInfo& info() const override { return info_; }
    const std::vector<Site>& sites() const override { return sites_; }
    const std::vector<NormSite>& norms() const override { return norm_sites_; }
    /// Also "embeddings.token_type_embeddings.weight".
    at::Tensor frozen(const std::string& path) const override;
    const std::shared_ptr<const Tokenizer>& tokenizer() const override { return tokenizer_; }
    at::ScalarType compute_dtype() const override { return dtype_; }
    at::Device device() const override { return device_; }
    at::Tensor embed(const std::vector<int32_t>& tokens) const override;
    at::Tensor hidden(const Batch& batch, const ForwardOptions& options) const override;
    /// These three: Code::unsupported.
    at::Tensor logits(const at::Tensor& hidden) const override;
    at::Tensor token_nll(const at::Tensor& hidden, const std::vector<int32_t>& targets,
                         double label_smoothing) const override;
    std::unique_ptr<KvCache> make_cache(int slots, int capacity) const override;

  private:
    /// Linears in execution order; the sites of a layer use the same order.
    enum Place { query, key, value, attention_output, intermediate, output, places };

    struct Norm {
        std::string path;  ///< of the module: ".weight" and ".bias" follow
        at::Tensor gain, bias;
    };
    struct Layer {
        std::array<Linear, places> linear;
        Norm attention_norm, output_norm;
    };
    struct Pass;  ///< what one forward carries from layer to layer

    void load_layer(const TensorStore& store, const LoadPlan& plan, int64_t index);
    Norm load_norm(const TensorStore& store, const std::string& path, int layer);
    at::Tensor normed(const Pass& pass, const Norm& norm, const at::Tensor& x) const;
    std::vector<at::Tensor> linears(const Pass& pass, int64_t layer, std::initializer_list<Place> chosen,
                                    const at::Tensor& x) const;
    at::Tensor run_layer(const Pass& pass, int64_t layer, const at::Tensor& x) const;
    /// Positions and segment added to the word embeddings, then the norm.
    at::Tensor enter(const Pass& pass, const at::Tensor& words) const;
    std::shared_ptr<const AttentionPlan> plan_attention(const RowBegin& rows) const;

    ModelConfig config_;
    BackboneInfo info_;
    at::ScalarType dtype_;
    at::Device device_;
    std::vector<Site> sites_;
    std::vector<NormSite> norm_sites_;
    std::shared_ptr<const Tokenizer> tokenizer_;
    std::shared_ptr<const FrozenMatrix> words_, positions_, types_;
    Norm embedding_norm_;
    std::vector<Layer> layers_;
};

}  // namespace polyad
