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
    std::vector<at::Tensor> parts;
    for (size_t begin = 0, end = 0; begin < task_of_row.size(); begin = end) {
        while (end < task_of_row.size() && task_of_row[end] == task_of_row[begin]) ++end;
        if (begin == 0 && end == task_of_row.size()) return apply(x, task_of_row[begin]);
        if (rows[end] > rows[begin])
            parts.push_back(apply(x.slice(0, rows[begin], rows[end]), task_of_row[begin]));
    }
    return at::cat(parts, 0);
}

}  // namespace polyad
