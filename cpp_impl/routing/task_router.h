// SPDX-License-Identifier: Apache-2.0
// From a task's vector to a logit per expert of every layer (methods.md 5.2, arXiv 2205.12701).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/config.h"
#include "base/random.h"
#include "skills/start.h"

namespace polyad {

struct TaskRouterOptions {
    std::string kind = "linear_layer_specific";
    int64_t hidden = 64;
    double dropout = 0.1;  ///< transformer kinds only

    /// "router", "router_hidden", "router_dropout".
    static TaskRouterOptions read(ConfigReader& reader);
    void write(Json& config) const;
    /// True when training draws dropout masks.
    bool draws() const { return dropout > 0.0 && kind.starts_with("transformer"); }
};

/// What a router is built for.
struct TaskRouterShape {
    std::vector<std::string> layers;  ///< their names, first to last
    int64_t experts = 1, width = 1;   ///< width of a task vector
};

/// Where a router keeps its tensors: add() returns an index that value() takes.
struct TensorShelf {
    std::function<size_t(const std::string& name, at::Tensor value)> add;
    std::function<const at::Tensor&(size_t index)> value;
};

class TaskRouter {
  public:
    virtual ~TaskRouter() = default;
    /// [layers, n, experts] of vectors [n, width]. `dropout`: where masks are drawn, null = none.
    virtual at::Tensor logits(const at::Tensor& vectors, Generator* dropout) const = 0;
};

/// Starts as PyTorch's modules do, each tensor from its own stream of `maker`. Code::invalid_config for a
/// width that the four attention heads do not divide.
std::unique_ptr<TaskRouter> make_task_router(const TaskRouterOptions& options, const TaskRouterShape& shape,
                                             const TensorMaker& maker, TensorShelf shelf);

}  // namespace polyad
