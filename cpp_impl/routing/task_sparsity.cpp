// SPDX-License-Identifier: Apache-2.0
#include "routing/task_sparsity.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/stack.h>

#include "base/error.h"

namespace polyad {
namespace {

constexpr double shortest = 1e-8;

/// max(|x|, 1e-8) from |x|^2.
at::Tensor length(const at::Tensor& squared) {
    return squared.clamp_min(shortest * shortest).sqrt();
}

}  // namespace

at::Tensor cosine_to_low_rank(const at::Tensor& f, const at::Tensor& u, const at::Tensor& a,
                              const at::Tensor& b, double scale) {
    const int64_t tokens = f.size(0), experts = a.size(0), rank = a.size(1);
    const at::Tensor out = f.to(at::kFloat);
    const at::Tensor v =
        at::mm(u.to(at::kFloat), a.reshape({experts * rank, -1}).t()).view({tokens, experts, rank}) * scale;
    const at::Tensor along =  // B_i^T f
        at::mm(out, b.permute({1, 0, 2}).reshape({-1, experts * rank})).view({tokens, experts, rank});
    const at::Tensor gram = at::bmm(b.transpose(1, 2), b);  // [m, r, r]
    const at::Tensor squared = (at::bmm(v.transpose(0, 1), gram).transpose(0, 1) * v).sum(-1);
    return (v * along).sum(-1) / (length(squared) * length((out * out).sum(-1)).unsqueeze(1));
}

at::Tensor cosine_to(const at::Tensor& f, const std::vector<at::Tensor>& experts) {
    const at::Tensor out = f.to(at::kFloat);
    const at::Tensor own = length((out * out).sum(-1));
    std::vector<at::Tensor> columns;
    for (const at::Tensor& expert : experts) {
        const at::Tensor e = expert.to(at::kFloat);
        columns.push_back((out * e).sum(-1) / (own * length((e * e).sum(-1))));
    }
    return at::stack(columns, 1);
}

at::Tensor task_sparsity(const at::Tensor& cosines, const at::Tensor& gates, const at::Tensor& tokens) {
    at::Tensor distance = 1.0 - cosines;
    if (tokens.defined()) {
        if (tokens.dim() != 1 || tokens.size(0) != distance.size(0))
            fail(Code::invalid_argument, "the mask has shape ", tokens.sizes(), ", needs [", distance.size(0),
                 "]");
        const at::Tensor kept = tokens.to(at::kFloat);
        distance = (distance * kept.unsqueeze(1)).sum(0) / kept.sum().clamp_min(1.0);
    } else {
        distance = distance.mean(0);
    }
    return (gates.mean(0) * distance).sum();
}

}  // namespace polyad
