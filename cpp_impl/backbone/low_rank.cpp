// SPDX-License-Identifier: Apache-2.0
#include "backbone/low_rank.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <optional>

#include "backbone/autograd_node.h"
#include "backbone/gate.h"
#include "backbone/weights.h"

namespace polyad {
namespace {

at::TensorOptions float_options() {
    return at::TensorOptions().dtype(at::kFloat);
}

float* float_or_null(const at::Tensor& t) {
    return t.defined() ? t.data_ptr<float>() : nullptr;
}

/// A LowRank made ready for the kernels: factors in compute dtype, one group per row, u kept for the backward
/// pass.
struct Update {
    at::Tensor a, b;  ///< compute dtype
    at::ScalarType a_dtype, b_dtype, gate_dtype = at::kFloat;
    std::vector<int32_t> group_of_row;
    GateShape shape;
    std::vector<int64_t> gate_sizes;
    at::Tensor gate;  ///< float32
    double scale;
    at::Tensor input;  ///< defined when the update reads something other than x
    at::Tensor u;      ///< [N, ranks_in] float32

    bool gated() const { return shape.kind != Gate::none; }
};

void check(bool ok, const char* what) {
    if (!ok) fail(Code::invalid_argument, "low-rank update: ", what);
}

Update prepare(const LowRank& raw, const at::Tensor& x, int64_t d_out, const RowBegin& rows) {
    const auto row_count = static_cast<int64_t>(rows.size()) - 1;
    check(raw.a.dim() == 3 && raw.b.dim() == 3, "a is [groups, R, d_in] and b [groups, d_out, R]");
    check(raw.a.size(2) == x.size(1) && raw.b.size(1) == d_out, "a or b does not fit the site");
    check(raw.a.size(0) == raw.b.size(0), "a and b have different numbers of groups");
    Update update;
    const auto dtype = x.scalar_type();
    update.a_dtype = raw.a.scalar_type();
    update.b_dtype = raw.b.scalar_type();
    update.a = raw.a.detach().to(dtype).contiguous();
    update.b = raw.b.detach().to(dtype).contiguous();
    update.scale = raw.scale;
    update.group_of_row = raw.group_of_row;
    if (update.group_of_row.empty()) update.group_of_row.assign(static_cast<size_t>(row_count), 0);
    check(static_cast<int64_t>(update.group_of_row.size()) == row_count,
          "group_of_row has not one entry per row");
    for (const int32_t group : update.group_of_row)
        check(group >= -1 && group < raw.a.size(0), "a row's group does not exist");
    if (raw.input.defined()) {
        check(raw.input.sizes() == x.sizes() && raw.input.scalar_type() == dtype,
              "input differs from x in shape or dtype");
        update.input = raw.input.detach().contiguous();
    }
    GateShape& shape = update.shape;
    shape.kind = raw.gate_kind;
    shape.per_token = raw.gate_per_token;
    shape.ranks_in = raw.a.size(1);
    shape.ranks_out = raw.b.size(2);
    if (shape.kind == Gate::none) {
        check(shape.ranks_in == shape.ranks_out, "a and b have different ranks");
        return update;
    }
    check(raw.gate.dim() == 2 && raw.gate.size(0) == (shape.per_token ? x.size(0) : row_count),
          "gate has not one line per row (or token)");
    shape.width = raw.gate.size(1);
    if (shape.kind == Gate::full) {
        check(shape.width == shape.ranks_in * shape.ranks_out, "a full gate has R1 * R2 entries");
    } else {
        check(shape.ranks_in == shape.ranks_out, "a and b have different ranks");
        check(shape.width > 0 && shape.ranks_in % shape.width == 0, "gate entries do not divide the ranks");
    }
    update.gate_dtype = raw.gate.scalar_type();
    update.gate = raw.gate.detach().to(at::kFloat).contiguous();
    return update;
}

/// G u, or u itself.
at::Tensor gated(const Update& update, const RowBegin& rows, const at::Tensor& u) {
    if (!update.gated()) return u;
    at::Tensor v = at::empty({u.size(0), update.shape.ranks_out}, float_options());
    apply_gate(update.shape, rows, update.gate.data_ptr<float>(), u.data_ptr<float>(), v.data_ptr<float>());
    return v;
}

kernels::Rows kernel_rows(const RowBegin& rows) {
    return {rows.data(), static_cast<int32_t>(rows.size()) - 1};
}

void add_update(Update& update, const at::Tensor& x, const RowBegin& rows, at::Tensor& y) {
    const auto& ops = kernels::ops();
    const auto type = float_of(x.scalar_type());
    const at::Tensor& input = update.input.defined() ? update.input : x;
    const int64_t ranks = update.shape.ranks_in;
    update.u = at::empty({x.size(0), ranks}, float_options());
    ops.low_rank_down(type, input.data_ptr(), update.a.data_ptr(), update.group_of_row.data(),
                      kernel_rows(rows), x.size(1), ranks, update.u.data_ptr<float>());
    const at::Tensor v = gated(update, rows, update.u);
    ops.low_rank_up(type, v.data_ptr<float>(), update.b.data_ptr(), update.group_of_row.data(),
                    kernel_rows(rows), y.size(1), update.shape.ranks_out, static_cast<float>(update.scale),
                    y.data_ptr());
}

/// Inputs in the order x, then a, b, gate, input of each update.
class AdaptedLinearNode final : public SavedNode {
  public:
    std::string name() const override { return "AdaptedLinear"; }

    at::Tensor x;  ///< kept only when an update reads it
    std::function<at::Tensor()> recompute;
    std::shared_ptr<const FrozenMatrix> weight;
    RowBegin rows;
    std::vector<Update> updates;

  protected:
    List backward(List&& gradients) override {
        List result(1 + 4 * updates.size());
        if (!gradients[0].defined()) return result;
        const at::Tensor dy = gradients[0].contiguous();
        at::Tensor dx;
        if (wants(0)) dx = at::mm(dy, weight->dense());
        if (!x.defined() && recompute) x = recompute();
        for (size_t i = 0; i < updates.size(); ++i) {
            Update& update = updates[i];
            const size_t slot = 1 + 4 * i;
            const bool own_input = update.input.defined();
            at::Tensor dinput =
                own_input ? (wants(slot + 3) ? at::zeros_like(update.input) : at::Tensor()) : dx;
            const auto [da, db, dgate] =
                one(update, dy, own_input ? update.input : x, dinput, wants(slot + 2));
            if (wants(slot)) result[slot] = da.to(update.a_dtype);
            if (wants(slot + 1)) result[slot + 1] = db.to(update.b_dtype);
            if (dgate.defined()) result[slot + 2] = dgate.to(update.gate_dtype);
            if (own_input) result[slot + 3] = dinput;
        }
        result[0] = dx;
        return result;
    }

    void release() override {
        x = at::Tensor();
        recompute = {};
        weight.reset();
        updates.clear();
    }

  private:
    std::tuple<at::Tensor, at::Tensor, at::Tensor> one(Update& update, const at::Tensor& dy,
                                                       const at::Tensor& input, const at::Tensor& dinput,
                                                       bool want_gate) {
        const auto& ops = kernels::ops();
        const auto type = float_of(dy.scalar_type());
        const auto& shape = update.shape;
        const int64_t tokens = dy.size(0);
        at::Tensor da = at::zeros(update.a.sizes(), float_options());
        at::Tensor db = at::zeros(update.b.sizes(), float_options());
        at::Tensor dv = at::empty({tokens, shape.ranks_out}, float_options());
        const at::Tensor v = gated(update, rows, update.u);
        ops.low_rank_up_backward(type, dy.data_ptr(), v.data_ptr<float>(), update.b.data_ptr(),
                                 update.group_of_row.data(), kernel_rows(rows), dy.size(1), shape.ranks_out,
                                 static_cast<float>(update.scale), dv.data_ptr<float>(),
                                 db.data_ptr<float>());
        at::Tensor du = dv, dgate;
        if (update.gated()) {
            du = at::empty({tokens, shape.ranks_in}, float_options());
            if (want_gate) dgate = at::zeros(update.gate.sizes(), float_options());
            apply_gate_backward(shape, rows, update.gate.data_ptr<float>(), update.u.data_ptr<float>(),
                                dv.data_ptr<float>(), du.data_ptr<float>(), float_or_null(dgate));
        }
        ops.low_rank_down_backward(type, du.data_ptr<float>(), input.data_ptr(), update.a.data_ptr(),
                                   update.group_of_row.data(), kernel_rows(rows), input.size(1),
                                   shape.ranks_in, dinput.defined() ? dinput.data_ptr() : nullptr,
                                   da.data_ptr<float>());
        return {da, db, dgate};
    }
};

void check_base(const at::Tensor& x, const FrozenMatrix& weight, const RowBegin& rows) {
    check(x.dim() == 2 && x.size(1) == weight.columns(), "x does not fit the weight");
    check(x.scalar_type() == weight.dtype(), "x and the weight differ in dtype");
    check(!rows.empty() && rows.front() == 0 && rows.back() == x.size(0), "rows do not cover x");
}

}  // namespace

at::Tensor adapted_linear(const at::Tensor& x, const std::shared_ptr<const FrozenMatrix>& weight,
                          const at::Tensor& bias, const RowBegin& rows, const std::vector<LowRank>& updates,
                          std::function<at::Tensor()> recompute) {
    check_base(x, *weight, rows);
    bool record_node = needs_gradient(x);
    for (const LowRank& raw : updates) record_node |= needs_gradient(raw.a, raw.b, raw.gate, raw.input);

    at::Tensor y;
    std::vector<Update> prepared;
    bool reads_x = false;
    const at::Tensor base = x.detach().contiguous();
    {
        at::NoGradGuard no_grad;
        y = at::linear(base, weight->dense(),
                       bias.defined() ? std::optional<at::Tensor>(bias) : std::nullopt);
        prepared.reserve(updates.size());
        for (const LowRank& raw : updates) {
            Update update = prepare(raw, base, weight->rows(), rows);
            add_update(update, base, rows, y);
            reads_x |= !update.input.defined();
            if (record_node) prepared.push_back(std::move(update));
        }
    }
    if (!record_node) return y;

    auto node = make_node<AdaptedLinearNode>();
    SavedNode::List inputs{x};
    for (const LowRank& raw : updates) inputs.insert(inputs.end(), {raw.a, raw.b, raw.gate, raw.input});
    node->weight = weight;
    node->rows = rows;
    node->updates = std::move(prepared);
    if (reads_x && recompute)
        node->recompute = std::move(recompute);
    else if (reads_x)
        node->x = base;
    record(node, inputs, {y});
    return y;
}

at::Tensor adapted_linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                          const RowBegin& rows, const std::vector<LowRank>& updates) {
    return adapted_linear(x, std::make_shared<const FrozenMatrix>(weight), bias, rows, updates);
}

}  // namespace polyad
