// SPDX-License-Identifier: Apache-2.0
#include "backbone/output_head.h"

#include <ATen/ops/zeros.h>

#include <algorithm>

#include "backbone/autograd_node.h"
#include "backbone/buffer_pool.h"
#include "backbone/device.h"
#include "backbone/frozen_gemm.h"
#include "kernels/op_table.h"

namespace polyad {
namespace {

/// Float32 logits held at once: on the CPU what its caches like, on a device what keeps it busy.
int64_t rows_per_chunk(int64_t vocab, at::Device device) {
    const int64_t logits_bytes = int64_t{device.is_cpu() ? 12 : 256} << 20;
    return std::max<int64_t>(1, logits_bytes / (vocab * static_cast<int64_t>(sizeof(float))));
}

class NllNode final : public SavedNode {
  public:
    std::string name() const override { return "TokenNll"; }
    at::Tensor dhidden;  ///< d nll[t] / d hidden[t]

  protected:
    List backward(List&& gradients) override {
        if (!gradients[0].defined()) return List(1);
        return {dhidden.mul(gradients[0].unsqueeze(1)).to(dhidden.scalar_type())};
    }
    void release() override { dhidden = at::Tensor(); }
};

}  // namespace

at::Tensor head_logits(const at::Tensor& hidden, const std::shared_ptr<const FrozenMatrix>& head,
                       const at::Tensor& bias) {
    if (hidden.dim() != 2 || hidden.size(1) != head->columns())
        fail(Code::invalid_argument, "hidden states are [rows, ", head->columns(), "]");
    const at::Tensor input = hidden.to(head->dtype());
    at::Tensor logits;
    if (needs_gradient(input)) {
        // As one more linear: ATen's own node would keep a packed head's scratch, which the next use
        // overwrites.
        const RowBegin rows{0, static_cast<int32_t>(hidden.size(0))};
        logits = adapted_linears(input, {{head, {}, {}}}, rows)[0].to(at::kFloat);
    } else {
        logits = head->decode(input.contiguous(), at::kFloat);
    }
    return bias.defined() ? logits.add(bias) : logits;
}

at::Tensor head_nll(const at::Tensor& hidden, const FrozenMatrix& head, const std::vector<int32_t>& targets,
                    double label_smoothing, const at::Tensor& bias) {
    const int64_t vocab = head.rows(), count = hidden.size(0);
    if (hidden.dim() != 2 || hidden.size(1) != head.columns() ||
        count != static_cast<int64_t>(targets.size()))
        fail(Code::invalid_argument, "token_nll wants hidden states [", targets.size(), ", ", head.columns(),
             "], one row per target");
    for (size_t i = 0; i < targets.size(); ++i)
        if (targets[i] < -1 || targets[i] >= vocab)
            fail(Code::invalid_argument, "target ", targets[i], " at position ", i,
                 " is outside the vocabulary [0, ", vocab, ")");
    if (!(label_smoothing >= 0.0 && label_smoothing < 1.0))
        fail(Code::invalid_argument, "label smoothing ", label_smoothing, " is outside [0, 1)");

    const bool recorded = needs_gradient(hidden);
    at::Tensor nll = at::zeros({count}, hidden.options().dtype(at::kFloat).requires_grad(false));
    at::Tensor dhidden;
    {
        at::NoGradGuard no_grad;
        const at::Tensor input = hidden.detach().contiguous();
        if (recorded) dhidden = new_buffer_like(input);
        const int64_t step = rows_per_chunk(vocab, hidden.device());
        for (int64_t begin = 0; begin < count; begin += step) {
            const int64_t n = std::min(step, count - begin);
            at::Tensor product = head.multiply(input.narrow(0, begin, n));
            at::Tensor logits = product;
            if (product.scalar_type() != at::kFloat)
                logits = new_buffer(product.sizes(), product.options().dtype(at::kFloat)).copy_(product);
            if (bias.defined()) logits.add_(bias);
            ops_of(logits).cross_entropy(logits.data_ptr<float>(), targets.data() + begin,
                                         static_cast<float>(label_smoothing), nll.data_ptr<float>() + begin,
                                         recorded, n, vocab);
            if (!recorded) continue;
            at::Tensor chunk = dhidden.narrow(0, begin, n);
            if (!product.is_same(logits)) product.copy_(logits);
            multiply_rows(chunk, product, head.dense(), Way::backward, false);
        }
    }
    if (!recorded) return nll;
    auto node = make_node<NllNode>();
    node->dhidden = dhidden;
    record(node, {hidden}, {nll});
    return nll;
}

}  // namespace polyad
