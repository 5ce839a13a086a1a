// SPDX-License-Identifier: Apache-2.0
#include "backbone/spread.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <utility>

#include "backbone/autograd_node.h"
#include "backbone/buffer_pool.h"
#include "backbone/device.h"
#include "backbone/kernel_args.h"
#include "backbone/weights.h"
#include "base/error.h"
#include "kernels/op_table.h"

namespace polyad {
namespace {

using Plan = std::shared_ptr<const SpreadPlan>;

/// w[m] x[token[m]]; w undefined: 1.
at::Tensor gather(const at::Tensor& x, const SpreadPlan& plan, const at::Tensor& w) {
    const auto& ops = ops_of(x);
    if (!ops.gather_rows) {
        const at::Tensor rows = x.index_select(0, plan.token_list);
        return w.defined() ? (rows * w.unsqueeze(1)).to(x.scalar_type()) : rows;
    }
    at::Tensor out = new_buffer({plan.places(), x.size(1)}, x.options());
    ops.gather_rows(float_of(x.scalar_type()), x.const_data_ptr(), plan.token.data(), float_or_null(w),
                    plan.places(), x.size(1), out.data_ptr());
    return out;
}

/// onto[n] + the sum of w[m] y[m]; w undefined: 1, onto undefined: 0, else overwritten.
at::Tensor sum(const at::Tensor& y, const SpreadPlan& plan, const at::Tensor& w, const at::Tensor& onto) {
    const auto& ops = ops_of(y);
    if (!ops.sum_rows) {
        at::Tensor total = onto.defined()
                               ? onto.to(at::kFloat)
                               : at::zeros({plan.tokens, y.size(1)}, y.options().dtype(at::kFloat));
        const at::Tensor terms = y.to(at::kFloat);
        total = total.index_add(0, plan.token_list, w.defined() ? terms * w.unsqueeze(1) : terms);
        return onto.defined() ? onto.copy_(total) : total.to(y.scalar_type());
    }
    at::Tensor out = onto.defined() ? onto : new_buffer({plan.tokens, y.size(1)}, y.options());
    ops.sum_rows(float_of(y.scalar_type()), y.const_data_ptr(), plan.begin.data(), plan.member.data(),
                 float_or_null(w), onto.defined(), plan.tokens, y.size(1), out.data_ptr());
    return out;
}

/// <a[token[m]], b[m]>.
at::Tensor dots(const at::Tensor& a, const SpreadPlan& plan, const at::Tensor& b) {
    const auto& ops = ops_of(a);
    if (!ops.row_dots) return (a.index_select(0, plan.token_list).to(at::kFloat) * b.to(at::kFloat)).sum(-1);
    at::Tensor out = at::zeros({plan.places()}, a.options().dtype(at::kFloat));
    ops.row_dots(float_of(a.scalar_type()), a.const_data_ptr(), plan.token.data(), b.const_data_ptr(),
                 plan.places(), a.size(1), out.data_ptr<float>());
    return out;
}

class SpreadNode final : public SavedNode {
  public:
    std::string name() const override { return "SpreadTokens"; }
    Plan plan;

  protected:
    List backward(List&& gradients) override {
        if (!gradients[0].defined()) return List(1);
        return {sum(gradients[0].contiguous(), *plan, {}, {})};
    }
    void release() override { plan.reset(); }
};

/// Inputs: y, weight, onto.
class JoinNode final : public SavedNode {
  public:
    std::string name() const override { return "JoinedTokens"; }
    Plan plan;
    at::Tensor y, weight;
    std::function<at::Tensor()> again;

  protected:
    List backward(List&& gradients) override {
        List result(3);
        if (!gradients[0].defined()) return result;
        const at::Tensor dout = gradients[0].contiguous();
        if (wants(0)) result[0] = gather(dout, *plan, weight);
        if (wants(1)) result[1] = dots(dout, *plan, y.defined() ? y : again());
        if (wants(2)) result[2] = gradients[0];
        return result;
    }
    void release() override {
        plan.reset();
        y = weight = at::Tensor();
        again = {};
    }
};

}  // namespace

SpreadPlan::SpreadPlan(Spread spread, int64_t count)
    : tokens(count),
      token(std::move(spread.token)),
      rows(std::move(spread.rows)),
      weight(std::move(spread.weight)),
      begin(static_cast<size_t>(count) + 1, 0),
      member(token.size()) {
    POLYAD_CHECK(!rows.empty() && rows.front() == 0 && rows.back() == places());
    POLYAD_CHECK(std::is_sorted(rows.begin(), rows.end()));
    POLYAD_CHECK(weight.dim() == 1 && weight.size(0) == places() && weight.scalar_type() == at::kFloat);
    for (const int32_t n : token) {
        POLYAD_CHECK(n >= 0 && n < tokens);
        ++begin[static_cast<size_t>(n) + 1];
    }
    for (size_t n = 0; n < static_cast<size_t>(tokens); ++n) begin[n + 1] += begin[n];
    if (!weight.is_cpu()) token_list = device_list(token, weight.device());
    std::vector<int32_t> next(begin.begin(), begin.end() - 1);
    for (size_t m = 0; m < token.size(); ++m)
        member[static_cast<size_t>(next[static_cast<size_t>(token[m])]++)] = static_cast<int32_t>(m);
}

at::Tensor spread_tokens(const at::Tensor& x, const Plan& plan) {
    POLYAD_CHECK(x.dim() == 2 && x.size(0) == plan->tokens);
    at::Tensor out = gather(x.detach().contiguous(), *plan, {});
    if (!needs_gradient(x)) return out;
    auto node = make_node<SpreadNode>();
    node->plan = plan;
    record(node, {x}, {out});
    return out;
}

at::Tensor joined_tokens(const at::Tensor& y, const Plan& plan, const at::Tensor& onto,
                         std::function<at::Tensor()> again) {
    POLYAD_CHECK(y.dim() == 2 && y.size(0) == plan->places());
    const at::Tensor terms = y.detach().contiguous(), w = plan->weight.detach().contiguous();
    at::Tensor out = sum(terms, *plan, w, onto.defined() ? onto.detach() : onto);
    if (!needs_gradient(y, plan->weight, onto)) return out;
    auto node = make_node<JoinNode>();
    node->plan = plan;
    node->weight = w;
    if (again)
        node->again = std::move(again);
    else
        node->y = terms;
    record(node, {y, plan->weight, onto}, {out});
    return out;
}

}  // namespace polyad
