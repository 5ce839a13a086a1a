// SPDX-License-Identifier: Apache-2.0
// From hidden states to logits and to the loss, without ever holding the logits of a whole batch.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "backbone/weights.h"

namespace polyad {

/// hidden [M, width] -> float32 [M, vocab]. Differentiable in hidden. `bias` float32 [vocab], undefined =
/// none.
at::Tensor head_logits(const at::Tensor& hidden, const std::shared_ptr<const FrozenMatrix>& head,
                       const at::Tensor& bias = {});

/// Negative log likelihood per row, float32 [M]; target -1 gives 0. Runs over chunks of rows; when `hidden`
/// needs a gradient it is computed chunk by chunk in the same pass and is all that is kept.
at::Tensor head_nll(const at::Tensor& hidden, const FrozenMatrix& head, const std::vector<int32_t>& targets,
                    double label_smoothing, const at::Tensor& bias = {});

}  // namespace polyad
