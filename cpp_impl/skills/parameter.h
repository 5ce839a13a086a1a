// SPDX-License-Identifier: Apache-2.0
// A trainable tensor of a skillset and where it belongs.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

namespace polyad {

/// Optimiser group (methods.md 19.3): its own learning rate and weight decay.
enum class ParameterGroup : int {
    skills = 0,
    router = 1,
    private_weights = 2,
    task_vectors = 3,
    scalars = 4
};
const char* parameter_group_name(ParameterGroup group);

struct Parameter {
    std::string name;  ///< "<site path>.lora_a", "<site path>.logits", ... as in the bundle
    ParameterGroup group = ParameterGroup::skills;
    at::Tensor value;  ///< float32 leaf, requires_grad when trainable
    bool trainable = true;
};

}  // namespace polyad
