// SPDX-License-Identifier: Apache-2.0
// What a router reads of each token, by the low-rank kernels: no copy of the stream in float32, and one node.
#pragma once

#include <ATen/core/Tensor.h>

namespace polyad {

/// x W^T [N, E] in float32: x [N, d] in compute dtype, W [E, d] float32 (rounded to x's dtype for the
/// product). Differentiable in both.
at::Tensor token_logits(const at::Tensor& x, const at::Tensor& weight);

}  // namespace polyad
