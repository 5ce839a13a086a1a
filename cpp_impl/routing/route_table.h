// SPDX-License-Identifier: Apache-2.0
// What a router learned about the tasks, as one matrix: to compare tasks, draw them, or keep only what a task
// uses.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "routing/method.h"

namespace polyad {

struct RouteTable {
    std::vector<int> layers;  ///< transformer layers that have a mixture
    int64_t skills = 0;
    at::Tensor weights;  ///< [tasks, layers * skills], eval mode; sites and splits of a layer averaged
    at::Tensor logits;   ///< the same of the router's logits; undefined when the method has no such trace
};

/// Code::unsupported for a method whose mixture depends on more than the task.
RouteTable route_table(Method& method, const std::vector<Site>& sites, int tasks);

}  // namespace polyad
