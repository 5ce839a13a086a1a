// SPDX-License-Identifier: Apache-2.0
// One vector per row from the tokens a router may read: self-attention without parameters, with a residual,
// then pooling (OrchMoE, arXiv 2401.10559).
//
//     X' = softmax(X X^T / sqrt(d)) X + X,   g = mean over tokens of X', or X' of the last or first token
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace polyad {

enum class Pool { mean, last, first };

/// Tokens [begin, begin + count) of a batch; count > 0.
struct TokenSpan {
    int64_t begin = 0, count = 0;
};

/// g [spans, d] in float32 from x [N, d]. A span sees itself only. Differentiable in x; of short spans
/// attention is kept for the backward pass, no more than x takes, else made again a few MiB at a time: a long
/// prompt costs time (O(count^2 d)) but no memory.
at::Tensor pool_spans(const at::Tensor& x, const std::vector<TokenSpan>& spans, bool attention, Pool pool);

}  // namespace polyad
