// SPDX-License-Identifier: Apache-2.0
// Sizes, for comparisons at equal budgets.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "routing/method.h"

namespace polyad {

/// Trainable parameters of a method on these sites, counted on the tensors the method itself would make; no
/// memory is taken for them.
int64_t parameter_count(const Json& config, const std::vector<Site>& sites, int tasks);

/// Sizes of the published whole-model recipes, by their own formulas (methods.md 4.10, 5.2): "pemt_stage1",
/// "pemt_stage2", "task_moe_router", "task_moe_lora". Code::invalid_config names an unknown recipe or a
/// missing option.
int64_t recipe_parameter_count(const std::string& recipe, const Json& options);

}  // namespace polyad
