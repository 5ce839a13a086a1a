// SPDX-License-Identifier: Apache-2.0
#include "routing/prompt_pool.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/mv.h>
#include <ATen/ops/outer.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

#include "backbone/autograd_node.h"

namespace polyad {
namespace {

constexpr int64_t attention_budget = int64_t{1} << 20;  ///< entries of softmax(X X^T) held at once

/// The tokens of a span whose X' is pooled.
struct Queries {
    int64_t begin, count;
    double weight() const { return 1.0 / static_cast<double>(count); }
};

Queries queries_of(Pool pool, int64_t tokens) {
    if (pool == Pool::first) return {0, 1};
    if (pool == Pool::last) return {tokens - 1, 1};
    return {0, tokens};
}

/// Calls use(queries of the chunk [m, d], their attention [m, tokens], begin) until all queries are through.
template <class Use>
void each_chunk(const at::Tensor& x, const Queries& queries, const Use& use) {
    const int64_t step = std::max<int64_t>(16, attention_budget / x.size(0));
    const double scale = 1.0 / std::sqrt(static_cast<double>(x.size(1)));
    for (int64_t done = 0; done < queries.count; done += step) {
        const int64_t begin = queries.begin + done, count = std::min(step, queries.count - done);
        const at::Tensor chunk = x.narrow(0, begin, count);
        use(chunk, at::softmax(at::mm(chunk * scale, x.t()), -1), begin);
    }
}

/// Only the sum over queries of a token's attention matters, so softmax(..) X itself is never formed:
/// g = w sum_i x_i + sum_j (w sum_i a_ij) x_j.
at::Tensor pool_one(const at::Tensor& x, bool attention, Pool pool) {
    const Queries queries = queries_of(pool, x.size(0));
    at::Tensor share = at::zeros({x.size(0)}, x.options());
    share.narrow(0, queries.begin, queries.count).fill_(1.0);
    if (attention)
        each_chunk(x, queries, [&](const at::Tensor&, const at::Tensor& a, int64_t) { share += a.sum(0); });
    return at::mv(x.t(), share) * queries.weight();
}

/// dL/dx of one span, given t = w dL/dg:
///     dx_i += t for the queries (residual);  dx_j += (sum_i a_ij) t;  and through the scores s_ij, with
///     e = X t and ds_ij = a_ij (e_j - sum_k a_ik e_k) / sqrt(d):  dX_I += ds X,  dX += ds^T X_I.
at::Tensor pool_one_backward(const at::Tensor& x, const at::Tensor& gradient, bool attention, Pool pool) {
    const Queries queries = queries_of(pool, x.size(0));
    const at::Tensor t = gradient * queries.weight();
    at::Tensor share = at::zeros({x.size(0)}, x.options()), dx = at::zeros(x.sizes(), x.options());
    share.narrow(0, queries.begin, queries.count).fill_(1.0);
    if (attention) {
        const at::Tensor e = at::mv(x, t);
        const double scale = 1.0 / std::sqrt(static_cast<double>(x.size(1)));
        each_chunk(x, queries, [&](const at::Tensor& chunk, const at::Tensor& a, int64_t begin) {
            share += a.sum(0);
            const at::Tensor ds = a * (e - at::mv(a, e).unsqueeze(1)) * scale;
            dx.narrow(0, begin, chunk.size(0)).addmm_(ds, x);
            dx.addmm_(ds.t(), chunk);
        });
    }
    return dx.add_(at::outer(share, t));
}

class PoolNode final : public SavedNode {
  public:
    std::string name() const override { return "PoolSpans"; }

    at::Tensor x;
    std::vector<TokenSpan> spans;
    bool attention = true;
    Pool pool = Pool::mean;

  protected:
    List backward(List&& gradients) override {
        if (!gradients[0].defined() || !wants(0)) return List(1);
        at::Tensor dx = at::zeros(x.sizes(), x.options());
        for (size_t i = 0; i < spans.size(); ++i) {
            const at::Tensor own = x.narrow(0, spans[i].begin, spans[i].count).to(at::kFloat);
            dx.narrow(0, spans[i].begin, spans[i].count)
                .copy_(
                    pool_one_backward(own, gradients[0].select(0, static_cast<int64_t>(i)), attention, pool));
        }
        return {dx};
    }
    void release() override { x = at::Tensor(); }
};

}  // namespace

at::Tensor pool_spans(const at::Tensor& x, const std::vector<TokenSpan>& spans, bool attention, Pool pool) {
    at::Tensor g = at::empty({static_cast<int64_t>(spans.size()), x.size(1)},
                             x.options().dtype(at::kFloat).requires_grad(false));
    const at::Tensor values = x.detach();
    {
        at::NoGradGuard no_grad;
        for (size_t i = 0; i < spans.size(); ++i) {
            POLYAD_CHECK(spans[i].count > 0 && spans[i].begin >= 0 &&
                         spans[i].begin + spans[i].count <= x.size(0));
            const at::Tensor own = values.narrow(0, spans[i].begin, spans[i].count).to(at::kFloat);
            g.select(0, static_cast<int64_t>(i)).copy_(pool_one(own, attention, pool));
        }
    }
    if (!needs_gradient(x)) return g;
    auto node = make_node<PoolNode>();
    node->x = values;
    node->spans = spans;
    node->attention = attention;
    node->pool = pool;
    record(node, {x}, {g});
    return g;
}

}  // namespace polyad
