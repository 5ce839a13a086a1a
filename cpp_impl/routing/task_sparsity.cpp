// SPDX-License-Identifier: Apache-2.0
#include "routing/task_sparsity.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/stack.h>

#include "backbone/autograd_node.h"
#include "backbone/buffer_pool.h"
#include "backbone/device.h"
#include "backbone/kernel_args.h"
#include "backbone/weights.h"
#include "base/error.h"
#include "kernels/op_table.h"
#include "skills/mixing.h"

namespace polyad {
namespace {

constexpr double shortest = 1e-8;

/// max(|x|, 1e-8) from |x|^2.
at::Tensor length(const at::Tensor& squared) {
    return squared.clamp_min(shortest * shortest).sqrt();
}

constexpr int32_t one_group = 0;

/// All experts are one pair of m r ranks that every token reads.
class ProjectNode final : public SavedNode {
  public:
    std::string name() const override { return "ProjectExperts"; }

    at::Tensor forward(const at::Tensor& u, const at::Tensor& a) {
        POLYAD_CHECK(u.scalar_type() == a.scalar_type());
        options_ = u.options();
        a_ = a;
        rows_ = {0, static_cast<int32_t>(u.size(0))};
        at::Tensor v = new_buffer({u.size(0), a.size(1)}, u.options().dtype(at::kFloat));
        ops_of(u).low_rank_down(float_of(u.scalar_type()), u.data_ptr(), a.data_ptr(), &one_group,
                                kernel_rows(rows_), u.size(1), a.size(1), v.data_ptr<float>());
        return v;
    }

  protected:
    List backward(List&& gradients) override {
        if (!gradients[0].defined() || !wants(0)) return List(1);
        const at::Tensor dv = gradients[0].contiguous();
        at::Tensor du = new_zeros({dv.size(0), a_.size(2)}, options_);
        ops_of(dv).low_rank_down_backward(float_of(a_.scalar_type()), dv.data_ptr<float>(), nullptr,
                                          a_.data_ptr(), &one_group, kernel_rows(rows_), a_.size(2),
                                          a_.size(1), du.data_ptr(), nullptr);
        return {du};
    }
    void release() override { a_ = at::Tensor(); }

  private:
    at::Tensor a_;
    at::TensorOptions options_;
    RowBegin rows_;
};

class CosineNode final : public SavedNode {
  public:
    std::string name() const override { return "CosineToLowRank"; }

    at::Tensor forward(const at::Tensor& f, const at::Tensor& v, const StackedExperts& experts) {
        POLYAD_CHECK(f.size(0) == v.size(0) && f.scalar_type() == experts.b.scalar_type() &&
                     v.scalar_type() == at::kFloat && v.size(1) == experts.b.size(2));
        rows_ = {0, static_cast<int32_t>(f.size(0))};
        f_ = f;
        v_ = v;
        experts_ = experts;
        along_ = new_buffer({tokens(), ranks()}, floats());
        ops_of(f).low_rank_up_backward(float_of(f.scalar_type()), f.data_ptr(), v_.data_ptr<float>(),
                                       experts.b.data_ptr(), &one_group, kernel_rows(rows_), f.size(1),
                                       ranks(), 1.0f, along_.data_ptr<float>(), nullptr);
        const double s = experts.scale;
        squared_ = sum_of_products(by_gram(), v_).mul_(s * s);
        own_squared_ = at::linalg_vector_norm(f, 2, {-1}, true, at::kFloat).square_();
        dot_ = sum_of_products(along_, v_).mul_(s);
        return dot_ / lengths();
    }

  protected:
    List backward(List&& gradients) override {
        if (!gradients[0].defined()) return List(2);
        const double s = experts_.scale, least = shortest * shortest;
        const at::Tensor ddot = gradients[0] / lengths();  // [N, m]
        // cos = dot / (|e| |f|): through a length it is -cos / (2 length^2), and nothing where it is clamped.
        const at::Tensor through = ddot * dot_ * -0.5;
        const auto of_square = [&](const at::Tensor& squared) {
            return (through / squared.clamp_min(least)).mul_(squared.gt(least));
        };
        List result(2);
        if (wants(1)) {
            at::Tensor dv = by_gram();
            per_expert(dv).mul_((of_square(squared_) * (2.0 * s * s)).unsqueeze(2));
            per_expert(dv).addcmul_(per_expert(along_), (ddot * s).unsqueeze(2));
            result[1] = dv;
        }
        if (wants(0)) {
            at::Tensor scaled = new_buffer({tokens(), ranks()}, floats()), experts = per_expert(scaled);
            at::mul_out(experts, per_expert(v_), (ddot * s).unsqueeze(2));
            result[0] = new_buffer_like(f_);
            at::mul_out(result[0], f_, of_square(own_squared_).sum(-1, true).mul_(2.0));
            ops_of(f_).low_rank_up(float_of(f_.scalar_type()), scaled.data_ptr<float>(),
                                   experts_.b.data_ptr(), &one_group, kernel_rows(rows_), f_.size(1), ranks(),
                                   1.0f, result[0].data_ptr());
        }
        return result;
    }
    void release() override {
        f_ = v_ = along_ = squared_ = own_squared_ = dot_ = at::Tensor();
        experts_ = {};
    }

  private:
    int64_t tokens() const { return f_.size(0); }
    int64_t ranks() const { return experts_.b.size(2); }
    at::TensorOptions floats() const { return f_.options().dtype(at::kFloat); }
    at::Tensor per_expert(const at::Tensor& t) const {
        const int64_t m = experts_.gram.size(0);
        return t.view({tokens(), m, ranks() / m});
    }
    /// (B_i^T B_i) v_i, [N, m r].
    at::Tensor by_gram() const {
        at::Tensor out = new_buffer({tokens(), ranks()}, floats());
        for (int64_t i = 0; i < experts_.gram.size(0); ++i) {
            at::Tensor part = per_expert(out).select(1, i);
            at::mm_out(part, per_expert(v_).select(1, i), experts_.gram.select(0, i));
        }
        return out;
    }
    /// [N, m].
    at::Tensor sum_of_products(const at::Tensor& x, const at::Tensor& y) const {
        at::Tensor products = new_buffer({tokens(), ranks()}, floats());
        at::mul_out(products, x, y);
        return per_expert(products).sum(-1);
    }
    at::Tensor lengths() const { return length(squared_) * length(own_squared_); }

    at::Tensor f_, v_, along_;                ///< v = A u and B^T f, [N, m r] float32
    at::Tensor squared_, own_squared_, dot_;  ///< |e|^2 [N, m], |f|^2 [N, 1], e.f [N, m]
    StackedExperts experts_;
    RowBegin rows_;
};

}  // namespace

StackedExperts StackedExperts::of(const at::Tensor& a, const at::Tensor& b, double scale,
                                  at::ScalarType dtype) {
    const at::NoGradGuard no_grad;
    const at::Tensor down = a.detach(), up = b.detach().to(at::kFloat);
    return {stack_down(down).to(dtype).contiguous(), stack_up(up).to(dtype).contiguous(),
            at::bmm(up.transpose(1, 2), up), scale};
}

at::Tensor project(const at::Tensor& u, const StackedExperts& experts) {
    auto node = make_node<ProjectNode>();
    at::Tensor v = node->forward(u.detach().contiguous(), experts.a);
    if (needs_gradient(u)) record(node, {u}, {v});
    return v;
}

at::Tensor cosine_to_low_rank(const at::Tensor& f, const at::Tensor& v, const StackedExperts& experts) {
    auto node = make_node<CosineNode>();
    const bool recorded = needs_gradient(f, v);
    at::Tensor cosines;
    {
        const at::NoGradGuard no_grad;
        cosines = node->forward(f.detach().contiguous(), v.detach(), experts);
    }
    if (recorded) record(node, {f, v}, {cosines});
    return cosines;
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
