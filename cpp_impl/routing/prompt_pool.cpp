// SPDX-License-Identifier: Apache-2.0
#include "routing/prompt_pool.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/mv.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <numeric>

#include "backbone/autograd_node.h"
#include "backbone/buffer_pool.h"
#include "backbone/device.h"
#include "backbone/kernel_args.h"
#include "backbone/weights.h"
#include "kernels/op_table.h"

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

bool all_at_once(const at::Tensor& x, const Queries& queries) {
    return queries.count == x.size(0) && x.size(0) * x.size(0) <= attention_budget;
}

/// Only the sum over queries of a token's attention matters, so softmax(..) X itself is never formed:
/// g = w sum_i x_i + sum_j (w sum_i a_ij) x_j. `kept` (may be null) takes the attention where one piece is
/// all of it.
at::Tensor pool_one(const at::Tensor& x, bool attention, Pool pool, at::Tensor* kept) {
    const Queries queries = queries_of(pool, x.size(0));
    if (!attention) return x.narrow(0, queries.begin, queries.count).mean(0);
    at::Tensor share = at::zeros({x.size(0)}, x.options());
    share.narrow(0, queries.begin, queries.count).fill_(1.0);
    each_chunk(x, queries, [&](const at::Tensor&, const at::Tensor& a, int64_t) {
        share += a.sum(0);
        if (kept && all_at_once(x, queries)) *kept = a;
    });
    return at::mv(x.t(), share) * queries.weight();
}

/// dL/dx of one span, given t = w dL/dg:
///     dx_i += t for the queries (residual);  dx_j += (sum_i a_ij) t;  and through the scores s_ij, with
///     e = X t and ds_ij = a_ij (e_j - sum_k a_ik e_k) / sqrt(d):  dX_I += ds X,  dX += ds^T X_I.
at::Tensor pool_one_backward(const at::Tensor& x, const at::Tensor& t, Pool pool, const at::Tensor& kept) {
    const Queries queries = queries_of(pool, x.size(0));
    at::Tensor share = at::zeros({x.size(0)}, x.options()), dx;
    share.narrow(0, queries.begin, queries.count).fill_(1.0);
    const at::Tensor e = at::mv(x, t);
    const double scale = 1.0 / std::sqrt(static_cast<double>(x.size(1)));
    const auto use = [&](const at::Tensor& chunk, const at::Tensor& a, int64_t begin) {
        share += a.sum(0);
        const at::Tensor ds = (e - at::mv(a, e).unsqueeze(1)).mul_(a).mul_(scale);
        if (all_at_once(x, queries)) {  // both terms in one product
            dx = at::mm(ds + ds.t(), x);
            return;
        }
        if (!dx.defined()) dx = at::zeros(x.sizes(), x.options());
        dx.narrow(0, begin, chunk.size(0)).addmm_(ds, x);
        dx.addmm_(ds.t(), chunk);
    };
    if (kept.defined())
        use(x, kept, 0);
    else
        each_chunk(x, queries, use);
    return dx.addr_(share, t);
}

/// Enough spans for every thread to have some.
bool share_threads(size_t spans) {
    return static_cast<int64_t>(spans) >= 2 * at::get_num_threads();
}

/// True when the kernels take the span whole: they hold all of its attention, and are one thread's work,
/// which a long span has only where others keep the other threads busy.
bool in_one(const at::Tensor& x, const TokenSpan& span, Pool pool, size_t spans) {
    constexpr int64_t brief = 128;
    return ops_of(x).attend_span && pool == Pool::mean && span.count * span.count <= attention_budget &&
           (span.count <= brief || share_threads(spans));
}

void* start_of(const at::Tensor& x, const TokenSpan& span) {
    return address_of(x, span.begin * x.size(1));
}

/// g [d] of a span is written; its attention.
at::Tensor attend(const at::Tensor& x, const TokenSpan& span, float* g) {
    at::Tensor attention = new_buffer({span.count, span.count}, x.options().dtype(at::kFloat));
    ops_of(x).attend_span(float_of(x.scalar_type()), start_of(x, span), span.count, x.size(1),
                          attention.data_ptr<float>(), g);
    return attention;
}

/// Calls one(i) for every span. Spans are small against what a thread can do: on the CPU each is one
/// thread's, where there are enough of them, the longest first (attention takes their length squared).
template <class One>
void each_span(const at::Tensor& x, const std::vector<TokenSpan>& spans, Pool pool, const One& one) {
    std::vector<size_t> order(spans.size());
    std::iota(order.begin(), order.end(), size_t{0});
    const bool all_in_one = std::all_of(spans.begin(), spans.end(), [&](const TokenSpan& span) {
        return in_one(x, span, pool, spans.size());
    });
    if (!x.is_cpu() || !(share_threads(spans.size()) || (all_in_one && spans.size() > 1))) {
        const at::NoGradGuard no_grad;
        for (const size_t i : order) one(i);
        return;
    }
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return spans[a].count > spans[b].count; });
    std::atomic<size_t> next{0};
    at::parallel_for(0, at::get_num_threads(), 1, [&](int64_t, int64_t) {
        const at::NoGradGuard no_grad;
        for (size_t i = next++; i < order.size(); i = next++) one(order[i]);
    });
}

class PoolNode final : public SavedNode {
  public:
    std::string name() const override { return "PoolSpans"; }

    at::Tensor x;  ///< kept for attention only
    std::vector<TokenSpan> spans;
    std::vector<at::Tensor> kept;  ///< attention of each span; undefined = made again
    std::vector<int64_t> sizes;
    at::TensorOptions options;
    bool attention = true;
    Pool pool = Pool::mean;

  protected:
    List backward(List&& gradients) override {
        if (!gradients[0].defined() || !wants(0)) return List(1);
        at::Tensor dx = new_zeros(sizes, options);
        const at::Tensor& gradient = gradients[0];
        each_span(dx, spans, pool, [&](size_t i) {
            if (attention && in_one(x, spans[i], pool, spans.size())) {
                at::Tensor a = kept[i];
                if (!a.defined()) {
                    std::vector<float> unused(static_cast<size_t>(x.size(1)));
                    a = attend(x, spans[i], unused.data());
                }
                const at::Tensor dg = gradient.select(0, static_cast<int64_t>(i)).contiguous();
                ops_of(x).attend_span_backward(float_of(x.scalar_type()), start_of(x, spans[i]),
                                               spans[i].count, x.size(1), a.const_data_ptr<float>(),
                                               dg.const_data_ptr<float>(), start_of(dx, spans[i]));
                return;
            }
            const Queries queries = queries_of(pool, spans[i].count);
            const at::Tensor t = gradient.select(0, static_cast<int64_t>(i)) * queries.weight();
            if (!attention) {
                dx.narrow(0, spans[i].begin + queries.begin, queries.count).copy_(t.unsqueeze(0));
                return;
            }
            const at::Tensor own = x.narrow(0, spans[i].begin, spans[i].count).to(at::kFloat);
            dx.narrow(0, spans[i].begin, spans[i].count).copy_(pool_one_backward(own, t, pool, kept[i]));
        });
        return {dx};
    }
    void release() override {
        x = at::Tensor();
        kept.clear();
    }
};

}  // namespace

at::Tensor pool_spans(const at::Tensor& x, const std::vector<TokenSpan>& spans, bool attention, Pool pool) {
    at::Tensor g = at::empty({static_cast<int64_t>(spans.size()), x.size(1)},
                             x.options().dtype(at::kFloat).requires_grad(false));
    const at::Tensor values = x.detach().contiguous();
    const bool recorded = needs_gradient(x);
    std::vector<at::Tensor> kept(spans.size());
    for (const TokenSpan& span : spans)
        POLYAD_CHECK(span.count > 0 && span.begin >= 0 && span.begin + span.count <= x.size(0));
    each_span(values, spans, pool, [&](size_t i) {
        // No more than the span itself takes.
        const int64_t line_bytes = x.size(1) * static_cast<int64_t>(x.element_size());
        const bool keep = recorded && spans[i].count * 4 <= line_bytes;
        if (attention && in_one(values, spans[i], pool, spans.size())) {
            const at::Tensor a =
                attend(values, spans[i], g.data_ptr<float>() + static_cast<int64_t>(i) * x.size(1));
            if (keep) kept[i] = a;
            return;
        }
        const at::Tensor own = values.narrow(0, spans[i].begin, spans[i].count).to(at::kFloat);
        g.select(0, static_cast<int64_t>(i)).copy_(pool_one(own, attention, pool, keep ? &kept[i] : nullptr));
    });
    if (!recorded) return g;
    auto node = make_node<PoolNode>();
    if (attention) node->x = values;
    node->spans = spans;
    node->kept = std::move(kept);
    node->sizes = values.sizes().vec();
    node->options = values.options();
    node->attention = attention;
    node->pool = pool;
    record(node, {x}, {g});
    return g;
}

}  // namespace polyad
