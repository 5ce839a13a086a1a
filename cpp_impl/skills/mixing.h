// SPDX-License-Identifier: Apache-2.0
// Many skills made into few low-rank pairs: stacking of products, the Poly gate (averaging of factors:
// backbone/mixed_factors.h). Everything here is differentiable in its tensors.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "backbone/low_rank.h"
#include "backbone/mixed_factors.h"

namespace polyad {

/// z and w = z / (sum_j z_j + 1e-12) of the Poly core (methods.md 0.4), over the last dimension.
struct SkillGate {
    at::Tensor gate, weights;
};
/// Relaxed Bernoulli z = sigmoid((l + log u - log(1-u)) / tau) with `u` defined, else z = sigmoid(l).
SkillGate skill_gate(const at::Tensor& logits, const at::Tensor& u, double tau);

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
