// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include "io/hf_config.h"

namespace polyad {

/// The feed-forward's nonlinearity as the model's config names it.
at::Tensor activate(Activation activation, const at::Tensor& x);

}  // namespace polyad
