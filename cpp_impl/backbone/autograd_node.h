// SPDX-License-Identifier: Apache-2.0
// Hand-written autograd nodes: typed members instead of a map of saved values, released as soon as the engine
// is done with them. Gradients of gradients are not offered.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <memory>
#include <utility>

#include "base/error.h"

namespace polyad {

class SavedNode : public torch::autograd::Node {
  public:
    using List = torch::autograd::variable_list;

    List apply(List&& gradients) final {
        if (released_) fail(Code::wrong_state, "the backward pass of ", name(), " ran already");
        at::NoGradGuard no_grad;
        return backward(std::move(gradients));
    }
    void release_variables() final {
        released_ = true;
        release();
    }

  protected:
    /// One gradient (maybe undefined) per input given to `record`, in order.
    virtual List backward(List&& gradients) = 0;
    /// Lets go of everything saved.
    virtual void release() = 0;
    bool wants(size_t input) const { return task_should_compute_output(input); }

  private:
    bool released_ = false;
};

/// True when autograd would follow any of these inputs.
template <class... Tensors>
bool needs_gradient(const Tensors&... inputs) {
    return torch::autograd::compute_requires_grad(inputs...);
}

/// Makes `node` the origin of `outputs`; its gradients flow to `inputs`.
template <class NodeType>
void record(const std::shared_ptr<NodeType>& node, const SavedNode::List& inputs,
            const SavedNode::List& outputs) {
    node->set_next_edges(torch::autograd::collect_next_edges(inputs));
    for (const at::Tensor& output : outputs) torch::autograd::set_history(output, node);
}

template <class NodeType>
std::shared_ptr<NodeType> make_node() {
    // deleteNode unwinds long graphs without recursion.
    return std::shared_ptr<NodeType>(new NodeType(), torch::autograd::deleteNode);
}

}  // namespace polyad
