// SPDX-License-Identifier: Apache-2.0
#include "routing/bottleneck.h"

#include <ATen/ops/gelu.h>
#include <ATen/ops/gelu_backward.h>

#include <algorithm>

#include "backbone/autograd_node.h"
#include "backbone/buffer_pool.h"
#include "backbone/device.h"
#include "backbone/kernel_args.h"
#include "backbone/weights.h"
#include "base/error.h"
#include "kernels/op_table.h"
#include "routing/row_groups.h"

namespace polyad {
namespace {

/// The adapters of a batch's rows as groups of the low-rank kernels, with the activation between the two
/// products.
class BottleneckNode final : public SavedNode {
  public:
    std::string name() const override { return "Bottleneck"; }

    at::Tensor forward(const at::Tensor& x, const Bottleneck& tables, const RowBegin& rows,
                       const std::vector<int32_t>& task_of_row) {
        x_ = x;
        rows_ = rows;
        sizes_ = {tables.down.sizes().vec(), tables.down_bias.sizes().vec(), tables.up.sizes().vec(),
                  tables.up_bias.sizes().vec()};
        tables_options_ = tables.down.options().requires_grad(false);
        used_.assign(task_of_row.begin(), task_of_row.end());
        std::sort(used_.begin(), used_.end());
        used_.erase(std::unique(used_.begin(), used_.end()), used_.end());
        for (const int32_t task : task_of_row)
            group_of_row_.push_back(
                static_cast<int32_t>(std::lower_bound(used_.begin(), used_.end(), task) - used_.begin()));
        const at::Tensor group_of_token = device_list(per_token<int64_t>(group_of_row_, rows), x.device());
        const auto type = float_of(x.scalar_type());
        a_ = lines(tables.down).to(x.scalar_type());
        b_ = lines(tables.up).to(x.scalar_type());
        const at::Tensor down_bias = lines(tables.down_bias),
                         up_bias = lines(tables.up_bias).to(x.scalar_type());
        u_ = new_buffer({x.size(0), a_.size(1)}, x.options().dtype(at::kFloat));
        ops_of(x).low_rank_down(type, x.data_ptr(), a_.data_ptr(), group_of_row_.data(), kernel_rows(rows_),
                                x.size(1), a_.size(1), u_.data_ptr<float>());
        u_.add_(down_bias.index_select(0, group_of_token));
        v_ = at::gelu(u_, "tanh");
        at::Tensor y = up_bias.index_select(0, group_of_token);
        ops_of(x).low_rank_up(type, v_.data_ptr<float>(), b_.data_ptr(), group_of_row_.data(),
                              kernel_rows(rows_), y.size(1), b_.size(2), 1.0f, y.data_ptr());
        return y;
    }

  protected:
    // Inputs: x, down, down_bias, up, up_bias.
    List backward(List&& gradients) override {
        List result(5);
        if (!gradients[0].defined()) return result;
        const at::Tensor dy = gradients[0].contiguous();
        const auto& ops = ops_of(dy);
        const auto type = float_of(dy.scalar_type());
        const auto floats = dy.options().dtype(at::kFloat);
        at::Tensor dv = new_buffer(v_.sizes(), floats), da, db, dx;
        if (wants(1)) da = new_zeros(a_.sizes(), floats);
        if (wants(3)) db = new_zeros(b_.sizes(), floats);
        if (wants(0)) dx = new_zeros(x_.sizes(), x_.options());
        ops.low_rank_up_backward(type, dy.data_ptr(), v_.data_ptr<float>(), b_.data_ptr(),
                                 group_of_row_.data(), kernel_rows(rows_), dy.size(1), b_.size(2), 1.0f,
                                 dv.data_ptr<float>(), float_or_null(db));
        const at::Tensor du = at::gelu_backward(dv, u_, "tanh");
        ops.low_rank_down_backward(type, du.data_ptr<float>(), x_.data_ptr(), a_.data_ptr(),
                                   group_of_row_.data(), kernel_rows(rows_), x_.size(1), a_.size(1),
                                   dx.defined() ? dx.data_ptr() : nullptr, float_or_null(da));
        result[0] = dx;
        if (wants(1)) result[1] = table(da, 0);
        if (wants(2)) result[2] = table(sums(du), 1);
        if (wants(3)) result[3] = table(db, 2);
        if (wants(4)) result[4] = table(sums(dy), 3);
        return result;
    }
    void release() override { x_ = a_ = b_ = u_ = v_ = at::Tensor(); }

  private:
    /// The used tasks' lines.
    at::Tensor lines(const at::Tensor& table) const {
        const at::Tensor all = table.detach();
        if (static_cast<int64_t>(used_.size()) == all.size(0)) return all.contiguous();
        return all.index_select(0, device_list(used_, all.device()));
    }
    /// Used lines' gradient as the whole table's.
    at::Tensor table(const at::Tensor& of_used, size_t which) const {
        const std::vector<int64_t>& sizes = sizes_[which];
        if (static_cast<int64_t>(used_.size()) == sizes[0]) return of_used;
        return new_zeros(sizes, tables_options_)
            .index_copy_(0, device_list(used_, of_used.device()), of_used);
    }
    /// Sums over each used task's tokens.
    at::Tensor sums(const at::Tensor& t) const {
        at::Tensor out = new_zeros({static_cast<int64_t>(used_.size()), t.size(1)}, tables_options_);
        for (size_t b = 0; b < group_of_row_.size(); ++b)
            if (const int64_t count = rows_[b + 1] - rows_[b])
                out.select(0, group_of_row_[b]).add_(t.narrow(0, rows_[b], count).sum(0, false, at::kFloat));
        return out;
    }

    at::Tensor x_;      ///< [N, d_in]
    at::Tensor a_, b_;  ///< factors of the used tasks, in x's dtype
    at::Tensor u_, v_;  ///< before and behind the activation, [N, k] float32
    RowBegin rows_;
    std::vector<int32_t> group_of_row_;  ///< place in used_
    std::vector<int64_t> used_;          ///< tasks, ascending
    std::vector<std::vector<int64_t>> sizes_;
    at::TensorOptions tables_options_;
};

}  // namespace

at::Tensor Bottleneck::apply(const at::Tensor& x, int64_t task) const {
    return apply(x, {0, static_cast<int32_t>(x.size(0))}, {static_cast<int32_t>(task)});
}

at::Tensor Bottleneck::apply(const at::Tensor& x, const RowBegin& rows,
                             const std::vector<int32_t>& task_of_row) const {
    POLYAD_CHECK(rows.size() == task_of_row.size() + 1 && rows.back() == x.size(0));
    for (const int32_t task : task_of_row) POLYAD_CHECK(task >= 0 && task < down.size(0));
    auto node = make_node<BottleneckNode>();
    const bool recorded = needs_gradient(x, down, down_bias, up, up_bias);
    at::Tensor y;
    {
        const at::NoGradGuard no_grad;
        y = node->forward(x.detach().contiguous(), *this, rows, task_of_row);
    }
    if (recorded) record(node, {x, down, down_bias, up, up_bias}, {y});
    return y;
}

}  // namespace polyad
