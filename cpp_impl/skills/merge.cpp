// SPDX-License-Identifier: Apache-2.0
#include "skills/merge.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/topk.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>

#include "base/error.h"

namespace polyad {
namespace {

at::Tensor keep_largest(const at::Tensor& factor, double density) {
    if (density >= 1.0) return factor;
    const auto count = static_cast<int64_t>(density * static_cast<double>(factor.numel()));
    const at::Tensor flat = factor.reshape({-1});
    at::Tensor out = at::zeros_like(flat);
    const at::Tensor index = std::get<1>(at::topk(flat.abs(), count));
    out.index_copy_(0, index, flat.index_select(0, index));
    return out.view(factor.sizes());
}

at::Tensor drop_and_rescale(const at::Tensor& factor, double density, Generator& noise) {
    if (density >= 1.0) return factor;
    at::Tensor u = at::empty_like(factor);
    noise.fill_uniform(u.mutable_data_ptr<float>(), static_cast<size_t>(u.numel()));
    return at::where(u < density, factor / density, at::zeros_like(factor));
}

}  // namespace

const char* merge_name(Merge merge) {
    static constexpr const char* names[] = {"linear", "ties", "dare_linear", "dare_ties", "magnitude_prune"};
    return names[static_cast<int>(merge)];
}

at::Tensor merge_factors(const std::vector<at::Tensor>& factors, const std::vector<double>& coefficients,
                         const MergeRule& rule, Generator& noise) {
    POLYAD_CHECK(!factors.empty() && factors.size() == coefficients.size());
    const bool largest = rule.merge == Merge::ties || rule.merge == Merge::magnitude_prune,
               random = rule.merge == Merge::dare_linear || rule.merge == Merge::dare_ties,
               elect = rule.merge == Merge::ties || rule.merge == Merge::dare_ties;
    std::vector<at::Tensor> pruned;
    for (const at::Tensor& factor : factors)
        pruned.push_back(largest  ? keep_largest(factor, rule.density)
                         : random ? drop_and_rescale(factor, rule.density, noise)
                                  : factor);
    const at::Tensor all = at::stack(pruned);
    const at::Tensor weighted = all * at::tensor(coefficients, at::kFloat).view({-1, 1, 1});
    if (!elect) return weighted.sum(0);
    // The sign is elected before the coefficients come in; a sum of 0 elects +.
    const at::Tensor sign = all.sign();
    const at::Tensor votes = (rule.frequency ? sign : all).sum(0);
    const at::Tensor elected = at::where(votes >= 0, at::full_like(votes, 1.0), at::full_like(votes, -1.0));
    const at::Tensor agrees = sign.eq(elected).to(at::kFloat);
    return (weighted * agrees).sum(0) / agrees.sum(0).clamp_min(1.0);
}

}  // namespace polyad
