// SPDX-License-Identifier: Apache-2.0
// One forward's experts of Task-level MoE.
#pragma once

#include <memory>

#include "routing/task_moe.h"

namespace polyad {

std::unique_ptr<Adaptation> make_lora_experts(const TaskMoe& method, TaskRoutes routes);
std::unique_ptr<Adaptation> make_layer_experts(const TaskMoe& method, TaskRoutes routes,
                                               const RouteInput& input);

}  // namespace polyad
