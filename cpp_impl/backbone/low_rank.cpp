// SPDX-License-Identifier: Apache-2.0
#include "backbone/low_rank.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>

#include "backbone/autograd_node.h"
#include "backbone/buffer_pool.h"
#include "backbone/device.h"
#include "backbone/frozen_gemm.h"
#include "backbone/kernel_args.h"
#include "backbone/mixed_factors.h"
#include "backbone/weights.h"
#include "kernels/op_table.h"

namespace polyad {
namespace {

at::TensorOptions floats_like(const at::Tensor& t) {
    return t.options().dtype(at::kFloat);
}

/// A LowRank made ready for the kernels: factors in compute dtype, one group per row, u kept for the backward
/// pass.
struct Update {
    at::Tensor a, b;                ///< compute dtype; of banks: made for each use; no a: u was given
    std::vector<FactorBank> banks;  ///< without history, contiguous, float32
    at::ScalarType a_dtype = at::kFloat, b_dtype = at::kFloat, gate_dtype = at::kFloat;
    std::vector<int32_t> group_of_row;
    kernels::GateShape shape;
    std::vector<int64_t> gate_sizes;
    at::Tensor gate;  ///< float32
    double scale;
    at::Tensor input;  ///< defined when the update reads something other than x
    at::Tensor u;      ///< [N, ranks_in] float32

    bool gated() const { return shape.kind != kernels::GateKind::none; }
};

/// How a bank's a (or b) lies in a pair of `ranks` ranks.
kernels::FactorMix mix_of(const FactorBank& bank, bool up, int64_t ranks) {
    const at::Tensor& skills = up ? bank.b : bank.a;
    kernels::FactorMix mix{};
    mix.groups = bank.weights.size(0);
    mix.skills = skills.size(0);
    mix.rows = skills.size(1);
    mix.columns = skills.size(2);
    mix.skill = bank.chosen.empty() ? nullptr : bank.chosen.data();
    mix.chosen = bank.weights.size(2);
    mix.splits = bank.weights.size(1);
    mix.split_rows = up;
    mix.out_row = up ? ranks : mix.columns;
    mix.out_group = up ? mix.rows * ranks : ranks * mix.columns;
    return mix;
}

/// Elements from the start of a pair's a (or b) to a bank's part of it.
int64_t place_of(const FactorBank& bank, bool up) {
    return up ? bank.rank_begin : bank.rank_begin * bank.a.size(2);
}

/// Fills a and b from the banks.
void mix_banks(Update& update, at::ScalarType dtype) {
    const int64_t ranks = update.shape.ranks_in, groups = update.banks[0].weights.size(0);
    const auto options = update.banks[0].a.options().dtype(dtype);
    update.a = new_buffer({groups, ranks, update.banks[0].a.size(2)}, options);
    update.b = new_buffer({groups, update.banks[0].b.size(1), ranks}, options);
    int64_t filled = 0;
    for (const FactorBank& bank : update.banks) {
        const bool add = bank.rank_begin < filled;
        filled = std::max(filled, bank.rank_begin + bank.a.size(1));
        for (const bool up : {false, true}) {
            const at::Tensor &skills = up ? bank.b : bank.a, &out = up ? update.b : update.a;
            ops_of(update.a).mix_factors(float_of(dtype), mix_of(bank, up, ranks), skills.data_ptr<float>(),
                                         bank.weights.data_ptr<float>(), add,
                                         address_of(out, place_of(bank, up)));
        }
    }
}

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

void set_groups(Update& update, const LowRank& raw, int64_t groups, int64_t rows) {
    update.group_of_row = raw.group_of_row;
    if (update.group_of_row.empty()) update.group_of_row.assign(static_cast<size_t>(rows), 0);
    check(static_cast<int64_t>(update.group_of_row.size()) == rows, "group_of_row has not one entry per row");
    for (const int32_t group : update.group_of_row)
        check(group >= -1 && group < groups, "a row's group does not exist");
}

/// Banks come without gates and without an input of their own.
Update prepare_banks(const LowRank& raw, const at::Tensor& x, int64_t d_out, int64_t rows) {
    check(raw.gate_kind == Gate::none && !raw.input.defined(), "banks take neither gate nor input");
    Update update;
    update.scale = raw.scale;
    update.shape.kind = kernels::GateKind::none;
    update.shape.ranks_in = update.shape.ranks_out = ranks_of(raw.banks);
    const int64_t groups = raw.banks[0].weights.size(0);
    for (const FactorBank& bank : raw.banks) {
        check(bank.a.dim() == 3 && bank.b.dim() == 3 && bank.weights.dim() == 3 &&
                  bank.a.scalar_type() == at::kFloat && bank.b.scalar_type() == at::kFloat &&
                  bank.weights.scalar_type() == at::kFloat,
              "a bank is a [S, r, d_in], b [S, d_out, r], weights [G, H, K], all float32");
        check(bank.a.size(2) == x.size(1) && bank.b.size(1) == d_out && bank.a.size(0) == bank.b.size(0) &&
                  bank.a.size(1) == bank.b.size(2),
              "a bank does not fit the site");
        const int64_t splits = bank.weights.size(1), chosen = bank.weights.size(2);
        check(bank.weights.size(0) == groups && splits > 0 && x.size(1) % splits == 0 && d_out % splits == 0,
              "a bank's weights do not fit");
        check(bank.chosen.empty() ? chosen == bank.a.size(0)
                                  : static_cast<int64_t>(bank.chosen.size()) == groups * chosen,
              "a bank has not one weight per skill");
        for (const int32_t skill : bank.chosen) check(skill >= 0 && skill < bank.a.size(0), "no such skill");
        update.banks.push_back({bank.a.detach().contiguous(), bank.b.detach().contiguous(),
                                bank.weights.detach().contiguous(), bank.chosen, bank.rank_begin});
    }
    set_groups(update, raw, groups, rows);
    mix_banks(update, x.scalar_type());
    return update;
}

/// Contiguous, without history.
at::Tensor in_dtype(const at::Tensor& factor, at::ScalarType dtype) {
    const at::Tensor from = factor.detach().contiguous();
    if (from.scalar_type() == dtype) return from;
    if (from.scalar_type() != at::kFloat || dtype != at::kBFloat16) return from.to(dtype);
    at::Tensor out = new_buffer(from.sizes(), from.options().dtype(dtype));
    ops_of(from).to_bf16(from.data_ptr<float>(), static_cast<uint16_t*>(out.data_ptr()), from.numel());
    return out;
}

Update prepare(const LowRank& raw, const at::Tensor& x, int64_t d_out, const RowBegin& rows) {
    const auto row_count = static_cast<int64_t>(rows.size()) - 1;
    if (!raw.banks.empty()) return prepare_banks(raw, x, d_out, row_count);
    const bool projected = !raw.a.defined();
    const int64_t dims = raw.b.dim(), groups = dims == 3 ? raw.b.size(0) : 1;
    check((dims == 2 || dims == 3) && (projected || raw.a.dim() == dims),
          "a is [groups, R, d_in] and b [groups, d_out, R], or both without groups");
    check(raw.b.size(-2) == d_out && (projected || raw.a.size(-1) == x.size(1)),
          "a or b does not fit the site");
    check(projected || dims == 2 || raw.a.size(0) == groups, "a and b have different numbers of groups");
    Update update;
    const auto dtype = x.scalar_type();
    update.b_dtype = raw.b.scalar_type();
    update.b = in_dtype(raw.b, dtype);
    update.scale = raw.scale;
    set_groups(update, raw, groups, row_count);
    if (projected) {
        check(raw.input.defined() && raw.input.dim() == 2 && raw.input.size(0) == x.size(0) &&
                  raw.input.scalar_type() == at::kFloat,
              "without a, input is [N, R] float32");
        update.u = raw.input.detach().contiguous();
    } else {
        update.a_dtype = raw.a.scalar_type();
        update.a = in_dtype(raw.a, dtype);
        if (raw.input.defined()) {
            check(raw.input.sizes() == x.sizes() && raw.input.scalar_type() == dtype,
                  "input differs from x in shape or dtype");
            update.input = raw.input.detach().contiguous();
        }
    }
    kernels::GateShape& shape = update.shape;
    shape.kind = kernel_kind(raw.gate_kind);
    shape.per_token = raw.gate_per_token;
    shape.ranks_in = projected ? update.u.size(1) : raw.a.size(-2);
    shape.ranks_out = raw.b.size(-1);
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
    at::Tensor v = new_buffer({u.size(0), update.shape.ranks_out}, floats_like(u));
    ops_of(u).gate(update.shape, kernel_rows(rows), update.gate.data_ptr<float>(), u.data_ptr<float>(),
                   v.data_ptr<float>());
    return v;
}

/// y += s B G u.
void add_up(Update& update, const RowBegin& rows, at::Tensor& y) {
    const at::Tensor v = gated(update, rows, update.u);
    ops_of(y).low_rank_up(float_of(y.scalar_type()), v.data_ptr<float>(), update.b.data_ptr(),
                          update.group_of_row.data(), kernel_rows(rows), y.size(1), update.shape.ranks_out,
                          static_cast<float>(update.scale), y.data_ptr());
    if (!update.banks.empty()) update.a = update.b = at::Tensor();
}

void add_update(Update& update, const at::Tensor& x, const RowBegin& rows, at::Tensor& y) {
    if (update.u.defined()) return add_up(update, rows, y);
    const auto& ops = ops_of(x);
    const auto type = float_of(x.scalar_type());
    const at::Tensor& input = update.input.defined() ? update.input : x;
    const int64_t ranks = update.shape.ranks_in;
    update.u = new_buffer({x.size(0), ranks}, floats_like(x));
    ops.low_rank_down(type, input.data_ptr(), update.a.data_ptr(), update.group_of_row.data(),
                      kernel_rows(rows), x.size(1), ranks, update.u.data_ptr<float>());
    add_up(update, rows, y);
}

/// The same in one kernel and without keeping u, where the device has it and tokens are few (decoding).
bool add_at_once(const Update& update, const at::Tensor& x, const RowBegin& rows, at::Tensor& y) {
    constexpr int64_t few = 64;
    const auto& ops = ops_of(x);
    const kernels::GateShape& shape = update.shape;
    if (!ops.low_rank || update.u.defined() || x.size(0) > few ||
        std::max(shape.ranks_in, shape.ranks_out) > kernels::low_rank_ranks)
        return false;
    const at::Tensor& input = update.input.defined() ? update.input : x;
    ops.low_rank(float_of(x.scalar_type()), input.data_ptr(), update.a.data_ptr(), update.b.data_ptr(),
                 update.group_of_row.data(), kernel_rows(rows), x.size(1), y.size(1), shape,
                 float_or_null(update.gate), static_cast<float>(update.scale), y.data_ptr());
    return true;
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
    std::shared_ptr<const FrozenMatrix> weight;  ///< null: the branch was made by somebody else
    at::Tensor bias;
    std::vector<Update> updates;
    std::function<at::Tensor()> made_again;
};

/// Gradients an update has: a, b, gate, input, then a, b, weights of each bank.
size_t slots_of(size_t banks) {
    return 4 + 3 * banks;
}

/// Inputs: x, then for each branch what it was made of and the slots of its updates; one output per branch.
class AdaptedLinearNode final : public SavedNode {
  public:
    std::string name() const override { return "AdaptedLinear"; }

    at::Tensor x;  ///< kept only when an update reads it and it cannot be made again
    std::function<at::Tensor()> recompute;
    RowBegin rows;
    int64_t columns = 0;  ///< of x
    std::vector<SavedBranch> branches;

    /// The outputs again: u is kept, so the frozen product and the way up are all there is to do.
    std::vector<at::Tensor> outputs() {
        at::NoGradGuard no_grad;
        input();
        std::vector<at::Tensor> out;
        for (SavedBranch& branch : branches) {
            at::Tensor y = branch.weight ? branch.weight->multiply(x) : branch.made_again();
            if (branch.bias.defined()) y.add_(branch.bias);
            for (Update& update : branch.updates) {
                if (!update.banks.empty()) mix_banks(update, x.scalar_type());
                add_up(update, rows, y);
            }
            out.push_back(std::move(y));
        }
        return out;
    }

  protected:
    List backward(List&& gradients) override {
        List result(1);
        input();
        for (size_t i = 0; i < branches.size(); ++i) {
            size_t slot = result.size() + 1, end = slot;
            for (const Update& update : branches[i].updates) end += slots_of(update.banks.size());
            result.resize(end);
            if (!gradients[i].defined()) continue;
            const at::Tensor dy = gradients[i].contiguous();
            gradients[i] = at::Tensor();
            if (!branches[i].weight) {
                result[slot - 1] = dy;
                if (wants(0) && !result[0].defined())
                    result[0] = new_zeros({dy.size(0), columns}, dy.options());
            } else if (wants(0)) {
                const at::Tensor weight = branches[i].weight->dense();
                const bool add = result[0].defined();
                if (!add) result[0] = new_buffer({dy.size(0), weight.size(1)}, dy.options());
                multiply_rows(result[0], dy, weight, Way::backward, add, true);
            }
            for (Update& update : branches[i].updates) {
                one(update, dy, result, slot);
                slot += slots_of(update.banks.size());
            }
        }
        return result;
    }

    void release() override {
        x = at::Tensor();
        recompute = {};
        branches.clear();
    }

  private:
    void input() {
        if (!x.defined() && recompute) x = recompute();
    }

    bool wants_bank(size_t first, size_t banks) const {
        for (size_t i = 0; i < 3 * banks; ++i)
            if (wants(first + i)) return true;
        return false;
    }

    /// Gradients of the mixed pair, taken apart.
    void unmix(const Update& update, const at::Tensor& da, const at::Tensor& db, List& result,
               size_t slot) const {
        for (const FactorBank& bank : update.banks) {
            const at::Tensor weights = wants(slot + 2) ? at::zeros_like(bank.weights) : at::Tensor();
            for (const bool up : {false, true}) {
                const at::Tensor &skills = up ? bank.b : bank.a, &pair = up ? db : da;
                const at::Tensor gradient = wants(slot + up) ? new_buffer_like(skills) : at::Tensor();
                if (gradient.defined() || weights.defined())
                    ops_of(da).mix_factors_backward(mix_of(bank, up, update.shape.ranks_in),
                                                    skills.data_ptr<float>(), bank.weights.data_ptr<float>(),
                                                    pair.data_ptr<float>() + place_of(bank, up),
                                                    float_or_null(gradient), float_or_null(weights));
                result[slot + up] = gradient;
            }
            result[slot + 2] = weights;
            slot += 3;
        }
    }

    void one(Update& update, const at::Tensor& dy, List& result, size_t slot) {
        const auto& ops = ops_of(dy);
        const auto type = float_of(dy.scalar_type());
        const auto& shape = update.shape;
        const int64_t tokens = dy.size(0);
        const bool own_input = update.input.defined(),
                   projected = update.banks.empty() && !update.a.defined();
        const at::Tensor& input = own_input ? update.input : x;
        if (own_input && wants(slot + 3)) result[slot + 3] = new_zeros(input.sizes(), input.options());
        const at::Tensor dinput = projected ? at::Tensor() : result[own_input ? slot + 3 : 0];
        const bool want_da = wants(slot), want_db = wants(slot + 1),
                   want_gate = update.gated() && wants(slot + 2),
                   want_banks = wants_bank(slot + 4, update.banks.size()),
                   want_du = projected && wants(slot + 3);
        if (!want_da && !want_db && !want_gate && !want_banks && !want_du && !dinput.defined()) return;

        if (!update.banks.empty()) mix_banks(update, dy.scalar_type());
        at::Tensor da, db;
        if (want_da || want_banks) da = new_zeros(update.a.sizes(), floats_like(dy));
        if (want_db || want_banks) db = new_zeros(update.b.sizes(), floats_like(dy));
        at::Tensor dv = new_buffer({tokens, shape.ranks_out}, floats_like(dy));
        const at::Tensor v = gated(update, rows, update.u);
        ops.low_rank_up_backward(type, dy.data_ptr(), v.data_ptr<float>(), update.b.data_ptr(),
                                 update.group_of_row.data(), kernel_rows(rows), dy.size(1), shape.ranks_out,
                                 static_cast<float>(update.scale), dv.data_ptr<float>(), float_or_null(db));
        at::Tensor du = dv, dgate;
        if (update.gated()) {
            du = new_buffer({tokens, shape.ranks_in}, floats_like(dy));
            if (want_gate) dgate = new_zeros(update.gate.sizes(), floats_like(dy));
            ops.gate_backward(shape, kernel_rows(rows), update.gate.data_ptr<float>(),
                              update.u.data_ptr<float>(), dv.data_ptr<float>(), du.data_ptr<float>(),
                              float_or_null(dgate));
        }
        if (want_du) result[slot + 3] = du;
        if (dinput.defined() || da.defined())
            ops.low_rank_down_backward(type, du.data_ptr<float>(), input.data_ptr(), update.a.data_ptr(),
                                       update.group_of_row.data(), kernel_rows(rows), input.size(1),
                                       shape.ranks_in, dinput.defined() ? dinput.data_ptr() : nullptr,
                                       float_or_null(da));
        if (want_da) result[slot] = da.to(update.a_dtype);
        if (want_db) result[slot + 1] = db.to(update.b_dtype);
        if (want_gate) result[slot + 2] = dgate.to(update.gate_dtype);
        if (want_banks) unmix(update, da, db, result, slot + 4);
        if (!update.banks.empty()) update.a = update.b = at::Tensor();
    }
};

bool reads(const LinearBranch& branch) {
    return std::any_of(branch.updates.begin(), branch.updates.end(),
                       [](const LowRank& u) { return !u.input.defined(); });
}

}  // namespace

std::vector<at::Tensor> adapted_linears(const at::Tensor& x, std::vector<LinearBranch> branches,
                                        const RowBegin& rows, std::function<at::Tensor()> recompute,
                                        Replay* replay) {
    if (!ops_of(x).mix_factors)
        for (LinearBranch& branch : branches)
            for (LowRank& update : branch.updates) update = with_mixed_factors(std::move(update));
    bool recorded = needs_gradient(x), reads_x = false, has_made = false, again = true;
    SavedNode::List inputs{x};
    for (const LinearBranch& branch : branches) {
        check(x.dim() == 2 && (!branch.weight || x.size(1) == branch.weight->columns()),
              "x does not fit the weight");
        check(x.scalar_type() == (branch.weight ? branch.weight->dtype() : branch.made.scalar_type()),
              "x and the weight differ in dtype");
        check(branch.weight ||
                  (branch.made.dim() == 2 && branch.made.size(0) == x.size(0) && branch.made.is_contiguous()),
              "what is made already does not fit x");
        recorded |= needs_gradient(branch.made);
        has_made |= !branch.weight;
        again &= branch.weight || branch.made_again;
        inputs.push_back(branch.made);
        reads_x |= reads(branch);
        for (const LowRank& raw : branch.updates) {
            if (raw.of_row) continue;
            recorded |= needs_gradient(raw.a, raw.b, raw.gate, raw.input);
            inputs.insert(inputs.end(), {raw.a, raw.b, raw.gate, raw.input});
            for (const FactorBank& bank : raw.banks) {
                recorded |= needs_gradient(bank.a, bank.b, bank.weights);
                inputs.insert(inputs.end(), {bank.a, bank.b, bank.weights});
            }
        }
    }
    check(!rows.empty() && rows.front() == 0 && rows.back() == x.size(0), "rows do not cover x");

    std::vector<at::Tensor> outputs;
    std::vector<SavedBranch> saved;
    const at::Tensor base = x.detach().contiguous();
    {
        at::NoGradGuard no_grad;
        const std::vector<at::Tensor> packed =
            recorded || has_made ? std::vector<at::Tensor>() : multiply_packed(base, branches, rows);
        for (size_t i = 0; i < branches.size(); ++i) {
            const LinearBranch& branch = branches[i];
            at::Tensor y = !branch.weight   ? branch.made.detach()
                           : packed.empty() ? branch.weight->multiply(base)
                                            : packed[i];
            if (branch.weight && packed.empty() && branch.bias.defined()) y.add_(branch.bias);
            SavedBranch kept{branch.weight, branch.bias, {}, branch.made_again};
            for (const LowRank& raw : branch.updates) {
                if (raw.of_row) {
                    check(!recorded, "rows' own pairs have no gradients");
                    if (!packed.empty()) continue;  // inside already
                    ops_of(base).low_rank_rows(float_of(base.scalar_type()), base.data_ptr(), raw.of_row,
                                               kernel_rows(rows), base.size(1), y.size(1), y.data_ptr());
                    continue;
                }
                Update update = prepare(raw, base, y.size(1), rows);
                if (!recorded && add_at_once(update, base, rows, y)) continue;
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
    node->columns = base.size(1);
    node->branches = std::move(saved);
    if (reads_x && recompute)
        node->recompute = std::move(recompute);
    else if (reads_x)
        node->x = base;
    record(node, inputs, outputs);
    if (replay && again && (node->x.defined() || node->recompute))
        *replay = [node] { return node->outputs(); };
    return outputs;
}

at::Tensor adapted_linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                          const RowBegin& rows, const std::vector<LowRank>& updates) {
    return adapted_linears(x, {{std::make_shared<const FrozenMatrix>(weight), bias, updates}}, rows)[0];
}

}  // namespace polyad
