// SPDX-License-Identifier: Apache-2.0
// Sentence vectors as sentence-transformers make them (Reimers and Gurevych 2019, arXiv 1908.10084): the mean
// of a frozen encoder's last states over all tokens of the text, [CLS] and [SEP] among them, at unit length.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "backbone/backbone.h"

namespace polyad {

/// Mean of each row's states, [N, width] -> [rows, width], float32.
at::Tensor mean_pool(const at::Tensor& states, const RowBegin& row_begin);
/// a / max(|a|, 1e-12) per row.
at::Tensor unit_rows(const at::Tensor& x);

class SentenceEncoder {
  public:
    /// Texts are cut to `max_tokens` tokens, special ones included. Code::unsupported unless the backbone is
    /// an encoder that came with a tokenizer.
    SentenceEncoder(std::shared_ptr<const Backbone> backbone, int max_tokens);

    const std::shared_ptr<const Backbone>& backbone() const { return backbone_; }
    int max_tokens() const { return max_tokens_; }
    std::vector<int32_t> tokens(std::string_view text) const;
    /// [texts, width] float32, unit rows. No gradients. Each text is a forward of its own, so that its vector
    /// does not depend, bit for bit, on the others. Safe for concurrent use.
    at::Tensor embed(const std::vector<std::string>& texts) const;

  private:
    std::shared_ptr<const Backbone> backbone_;
    int max_tokens_;
};

}  // namespace polyad
