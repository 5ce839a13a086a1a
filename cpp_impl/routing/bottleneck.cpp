// SPDX-License-Identifier: Apache-2.0
#include "routing/bottleneck.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/linear.h>

#include "base/error.h"

namespace polyad {

at::Tensor Bottleneck::apply(const at::Tensor& x, int64_t task) const {
    const auto line = [&](const at::Tensor& table) { return table.select(0, task).to(x.scalar_type()); };
    return at::linear(at::gelu(at::linear(x, line(down), line(down_bias)), "tanh"), line(up), line(up_bias));
}

at::Tensor Bottleneck::apply(const at::Tensor& x, const RowBegin& rows,
                             const std::vector<int32_t>& task_of_row) const {
    POLYAD_CHECK(rows.size() == task_of_row.size() + 1 && rows.back() == x.size(0));
    // One split: the gradients of its parts are laid end to end, where those of slices would each be as
    // large as x.
    std::vector<int64_t> sizes;
    std::vector<int32_t> tasks;
    for (size_t row = 0; row < task_of_row.size(); ++row) {
        const int64_t count = rows[row + 1] - rows[row];
        if (!tasks.empty() && tasks.back() == task_of_row[row]) {
            sizes.back() += count;
        } else {
            sizes.push_back(count);
            tasks.push_back(task_of_row[row]);
        }
    }
    if (tasks.size() == 1) return apply(x, tasks.front());
    std::vector<at::Tensor> parts = x.split_with_sizes(sizes, 0);
    for (size_t i = 0; i < parts.size(); ++i) parts[i] = apply(parts[i], tasks[i]);
    return at::cat(parts, 0);
}

}  // namespace polyad
