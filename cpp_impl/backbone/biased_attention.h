// SPDX-License-Identifier: Apache-2.0
// Attention of ragged rows with any additive score, row by row in ATen: what the fused kernel (fused.h) does
// not offer, learned position biases and keys of another stream among them.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "backbone/low_rank.h"

namespace polyad {

/// What one row attends to.
struct RowKeys {
    at::Tensor k, v;  ///< [m, heads * head_dim], compute dtype
};

struct AttentionShape {
    int64_t heads = 0, head_dim = 0;
    double scale = 1.0;
};

/// softmax(scale q k^T + score) v per row and head. q [N, heads * head_dim], rows as in `row_begin`; `keys`
/// and `scores` one entry per row, those of rows without queries are not read. A score is float32 [heads or
/// 1, n, m], undefined = 0. Result [N, heads * head_dim] in q's dtype; scores and softmax in float32.
at::Tensor biased_attention(const at::Tensor& q, const RowBegin& row_begin, const std::vector<RowKeys>& keys,
                            const std::vector<at::Tensor>& scores, const AttentionShape& shape);

/// [1, queries, past + queries]: -infinity where a key lies ahead of its query, the first of which stands at
/// `past`.
at::Tensor causal_score(int64_t past, int64_t queries, at::Device device);

}  // namespace polyad
