// SPDX-License-Identifier: Apache-2.0
// T5 v1.0 and v1.1 (arXiv:1910.10683): pre-norm, RMS norms, unscaled attention with a learned bias per bucket
// of relative positions, ReLU or gated feed-forward, no biases.
#pragma once

#include "backbone/encoder_decoder.h"

namespace polyad {

class T5 final : public EncoderDecoder {
  public:
    T5(const ModelFiles& files, const LoadPlan& plan, std::shared_ptr<const Tokenizer> tokenizer);

    /// What a stack adds to its self-attention's scores for queries at past, past + 1, ...: float32 [heads,
    /// queries, past + queries]. The first layer's table serves every layer.
    at::Tensor position_bias(bool decoder, int64_t past, int64_t queries) const;

  private:
    at::Tensor enter(const Stack& stack, Adaptation* adaptation, const at::Tensor& embeddings,
                     const std::vector<int32_t>& positions) const override;
    at::Tensor around(Adaptation* adaptation, const Norm& norm, const at::Tensor& x,
                      const Part& part) const override;
    at::Tensor leave(const Stack& stack, Adaptation* adaptation, const at::Tensor& x) const override;
    at::Tensor position_score(const Stack& stack, int64_t past, int64_t queries) const override {
        return position_bias(stack.decoder, past, queries);
    }
    double head_scale() const override;

    void load_stack(Stack& stack, const std::string& name, int64_t layers);
    Attention load_attention(const std::string& block, const char* name, int layer, Stream queries,
                             Stream keys);
    at::Tensor normed(Adaptation* adaptation, const Norm& norm, const at::Tensor& x) const;

    at::Tensor bias_table_[2];  ///< [buckets, heads] float32, of encoder and decoder
};

}  // namespace polyad
