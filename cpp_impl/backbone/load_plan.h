// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

namespace polyad {

/// BackboneOptions with `automatic` decided.
struct LoadPlan {
    at::Device device = at::kCPU;
    at::ScalarType dtype = at::kFloat;
    bool packed = false;
};

}  // namespace polyad
