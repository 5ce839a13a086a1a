// SPDX-License-Identifier: Apache-2.0
#include "backbone/adapted_block.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/ones.h>

#include <algorithm>

#include "backbone/buffer_pool.h"
#include "base/error.h"

namespace polyad {
namespace {

/// A trained matrix in place of the frozen one: a plain autograd linear, with a trained bias where there is
/// one.
at::Tensor trained_linear(Adaptation& adaptation, const at::Tensor& x, const at::Tensor& weight,
                          const PlacedLinear& placed) {
    if (weight.dim() != 2 || weight.size(0) != placed.site->d_out || weight.size(1) != placed.site->d_in)
        fail(Code::invalid_argument, "the trained weight of ", placed.site->path, " has shape ",
             weight.sizes(), ", not [", placed.site->d_out, ", ", placed.site->d_in, "]");
    at::Tensor y = at::linear(x, weight.to(x.scalar_type()));
    if (!placed.linear->bias.defined()) return y;
    const at::Tensor bias = adaptation.weight(placed.site->path + ".bias");
    return y + (bias.defined() ? bias.to(x.scalar_type()) : placed.linear->bias);
}

}  // namespace

std::vector<at::Tensor> site_linears(Adaptation* adaptation, const std::vector<PlacedLinear>& linears,
                                     const at::Tensor& x, const RowBegin& rows,
                                     std::function<at::Tensor()> recompute, Replay* replay) {
    std::vector<at::Tensor> outputs(linears.size()), scales(linears.size());
    std::vector<LinearBranch> branches;
    std::vector<size_t> place;
    for (size_t i = 0; i < linears.size(); ++i) {
        const auto& [site, linear] = linears[i];
        LinearBranch branch{linear->weight, linear->bias, {}};
        if (adaptation) {
            if (const at::Tensor weight = adaptation->weight(site->path + ".weight"); weight.defined()) {
                outputs[i] = trained_linear(*adaptation, x, weight, linears[i]);
                continue;
            }
            branch.updates = adaptation->at(*site, x);
            scales[i] = adaptation->output_scale(*site);
            if (scales[i].defined()) branch.bias = at::Tensor();
        }
        branches.push_back(std::move(branch));
        place.push_back(i);
    }
    if (branches.empty()) return outputs;
    const bool bare = branches.size() == linears.size() &&
                      std::none_of(scales.begin(), scales.end(), [](const auto& s) { return s.defined(); });
    const std::vector<at::Tensor> made =
        adapted_linears(x, std::move(branches), rows, std::move(recompute), bare ? replay : nullptr);
    for (size_t b = 0; b < made.size(); ++b) {
        const size_t i = place[b];
        outputs[i] = made[b];
        if (!scales[i].defined()) continue;
        // In float32: the scale is near 1, where bfloat16 steps by 1/128.
        outputs[i] = (outputs[i] * scales[i]).to(x.scalar_type());
        if (linears[i].linear->bias.defined()) outputs[i] = outputs[i] + linears[i].linear->bias;
    }
    return outputs;
}

std::vector<at::Tensor> spread_linears(Adaptation& adaptation, const std::vector<PlacedLinear>& linears,
                                       const at::Tensor& h, const std::shared_ptr<const SpreadPlan>& plan,
                                       std::function<at::Tensor()> again, Replay* replay) {
    std::vector<LinearBranch> frozen, updated;
    for (const PlacedLinear& placed : linears)
        frozen.push_back({placed.linear->weight, placed.linear->bias, {}});
    const std::vector<at::Tensor> products =
        adapted_linears(h, std::move(frozen), {0, static_cast<int32_t>(h.size(0))});
    const at::Tensor x = spread_tokens(h, plan);
    std::function<at::Tensor()> x_again;
    if (again) x_again = [again, plan] { return spread_tokens(again(), plan); };
    for (size_t i = 0; i < linears.size(); ++i) {
        LinearBranch branch{nullptr, {}, adaptation.at(*linears[i].site, x)};
        branch.made = spread_tokens(products[i], plan);
        if (again)
            branch.made_again = [again, plan, linear = *linears[i].linear] {
                at::Tensor y = linear.weight->multiply(again());
                if (linear.bias.defined()) y.add_(linear.bias);
                return spread_tokens(y, plan);
            };
        updated.push_back(std::move(branch));
    }
    return adapted_linears(x, std::move(updated), plan->rows, std::move(x_again), replay);
}

at::Tensor joined_linear(Adaptation& adaptation, const PlacedLinear& placed, const at::Tensor& u,
                         const std::shared_ptr<const SpreadPlan>& plan, std::function<at::Tensor()> again) {
    const Linear& linear = *placed.linear;
    const at::Tensor sum = joined_tokens(u, plan, {}, again);
    at::Tensor y =
        adapted_linears(sum, {{linear.weight, {}, {}}}, {0, static_cast<int32_t>(plan->tokens)})[0];
    if (linear.bias.defined()) {  // once per copy, each times its weight
        const at::Tensor ones = at::ones({plan->places(), 1}, y.options());
        y = y + joined_tokens(ones, plan) * linear.bias;
    }
    LinearBranch branch{nullptr, {}, adaptation.at(*placed.site, u)};
    if (branch.updates.empty()) return y;
    branch.made = new_zeros({u.size(0), y.size(1)}, y.options());
    const at::Tensor updates = adapted_linears(u, {std::move(branch)}, plan->rows, std::move(again))[0];
    return joined_tokens(updates, plan, y);
}

std::optional<Prefixed> put_prefix(Adaptation* adaptation, const at::Tensor& embeddings,
                                   const RowBegin& row_begin) {
    if (!adaptation) return std::nullopt;
    const std::vector<at::Tensor> prefix = adaptation->prefix();
    if (prefix.empty()) return std::nullopt;
    POLYAD_CHECK(prefix.size() + 1 == row_begin.size());
    Prefixed out;
    std::vector<at::Tensor> parts;
    int64_t end = 0;
    out.row_begin.push_back(0);
    for (size_t b = 0; b < prefix.size(); ++b) {
        if (prefix[b].defined()) {
            POLYAD_CHECK(prefix[b].dim() == 2 && prefix[b].size(1) == embeddings.size(1));
            parts.push_back(prefix[b].to(embeddings.scalar_type()));
            end += prefix[b].size(0);
        }
        parts.push_back(embeddings.slice(0, row_begin[b], row_begin[b + 1]));
        for (int32_t n = row_begin[b]; n < row_begin[b + 1]; ++n) out.own.push_back(end++);
        out.row_begin.push_back(static_cast<int32_t>(end));
    }
    out.embeddings = at::cat(parts, 0);
    return out;
}

}  // namespace polyad
