// SPDX-License-Identifier: Apache-2.0
#include "backbone/fused.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros_like.h>

#include "backbone/autograd_node.h"
#include "backbone/buffer_pool.h"
#include "backbone/device.h"
#include "backbone/kernel_args.h"
#include "backbone/weights.h"
#include "kernels/op_table.h"

namespace polyad {
namespace {

at::Tensor new_floats(int64_t n, const at::Tensor& like) {
    return at::empty({n}, like.options().dtype(at::kFloat));
}

/// `count` vectors from the `begin`-th on that one gain norms.
struct NormPart {
    int64_t begin, count, line;
};

/// w is [width], or has a line for each of `rows`.
std::vector<NormPart> norm_parts(const at::Tensor& x, const at::Tensor& w, const RowBegin& rows) {
    const int64_t width = w.size(-1), heads = x.size(1) / width;
    if (w.dim() == 1) return {{0, x.size(0) * heads, 0}};
    POLYAD_CHECK(static_cast<int64_t>(rows.size()) == w.size(0) + 1 && rows.back() == x.size(0));
    std::vector<NormPart> parts;
    for (size_t b = 0; b + 1 < rows.size(); ++b)
        if (const int32_t count = rows[b + 1] - rows[b])
            parts.push_back({rows[b] * heads, count * heads, static_cast<int64_t>(b)});
    return parts;
}

class RmsNormNode final : public SavedNode {
  public:
    std::string name() const override { return "RmsNorm"; }
    at::Tensor x, w, rstd;
    std::vector<NormPart> parts;
    double eps = 0;

  protected:
    // gradients: {of the norm} or, for add_rms_norm, {of the sum, of the norm}; inputs: x, or residual and
    // delta; then w, which is trained by few.
    List backward(List&& gradients) override {
        at::Tensor dx, dw;
        if (gradients.size() == 2) dx = std::move(gradients[0]);
        if (gradients.back().defined()) {
            const at::Tensor dy = gradients.back().contiguous();
            const int add = dx.defined();
            // The sum's own gradient is added to in place, unless somebody else still reads it.
            if (!add)
                dx = new_buffer_like(x);
            else if (dx.use_count() > 1 || dx.storage().use_count() > 1 || !dx.is_contiguous())
                dx = dx.clone(at::MemoryFormat::Contiguous);
            if (wants(gradients.size())) dw = at::zeros_like(w);
            const int64_t width = w.size(-1);
            for (const auto& [begin, count, line] : parts)
                ops_of(x).rms_norm_backward(float_of(x.scalar_type()), address_of(dy, begin * width),
                                            address_of(x, begin * width), w.data_ptr<float>() + line * width,
                                            rstd.data_ptr<float>() + begin, address_of(dx, begin * width),
                                            dw.defined() ? dw.data_ptr<float>() + line * width : nullptr, add,
                                            count, width);
        }
        List result(gradients.size(), dx);
        result.push_back(dw);
        return result;
    }
    void release() override { x = w = rstd = at::Tensor(); }
};

class SwigluNode final : public SavedNode {
  public:
    std::string name() const override { return "Swiglu"; }
    std::shared_ptr<GateUp> kept;

  protected:
    List backward(List&& gradients) override {
        if (!gradients[0].defined()) return List(2);
        const at::Tensor dy = gradients[0].contiguous();
        const at::Tensor gate = kept->both()[0], up = kept->both()[1];
        at::Tensor dgate = new_buffer_like(gate), dup = new_buffer_like(up);
        ops_of(gate).swiglu_backward(float_of(gate.scalar_type()), dy.data_ptr(), gate.data_ptr(),
                                     up.data_ptr(), dgate.data_ptr(), dup.data_ptr(), gate.numel());
        return {dgate, dup};
    }
    void release() override {
        if (kept) kept->release();
        kept.reset();
    }
};

/// Pointers the attention kernel reads; lives as long as the call.
struct AttentionCall {
    std::vector<const void*> k_row, v_row;
    kernels::Attention args{};
};

void fill_call(AttentionCall& call, const AttentionPlan& plan, int64_t window, at::ScalarType type) {
    call.args.type = float_of(type);
    call.args.rows = plan.rows();
    call.args.heads = static_cast<int32_t>(plan.heads);
    call.args.heads_kv = static_cast<int32_t>(plan.heads_kv);
    call.args.head_dim = static_cast<int32_t>(plan.head_dim);
    call.args.query_begin = plan.query_begin.data();
    call.args.key_count = plan.key_count.data();
    call.args.k_row = call.k_row.data();
    call.args.v_row = call.v_row.data();
    call.args.kv_stride = plan.heads_kv * plan.head_dim;
    call.args.scale = static_cast<float>(plan.scale);
    call.args.window = static_cast<int32_t>(window);
    call.args.causal = plan.causal;
    call.args.query_position0_is_tail = 1;
}

std::vector<void*> row_pointers(const at::Tensor& t, const AttentionPlan& plan) {
    std::vector<void*> rows;
    for (int32_t b = 0; b < plan.rows(); ++b)
        rows.push_back(address_of(t, plan.query_begin[b] * plan.heads_kv * plan.head_dim));
    return rows;
}

void rotate(const at::Tensor& x, int64_t heads, const AttentionPlan& plan, bool inverse) {
    if (!plan.rope) return;
    ops_of(x).rope(float_of(x.scalar_type()), x.data_ptr(), heads * plan.head_dim,
                   plan.rope->cos.const_data_ptr<float>(), plan.rope->sin.const_data_ptr<float>(),
                   plan.position.data(), x.size(0), static_cast<int32_t>(heads),
                   static_cast<int32_t>(plan.head_dim), static_cast<int32_t>(2 * plan.rope->half), inverse);
}

class AttentionNode final : public SavedNode {
  public:
    std::string name() const override { return "RotaryAttention"; }
    at::Tensor q, k, v, o, lse;
    std::shared_ptr<const AttentionPlan> plan;
    int64_t window = 0;

  protected:
    List backward(List&& gradients) override {
        if (!gradients[0].defined()) return List(3);
        const at::Tensor d_o = gradients[0].contiguous();
        at::Tensor dq = new_buffer_like(q), dk = new_buffer_like(k), dv = new_buffer_like(v);
        AttentionCall call;
        for (void* p : row_pointers(k, *plan)) call.k_row.push_back(p);
        for (void* p : row_pointers(v, *plan)) call.v_row.push_back(p);
        fill_call(call, *plan, window, q.scalar_type());
        const std::vector<void*> dk_row = row_pointers(dk, *plan), dv_row = row_pointers(dv, *plan);
        const auto& ops = ops_of(q);
        if (plan->parent.empty())
            ops.attention_backward(call.args, q.data_ptr(), o.data_ptr(), d_o.data_ptr(),
                                   lse.data_ptr<float>(), dq.data_ptr(), dk_row.data(), dv_row.data());
        else
            ops.tree_attention_backward(call.args, plan->parent.data(), q.data_ptr(), o.data_ptr(),
                                        d_o.data_ptr(), lse.data_ptr<float>(), dq.data_ptr(), dk_row.data(),
                                        dv_row.data());
        rotate(dq, plan->heads, *plan, true);
        rotate(dk, plan->heads_kv, *plan, true);
        return {dq, dk, dv};
    }
    void release() override {
        q = k = v = o = lse = at::Tensor();
        plan.reset();
    }
};

/// Tokens of several tasks that train norms of their own: plain autograd, no kernel.
at::Tensor rms_norm_per_token(const at::Tensor& x, const at::Tensor& gain, double eps) {
    POLYAD_CHECK(gain.size(0) == x.size(0));
    const at::Tensor heads = x.to(at::kFloat).view({x.size(0), -1, gain.size(1)});
    const at::Tensor rstd = ((heads * heads).mean(-1, true) + eps).rsqrt();
    return (heads * rstd * gain.unsqueeze(1)).view(x.sizes()).to(x.scalar_type());
}

}  // namespace

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& gain, double eps, const RowBegin& rows) {
    if (gain.dim() == 2 && gain.size(0) == x.size(0)) return rms_norm_per_token(x, gain, eps);
    const bool recorded = needs_gradient(x, gain);
    const at::Tensor w = gain.detach();
    const at::Tensor input = x.detach().contiguous();
    at::Tensor y = new_buffer_like(input);
    const int64_t width = w.size(-1);
    at::Tensor rstd = recorded ? new_floats(input.numel() / width, input) : at::Tensor();
    const std::vector<NormPart> parts = norm_parts(input, w, rows);
    for (const auto& [begin, count, line] : parts)
        ops_of(input).rms_norm(float_of(x.scalar_type()), address_of(input, begin * width),
                               w.data_ptr<float>() + line * width, static_cast<float>(eps),
                               address_of(y, begin * width),
                               recorded ? rstd.data_ptr<float>() + begin : nullptr, count, width);
    if (!recorded) return y;
    auto node = make_node<RmsNormNode>();
    node->x = input;
    node->w = w;
    node->rstd = rstd;
    node->parts = parts;
    record(node, {x, gain}, {y});
    return y;
}

std::pair<at::Tensor, at::Tensor> add_rms_norm(const at::Tensor& residual, const at::Tensor& delta,
                                               const at::Tensor& gain, double eps, const RowBegin& rows) {
    if (gain.dim() == 2 && gain.size(0) == residual.size(0)) {
        const at::Tensor sum = residual + delta;
        return {sum, rms_norm_per_token(sum, gain, eps)};
    }
    const at::Tensor w = gain.detach();
    POLYAD_CHECK(delta.is_contiguous() && residual.sizes() == delta.sizes());
    const bool recorded = needs_gradient(residual, delta, gain);
    const at::Tensor old = residual.detach().contiguous();
    at::Tensor sum = delta.detach();
    at::Tensor y = new_buffer_like(sum);
    const int64_t width = w.size(-1);
    at::Tensor rstd = recorded ? new_floats(sum.numel() / width, sum) : at::Tensor();
    const std::vector<NormPart> parts = norm_parts(sum, w, rows);
    // Addition commutes: the sum goes where delta was, and the old residual stays for its own backward pass.
    for (const auto& [begin, count, line] : parts)
        ops_of(sum).add_rms_norm(float_of(sum.scalar_type()), address_of(sum, begin * width),
                                 address_of(old, begin * width), w.data_ptr<float>() + line * width,
                                 static_cast<float>(eps), address_of(y, begin * width),
                                 recorded ? rstd.data_ptr<float>() + begin : nullptr, count, width);
    if (!recorded) return {sum, y};
    auto node = make_node<RmsNormNode>();
    node->x = sum.detach();  // without the history `record` gives to sum: a node must not own itself
    node->w = w;
    node->rstd = rstd;
    node->parts = parts;
    record(node, {residual, delta, gain}, {sum, y});
    return {sum, y};
}

GateUp::GateUp(const at::Tensor& gate, const at::Tensor& up, Replay again) : again_(std::move(again)) {
    if (!again_) both_ = {gate.detach().contiguous(), up.detach().contiguous()};
}

const std::vector<at::Tensor>& GateUp::both() {
    if (both_.empty()) both_ = again_();
    return both_;
}

at::Tensor GateUp::product() {
    both();
    at::Tensor y = new_buffer_like(both_[0]);
    ops_of(y).swiglu(float_of(y.scalar_type()), both_[0].data_ptr(), both_[1].data_ptr(), y.data_ptr(),
                     y.numel());
    return y;
}

void GateUp::release() {
    both_.clear();
    again_ = {};
}

at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up, const std::shared_ptr<GateUp>& kept) {
    const at::Tensor y = GateUp(gate, up, Replay()).product();
    if (!needs_gradient(gate, up)) return y;
    auto node = make_node<SwigluNode>();
    node->kept = kept;
    record(node, {gate, up}, {y});
    return y;
}

at::Tensor rotary_attention(const at::Tensor& q_in, const at::Tensor& k_in, const at::Tensor& v_in,
                            const std::shared_ptr<const AttentionPlan>& plan, int64_t window,
                            const PastKeys* past) {
    const bool recorded = needs_gradient(q_in, k_in, v_in);
    POLYAD_CHECK(!(recorded && past));
    const at::Tensor q = q_in.detach(), k = k_in.detach(), v = v_in.detach();
    POLYAD_CHECK(q.is_contiguous() && k.is_contiguous() && v.is_contiguous());
    rotate(q, plan->heads, *plan, false);
    rotate(k, plan->heads_kv, *plan, false);
    if (past) {
        const auto append = [&](const at::Tensor& fresh, const std::vector<void*>& row, int64_t page_offset) {
            const PastRows& rows = *past->rows;
            const kernels::CacheRows to{row.data(), past->paged() ? rows.page_tokens : 0,
                                        rows.page_begin.data(), rows.page.data(), page_offset};
            ops_of(fresh).append(float_of(fresh.scalar_type()), fresh.data_ptr(),
                                 {plan->query_begin.data(), plan->rows()}, to, rows.length.data(),
                                 plan->heads_kv * plan->head_dim);
        };
        append(k, past->k_row, past->k_offset);
        append(v, past->v_row, past->v_offset);
    }
    AttentionCall call;
    for (void* p : past ? past->k_row : row_pointers(k, *plan)) call.k_row.push_back(p);
    for (void* p : past ? past->v_row : row_pointers(v, *plan)) call.v_row.push_back(p);
    fill_call(call, *plan, window, q.scalar_type());
    if (past && past->paged()) {
        call.args.page_tokens = past->rows->page_tokens;
        call.args.page_begin = past->rows->page_begin.data();
        call.args.page = past->rows->page.data();
        call.args.k_offset = past->k_offset;
        call.args.v_offset = past->v_offset;
    }
    at::Tensor o = new_buffer_like(q);
    at::Tensor lse = recorded ? new_floats(q.size(0) * plan->heads, q) : at::Tensor();
    const auto& ops = ops_of(q);
    if (plan->parent.empty())
        ops.attention(call.args, q.data_ptr(), o.data_ptr(), float_or_null(lse));
    else
        ops.tree_attention(call.args, plan->parent.data(), q.data_ptr(), o.data_ptr(), float_or_null(lse));
    if (!recorded) return o;
    auto node = make_node<AttentionNode>();
    node->q = q;
    node->k = k;
    node->v = v;
    node->o = o.detach();
    node->lse = lse;
    node->plan = plan;
    node->window = window;
    record(node, {q_in, k_in, v_in}, {o});
    return o;
}

}  // namespace polyad
