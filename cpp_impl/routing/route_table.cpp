// SPDX-License-Identifier: Apache-2.0
#include "routing/route_table.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/stack.h>

#include "base/error.h"

namespace polyad {
namespace {

using Trace = std::map<std::string, std::map<std::string, at::Tensor>>;

/// [tasks, skills] per layer: the mean of what its sites wrote, splits (middle dimensions) averaged.
std::map<int, at::Tensor> per_layer(const Trace& trace, const std::vector<Site>& sites, const char* name) {
    std::map<int, std::vector<at::Tensor>> found;
    for (const Site& site : sites) {
        const auto entry = trace.find(site.path);
        if (entry == trace.end()) continue;
        const auto tensor = entry->second.find(name);
        if (tensor == entry->second.end()) continue;
        const at::Tensor value = tensor->second.to(at::kCPU, at::kFloat);
        found[site.layer].push_back(
            value.dim() == 2 ? value : value.reshape({value.size(0), -1, value.size(-1)}).mean(1));
    }
    std::map<int, at::Tensor> out;
    for (const auto& [layer, values] : found)
        out[layer] = values.size() == 1 ? values[0] : at::stack(values).mean(0);
    return out;
}

at::Tensor joined(const std::map<int, at::Tensor>& layers) {
    std::vector<at::Tensor> parts;
    for (const auto& [layer, value] : layers) parts.push_back(value);
    return parts.empty() ? at::Tensor() : at::cat(parts, 1);
}

}  // namespace

RouteTable route_table(Method& method, const std::vector<Site>& sites, int tasks) {
    const at::NoGradGuard no_grad;
    Trace trace;
    RouteInput input;
    input.row_begin.push_back(0);
    for (int task = 0; task < tasks; ++task) {
        input.row_begin.push_back(task + 1);
        input.prompt_length.push_back(1);
        input.task_ids.push_back(task);
    }
    input.trace = &trace;
    method.adapt(input);
    const std::map<int, at::Tensor> weights = per_layer(trace, sites, "weights");
    if (weights.empty())
        fail(Code::unsupported,
             "this method's mixture does not follow from the task alone: there is no table "
             "of routes");
    RouteTable table;
    for (const auto& [layer, value] : weights) table.layers.push_back(layer);
    table.weights = joined(weights);
    table.skills = weights.begin()->second.size(1);
    table.logits = joined(per_layer(trace, sites, "router_logits"));
    return table;
}

}  // namespace polyad
