// SPDX-License-Identifier: Apache-2.0
#include "skills/mixing.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/log.h>
#include <ATen/ops/log1p.h>
#include <ATen/ops/sigmoid.h>

#include "base/error.h"

namespace polyad {

SkillGate skill_gate(const at::Tensor& logits, const at::Tensor& u, double tau) {
    const at::Tensor z =
        u.defined() ? at::sigmoid((logits + (at::log(u) - at::log1p(-u))) / tau) : at::sigmoid(logits);
    return {z, z / (z.sum(-1, true) + 1e-12)};
}

at::Tensor stack_down(const at::Tensor& a) {
    return a.reshape({1, a.size(0) * a.size(1), a.size(2)});
}

at::Tensor stack_up(const at::Tensor& b) {
    return b.permute({1, 0, 2}).reshape({1, b.size(1), b.size(0) * b.size(2)});
}

Factors fold(const std::vector<LowRank>& updates, int64_t row) {
    POLYAD_CHECK(!updates.empty());
    std::vector<at::Tensor> down, up;
    for (const LowRank& raw : updates) {
        const LowRank update = with_mixed_factors(raw);
        const auto index = static_cast<size_t>(row);
        const int64_t group = update.group_of_row.empty() ? 0 : update.group_of_row.at(index);
        POLYAD_CHECK(group >= 0 && update.gate_kind != Gate::full && !update.gate_per_token);
        const auto of_group = [&](const at::Tensor& t) { return t.dim() == 2 ? t : t.select(0, group); };
        at::Tensor b = of_group(update.b);
        if (update.gate_kind == Gate::diagonal) {
            const int64_t width = update.gate.size(1);
            b = (b.reshape({b.size(0), width, -1}) * update.gate.select(0, row).view({1, width, 1}))
                    .flatten(1);
        }
        down.push_back(of_group(update.a));
        up.push_back(update.scale == 1.0 ? b : b * update.scale);
    }
    if (down.size() == 1) return {down[0], up[0]};
    return {at::cat(down, 0), at::cat(up, 1)};
}

}  // namespace polyad
