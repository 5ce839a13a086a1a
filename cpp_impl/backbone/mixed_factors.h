// SPDX-License-Identifier: Apache-2.0
// Averaging of skills' factors in plain tensors: what the operator does by itself for a FactorBank, for
// everything else that needs the mixed pair (serving's cache, collapsing, devices without the kernel).
// Differentiable.
#pragma once

#include <ATen/core/Tensor.h>

#include "backbone/low_rank.h"

namespace polyad {

/// A'[g, k, i] = sum_j w[g, block(i), j] a[j, k, i]: weights [G, H, S], a [S, r, d_in] -> [G, r, d_in].
/// The H splits are contiguous blocks of the input features.
at::Tensor mix_down(const at::Tensor& weights, const at::Tensor& a);
/// The same for b [S, d_out, r], blocks of output features -> [G, d_out, r].
at::Tensor mix_up(const at::Tensor& weights, const at::Tensor& b);

/// The update with a and b in place of its banks.
LowRank with_mixed_factors(LowRank update);

/// Ranks of the pair that `banks` make. Code::invalid_argument when they leave a gap or overlap by halves.
int64_t ranks_of(const std::vector<FactorBank>& banks);

}  // namespace polyad
