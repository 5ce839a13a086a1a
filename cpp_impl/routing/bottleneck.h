// SPDX-License-Identifier: Apache-2.0
// Bottleneck adapters, one per task: up(gelu(down x)).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "backbone/low_rank.h"

namespace polyad {

/// Tables with one line per task. They may carry autograd history.
struct Bottleneck {
    at::Tensor down;       ///< [T, k, d_in]
    at::Tensor down_bias;  ///< [T, k]
    at::Tensor up;         ///< [T, d_out, k]
    at::Tensor up_bias;    ///< [T, d_out]

    /// gelu_tanh(x down^T + down_bias) up^T + up_bias with line `task`: x [N, d_in] -> [N, d_out] in x's
    /// dtype.
    at::Tensor apply(const at::Tensor& x, int64_t task) const;
    /// The same for rows of different tasks laid end to end.
    at::Tensor apply(const at::Tensor& x, const RowBegin& rows,
                     const std::vector<int32_t>& task_of_row) const;
};

}  // namespace polyad
