// SPDX-License-Identifier: Apache-2.0
#include "skills/mixing.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/log.h>
#include <ATen/ops/log1p.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/sigmoid.h>

#include "base/error.h"

namespace polyad {

SkillGate skill_gate(const at::Tensor& logits, const at::Tensor& u, double tau) {
    const at::Tensor z =
        u.defined() ? at::sigmoid((logits + (at::log(u) - at::log1p(-u))) / tau) : at::sigmoid(logits);
    return {z, z / (z.sum(-1, true) + 1e-12)};
}

at::Tensor mix_down(const at::Tensor& weights, const at::Tensor& a) {
    const int64_t groups = weights.size(0), splits = weights.size(1);
    const int64_t skills = a.size(0), rank = a.size(1), d_in = a.size(2);
    if (splits == 1) return at::mm(weights.select(1, 0), a.view({skills, -1})).view({groups, rank, d_in});
    const at::Tensor blocks =
        a.view({skills, rank, splits, d_in / splits}).permute({2, 0, 1, 3}).reshape({splits, skills, -1});
    return at::bmm(weights.permute({1, 0, 2}), blocks)
        .view({splits, groups, rank, d_in / splits})
        .permute({1, 2, 0, 3})
        .reshape({groups, rank, d_in});
}

at::Tensor mix_up(const at::Tensor& weights, const at::Tensor& b) {
    const int64_t groups = weights.size(0), splits = weights.size(1);
    const int64_t skills = b.size(0), d_out = b.size(1), rank = b.size(2);
    if (splits == 1) return at::mm(weights.select(1, 0), b.view({skills, -1})).view({groups, d_out, rank});
    const at::Tensor blocks = b.view({skills, splits, d_out / splits * rank}).permute({1, 0, 2}).contiguous();
    return at::bmm(weights.permute({1, 0, 2}), blocks).permute({1, 0, 2}).reshape({groups, d_out, rank});
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
    for (const LowRank& update : updates) {
        const auto index = static_cast<size_t>(row);
        const int64_t group = update.group_of_row.empty() ? 0 : update.group_of_row.at(index);
        POLYAD_CHECK(group >= 0 && update.gate_kind != Gate::full && !update.gate_per_token);
        at::Tensor b = update.b.select(0, group);
        if (update.gate_kind == Gate::diagonal) {
            const int64_t width = update.gate.size(1);
            b = (b.reshape({b.size(0), width, -1}) * update.gate.select(0, row).view({1, width, 1}))
                    .flatten(1);
        }
        down.push_back(update.a.select(0, group));
        up.push_back(update.scale == 1.0 ? b : b * update.scale);
    }
    if (down.size() == 1) return {down[0], up[0]};
    return {at::cat(down, 0), at::cat(up, 1)};
}

}  // namespace polyad
