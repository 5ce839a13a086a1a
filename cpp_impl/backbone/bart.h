// SPDX-License-Identifier: Apache-2.0
// BART (arXiv:1910.13461): post-norm, layer norms, learned absolute positions, biases on every linear.
#pragma once

#include "backbone/encoder_decoder.h"

namespace polyad {

class Bart final : public EncoderDecoder {
  public:
    Bart(const ModelFiles& files, const LoadPlan& plan, std::shared_ptr<const Tokenizer> tokenizer);

  private:
    at::Tensor enter(const Stack& stack, Adaptation* adaptation, const at::Tensor& embeddings,
                     const std::vector<int32_t>& positions) const override;
    at::Tensor around(Adaptation* adaptation, const Norm& norm, const at::Tensor& x,
                      const Part& part) const override;
    at::Tensor leave(const Stack& stack, Adaptation* adaptation, const at::Tensor& x) const override;

    void load_stack(Stack& stack, const std::string& name, int64_t layers, int64_t ffn);
    Attention load_attention(const std::string& path, int layer, Stream queries, Stream keys);
    at::Tensor normed(Adaptation* adaptation, const Norm& norm, const at::Tensor& x) const;

    std::shared_ptr<const FrozenMatrix> positions_[2];  ///< of encoder and decoder
};

}  // namespace polyad
