// SPDX-License-Identifier: Apache-2.0
// From a router's logits to the weights of experts (methods.md 5.3, arXiv 2205.12701). Everything is over the
// last dimension and differentiable in the logits.
#pragma once

#include <ATen/core/Tensor.h>

#include "base/config.h"

namespace polyad {

enum class ExpertChoice {
    softmax,    ///< softmax(z / tau)
    gumbel,     ///< softmax((z + g) / tau), g = -log(-log u)
    gumbel_st,  ///< one-hot of argmax(z + g), with the gradient of softmax((z + g) / tau)
};

/// "gumbel_softmax_st" (the default), "gumbel_softmax", "softmax".
ExpertChoice read_expert_choice(ConfigReader& reader, const char* key);
const char* expert_choice_name(ExpertChoice choice);

/// `u` [like logits] in (0, 1), read by the Gumbel choices only.
at::Tensor choose_experts(const at::Tensor& logits, ExpertChoice choice, double tau, const at::Tensor& u);
/// One-hot of the largest logit, the lowest index on a tie. No gradient.
at::Tensor largest_expert(const at::Tensor& logits);

}  // namespace polyad
