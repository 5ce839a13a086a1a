// SPDX-License-Identifier: Apache-2.0
#include "backbone/biased_attention.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/triu.h>

#include <limits>

#include "base/error.h"

namespace polyad {

at::Tensor biased_attention(const at::Tensor& q, const RowBegin& row_begin, const std::vector<RowKeys>& keys,
                            const std::vector<at::Tensor>& scores, const AttentionShape& shape) {
    const size_t rows = row_begin.size() - 1;
    POLYAD_CHECK(keys.size() == rows && scores.size() == rows);
    const auto heads_first = [&](const at::Tensor& x) {  // [heads, n, head_dim]
        return x.view({x.size(0), shape.heads, shape.head_dim}).transpose(0, 1).to(at::kFloat);
    };
    std::vector<at::Tensor> outputs;
    for (size_t b = 0; b < rows; ++b) {
        const int64_t n = row_begin[b + 1] - row_begin[b];
        if (n == 0) continue;
        const at::Tensor row = q.slice(0, row_begin[b], row_begin[b + 1]);
        at::Tensor score =
            at::matmul(heads_first(row).mul(shape.scale), heads_first(keys[b].k).transpose(1, 2));
        if (scores[b].defined()) score = score + scores[b];
        outputs.push_back(at::matmul(at::softmax(score, -1), heads_first(keys[b].v))
                              .transpose(0, 1)
                              .reshape({n, shape.heads * shape.head_dim})
                              .to(q.scalar_type()));
    }
    return outputs.size() == 1 ? outputs[0] : at::cat(outputs, 0);
}

at::Tensor causal_score(int64_t past, int64_t queries, at::Device device) {
    return at::full({1, queries, past + queries}, -std::numeric_limits<float>::infinity(),
                    at::TensorOptions().dtype(at::kFloat).device(device))
        .triu(past + 1);
}

}  // namespace polyad
