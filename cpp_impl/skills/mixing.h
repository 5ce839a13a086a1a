// SPDX-License-Identifier: Apache-2.0
// Many skills made into few low-rank pairs: averaging of factors, stacking of products, the Poly gate.
// Everything here is differentiable in its tensors.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "backbone/low_rank.h"

namespace polyad {

/// z and w = z / (sum_j z_j + 1e-12) of the Poly core (methods.md 0.4), over the last dimension.
struct SkillGate {
    at::Tensor gate, weights;
};
/// Relaxed Bernoulli z = sigmoid((l + log u - log(1-u)) / tau) with `u` defined, else z = sigmoid(l).
SkillGate skill_gate(const at::Tensor& logits, const at::Tensor& u, double tau);

/// A'[g, k, i] = sum_j w[g, block(i), j] a[j, k, i]: weights [G, H, S], a [S, r, d_in] -> [G, r, d_in].
/// The H splits are contiguous blocks of the input features.
at::Tensor mix_down(const at::Tensor& weights, const at::Tensor& a);
/// The same for b [S, d_out, r], blocks of output features -> [G, d_out, r].
at::Tensor mix_up(const at::Tensor& weights, const at::Tensor& b);

/// All skills at full rank, skill by skill: [S, r, d_in] -> [1, S r, d_in].
at::Tensor stack_down(const at::Tensor& a);
/// [S, d_out, r] -> [1, d_out, S r].
at::Tensor stack_up(const at::Tensor& b);

/// A plain low-rank pair, y += (x a^T) b^T.
struct Factors {
    at::Tensor a;  ///< [R, d_in]
    at::Tensor b;  ///< [d_out, R]
};
/// What `updates` do to rows of group `row`, gates and scales folded into b. Gates must be per row.
Factors fold(const std::vector<LowRank>& updates, int64_t row = 0);

}  // namespace polyad
