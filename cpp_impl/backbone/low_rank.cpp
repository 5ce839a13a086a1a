// SPDX-License-Identifier: Apache-2.0
#include "backbone/low_rank.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>

#include "backbone/autograd_node.h"
#include "backbone/device.h"
#include "backbone/frozen_gemm.h"
#include "backbone/weights.h"
#include "kernels/op_table.h"

namespace polyad {
namespace {

at::TensorOptions floats_like(const at::Tensor& t) {
    return t.options().dtype(at::kFloat);
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
    kernels::GateShape shape;
    std::vector<int64_t> gate_sizes;
    at::Tensor gate;  ///< float32
    double scale;
    at::Tensor input;  ///< defined when the update reads something other than x
    at::Tensor u;      ///< [N, ranks_in] float32

    bool gated() const { return shape.kind != kernels::GateKind::none; }
};

void check(bool ok, const char* what) {
    if (!ok) fail(Code::invalid_argument, "low-rank update: ", what);
}

kernels::GateKind kernel_kind(Gate gate) {
    switch (gate) {
        case Gate::diagonal:
            return kernels::GateKind::diagonal;
        case Gate::full:
            return kernels::GateKind::full;
        case Gate::none:
            break;
    }
    return kernels::GateKind::none;
}

kernels::Rows kernel_rows(const RowBegin& rows) {
    return {rows.data(), static_cast<int32_t>(rows.size()) - 1};
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
    kernels::GateShape& shape = update.shape;
    shape.kind = kernel_kind(raw.gate_kind);
    shape.per_token = raw.gate_per_token;
    shape.ranks_in = raw.a.size(1);
    shape.ranks_out = raw.b.size(2);
    if (raw.gate_kind == Gate::none) {
        check(shape.ranks_in == shape.ranks_out, "a and b have different ranks");
        return update;
    }
    check(raw.gate.dim() == 2 && raw.gate.size(0) == (shape.per_token ? x.size(0) : row_count),
          "gate has not one line per row (or token)");
    shape.width = raw.gate.size(1);
    if (raw.gate_kind == Gate::full) {
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
    at::Tensor v = at::empty({u.size(0), update.shape.ranks_out}, floats_like(u));
    ops_of(u).gate(update.shape, kernel_rows(rows), update.gate.data_ptr<float>(), u.data_ptr<float>(),
                   v.data_ptr<float>());
    return v;
}

void add_update(Update& update, const at::Tensor& x, const RowBegin& rows, at::Tensor& y) {
    const auto& ops = ops_of(x);
    const auto type = float_of(x.scalar_type());
    const at::Tensor& input = update.input.defined() ? update.input : x;
    const int64_t ranks = update.shape.ranks_in;
    update.u = at::empty({x.size(0), ranks}, floats_like(x));
    ops.low_rank_down(type, input.data_ptr(), update.a.data_ptr(), update.group_of_row.data(),
                      kernel_rows(rows), x.size(1), ranks, update.u.data_ptr<float>());
    const at::Tensor v = gated(update, rows, update.u);
    ops.low_rank_up(type, v.data_ptr<float>(), update.b.data_ptr(), update.group_of_row.data(),
                    kernel_rows(rows), y.size(1), update.shape.ranks_out, static_cast<float>(update.scale),
                    y.data_ptr());
}

/// The frozen products with biases, and with the updates that are rows' own pairs, of a few tokens through
/// quantised weights: one kernel call for all branches (decoding). Empty when this is not such a case.
std::vector<at::Tensor> multiply_packed(const at::Tensor& x, const std::vector<LinearBranch>& branches,
                                        const RowBegin& rows) {
    std::vector<kernels::PanelBranch> calls;
    std::vector<at::Tensor> outputs;
    for (const LinearBranch& branch : branches) {
        auto call = branch.weight->panels(x.size(0));
        if (!call) return {};
        outputs.push_back(at::empty({x.size(0), call->rows}, x.options()));
        call->bias = branch.bias.defined() ? branch.bias.data_ptr() : nullptr;
        call->y_type = float_of(x.scalar_type());
        call->y = outputs.back().data_ptr();
        for (const LowRank& raw : branch.updates)
            if (raw.of_row) {
                check(!call->of_row, "a row has two pairs of its own");
                call->of_row = raw.of_row;
            }
        calls.push_back(*call);
    }
    kernels::ops().multiply_panels(float_of(x.scalar_type()), x.data_ptr(), kernel_rows(rows), x.size(1),
                                   calls.data(), static_cast<int32_t>(calls.size()));
    return outputs;
}

/// What the backward pass needs of one branch.
struct SavedBranch {
    std::shared_ptr<const FrozenMatrix> weight;
    std::vector<Update> updates;
};

/// Inputs in the order x, then a, b, gate, input of each update of each branch; one output per branch.
class AdaptedLinearNode final : public SavedNode {
  public:
    std::string name() const override { return "AdaptedLinear"; }

    at::Tensor x;  ///< kept only when an update reads it and it cannot be made again
    std::function<at::Tensor()> recompute;
    RowBegin rows;
    std::vector<SavedBranch> branches;

  protected:
    List backward(List&& gradients) override {
        List result(1);
        if (!x.defined() && recompute) x = recompute();
        for (size_t i = 0; i < branches.size(); ++i) {
            const size_t first = result.size();
            result.resize(first + 4 * branches[i].updates.size());
            if (!gradients[i].defined()) continue;
            const at::Tensor dy = gradients[i].contiguous();
            gradients[i] = at::Tensor();
            if (wants(0)) {
                const at::Tensor weight = branches[i].weight->dense();
                const bool add = result[0].defined();
                if (!add) result[0] = at::empty({dy.size(0), weight.size(1)}, dy.options());
                multiply_rows(result[0], dy, weight, add);
            }
            for (size_t u = 0; u < branches[i].updates.size(); ++u)
                one(branches[i].updates[u], dy, result, first + 4 * u);
        }
        return result;
    }

    void release() override {
        x = at::Tensor();
        recompute = {};
        branches.clear();
    }

  private:
    void one(Update& update, const at::Tensor& dy, List& result, size_t slot) {
        const auto& ops = ops_of(dy);
        const auto type = float_of(dy.scalar_type());
        const auto& shape = update.shape;
        const int64_t tokens = dy.size(0);
        const bool own_input = update.input.defined();
        const at::Tensor& input = own_input ? update.input : x;
        if (own_input && wants(slot + 3)) result[slot + 3] = at::zeros_like(input);
        const at::Tensor& dinput = result[own_input ? slot + 3 : 0];
        const bool want_da = wants(slot), want_db = wants(slot + 1),
                   want_gate = update.gated() && wants(slot + 2);
        if (!want_da && !want_db && !want_gate && !dinput.defined()) return;

        at::Tensor da = at::zeros(update.a.sizes(), floats_like(dy));
        at::Tensor db = at::zeros(update.b.sizes(), floats_like(dy));
        at::Tensor dv = at::empty({tokens, shape.ranks_out}, floats_like(dy));
        const at::Tensor v = gated(update, rows, update.u);
        ops.low_rank_up_backward(type, dy.data_ptr(), v.data_ptr<float>(), update.b.data_ptr(),
                                 update.group_of_row.data(), kernel_rows(rows), dy.size(1), shape.ranks_out,
                                 static_cast<float>(update.scale), dv.data_ptr<float>(),
                                 db.data_ptr<float>());
        at::Tensor du = dv, dgate;
        if (update.gated()) {
            du = at::empty({tokens, shape.ranks_in}, floats_like(dy));
            if (want_gate) dgate = at::zeros(update.gate.sizes(), floats_like(dy));
            ops.gate_backward(shape, kernel_rows(rows), update.gate.data_ptr<float>(),
                              update.u.data_ptr<float>(), dv.data_ptr<float>(), du.data_ptr<float>(),
                              float_or_null(dgate));
        }
        ops.low_rank_down_backward(type, du.data_ptr<float>(), input.data_ptr(), update.a.data_ptr(),
                                   update.group_of_row.data(), kernel_rows(rows), input.size(1),
                                   shape.ranks_in, dinput.defined() ? dinput.data_ptr() : nullptr,
                                   da.data_ptr<float>());
        if (want_da) result[slot] = da.to(update.a_dtype);
        if (want_db) result[slot + 1] = db.to(update.b_dtype);
        if (want_gate) result[slot + 2] = dgate.to(update.gate_dtype);
    }
};

bool reads(const LinearBranch& branch) {
    return std::any_of(branch.updates.begin(), branch.updates.end(),
                       [](const LowRank& u) { return !u.input.defined(); });
}

}  // namespace

std::vector<at::Tensor> adapted_linears(const at::Tensor& x, std::vector<LinearBranch> branches,
                                        const RowBegin& rows, std::function<at::Tensor()> recompute) {
    bool recorded = needs_gradient(x), reads_x = false;
    SavedNode::List inputs{x};
    for (const LinearBranch& branch : branches) {
        check(x.dim() == 2 && x.size(1) == branch.weight->columns(), "x does not fit the weight");
        check(x.scalar_type() == branch.weight->dtype(), "x and the weight differ in dtype");
        reads_x |= reads(branch);
        for (const LowRank& raw : branch.updates) {
            if (raw.of_row) continue;
            recorded |= needs_gradient(raw.a, raw.b, raw.gate, raw.input);
            inputs.insert(inputs.end(), {raw.a, raw.b, raw.gate, raw.input});
        }
    }
    check(!rows.empty() && rows.front() == 0 && rows.back() == x.size(0), "rows do not cover x");

    std::vector<at::Tensor> outputs;
    std::vector<SavedBranch> saved;
    const at::Tensor base = x.detach().contiguous();
    {
        at::NoGradGuard no_grad;
        const std::vector<at::Tensor> packed =
            recorded ? std::vector<at::Tensor>() : multiply_packed(base, branches, rows);
        for (size_t i = 0; i < branches.size(); ++i) {
            const LinearBranch& branch = branches[i];
            at::Tensor y = packed.empty() ? branch.weight->multiply(base) : packed[i];
            if (packed.empty() && branch.bias.defined()) y.add_(branch.bias);
            SavedBranch kept{branch.weight, {}};
            for (const LowRank& raw : branch.updates) {
                if (raw.of_row) {
                    check(!recorded, "rows' own pairs have no gradients");
                    if (!packed.empty()) continue;  // inside already
                    ops_of(base).low_rank_rows(float_of(base.scalar_type()), base.data_ptr(), raw.of_row,
                                               kernel_rows(rows), base.size(1), y.size(1), y.data_ptr());
                    continue;
                }
                Update update = prepare(raw, base, branch.weight->rows(), rows);
                add_update(update, base, rows, y);
                if (recorded) kept.updates.push_back(std::move(update));
            }
            outputs.push_back(std::move(y));
            if (recorded) saved.push_back(std::move(kept));
        }
    }
    if (!recorded) return outputs;

    auto node = make_node<AdaptedLinearNode>();
    node->rows = rows;
    node->branches = std::move(saved);
    if (reads_x && recompute)
        node->recompute = std::move(recompute);
    else if (reads_x)
        node->x = base;
    record(node, inputs, outputs);
    return outputs;
}

at::Tensor adapted_linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                          const RowBegin& rows, const std::vector<LowRank>& updates) {
    return adapted_linears(x, {{std::make_shared<const FrozenMatrix>(weight), bias, updates}}, rows)[0];
}

}  // namespace polyad
