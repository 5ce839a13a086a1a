// SPDX-License-Identifier: Apache-2.0
#include "skills/token_logits.h"

#include "backbone/autograd_node.h"
#include "backbone/buffer_pool.h"
#include "backbone/device.h"
#include "backbone/weights.h"
#include "kernels/op_table.h"

namespace polyad {
namespace {

/// All tokens as one row of one group.
struct OneRow {
    int32_t group = 0, begin[2];
    explicit OneRow(int64_t tokens) : begin{0, static_cast<int32_t>(tokens)} {}
    kernels::Rows rows() const { return {begin, 1}; }
};

class TokenLogitsNode final : public SavedNode {
  public:
    std::string name() const override { return "TokenLogits"; }
    at::Tensor x, weight;  ///< both in compute dtype

  protected:
    List backward(List&& gradients) override {
        if (!gradients[0].defined()) return List(2);
        const at::Tensor dy = gradients[0].contiguous();
        const OneRow one(x.size(0));
        const at::Tensor dx = wants(0) ? new_zeros(x.sizes(), x.options()) : at::Tensor();
        const at::Tensor dw = new_zeros(weight.sizes(), weight.options().dtype(at::kFloat));
        ops_of(x).low_rank_down_backward(float_of(x.scalar_type()), dy.data_ptr<float>(), x.data_ptr(),
                                         weight.data_ptr(), &one.group, one.rows(), x.size(1), weight.size(0),
                                         dx.defined() ? dx.data_ptr() : nullptr, dw.data_ptr<float>());
        return {dx, dw};
    }
    void release() override { x = weight = at::Tensor(); }
};

}  // namespace

at::Tensor token_logits(const at::Tensor& x, const at::Tensor& weight) {
    POLYAD_CHECK(x.dim() == 2 && weight.dim() == 2 && x.size(1) == weight.size(1));
    const at::Tensor input = x.detach().contiguous();
    const at::Tensor w = weight.detach().to(x.scalar_type()).contiguous();
    at::Tensor y = new_buffer({x.size(0), weight.size(0)}, x.options().dtype(at::kFloat));
    const OneRow one(x.size(0));
    ops_of(x).low_rank_down(float_of(x.scalar_type()), input.data_ptr(), w.data_ptr(), &one.group, one.rows(),
                            x.size(1), weight.size(0), y.data_ptr<float>());
    if (!needs_gradient(x, weight)) return y;
    auto node = make_node<TokenLogitsNode>();
    node->x = input;
    node->weight = w;
    record(node, {x, weight}, {y});
    return y;
}

}  // namespace polyad
