// SPDX-License-Identifier: Apache-2.0
// The one operator behind every method (docs/methods.md):
//
//     y = W0 x + b0 + s * Up( G * Down(x) )        Down = all skills' A stacked, Up = all skills' B side by
//     side
//
// Methods differ only in how they fill `LowRank`.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

namespace polyad {

namespace kernels {
struct RowFactors;
}

/// How a gate acts on u = Down(x) in R^R.
enum class Gate {
    none,      ///< G = 1
    diagonal,  ///< gate [*, W] with W dividing R: weight w covers ranks [w R/W, (w+1) R/W)
    full,      ///< gate [*, R1 * R2]: v_j = sum_i gate[i R2 + j] u_i  (MoR1E flex; R1 = ranks of a, R2 of b)
};

/// Skills that the operator itself mixes into one pair per group, a'[g] = sum_k w[g, block, k] a[skill(g, k)]
/// and b' alike. Nothing of the size of all groups' factors stays in memory, and a gradient comes back per
/// skill.
struct FactorBank {
    at::Tensor a;        ///< [S, r, d_in] float32
    at::Tensor b;        ///< [S, d_out, r] float32
    at::Tensor weights;  ///< [G, H, K]: H contiguous blocks of the input (for a) and output features (for b)
    std::vector<int32_t> chosen;  ///< [G K] skills of each group; empty = all of them in order, K = S
    int64_t rank_begin = 0;  ///< where its ranks start in the pair; banks that start at the same one add up
};

/// A low-rank update of one site for one batch. Tensors may carry autograd history.
struct LowRank {
    /// [G, R, d_in]: G groups; or [R, d_in], the same for every row; or undefined, see `input`.
    at::Tensor a;
    at::Tensor b;                   ///< [G, d_out, R], or [d_out, R]
    std::vector<FactorBank> banks;  ///< instead of a and b
    /// Group of each row; -1 = no update for that row. Empty: every row uses group 0.
    std::vector<int32_t> group_of_row;
    Gate gate_kind = Gate::none;
    at::Tensor
        gate;  ///< [rows, W] (one per row) or [N, W] (one per token); which one follows from `gate_per_token`
    bool gate_per_token = false;
    double scale = 1.0;
    /// Read instead of x when defined (dropout), [N, d_in]. With `a` undefined: Down(x) itself, made by the
    /// method for purposes of its own, [N, R] float32.
    at::Tensor input;
    /// Serving: instead of all the above, each row's own plain pair in x's dtype, [rows]; kept alive by
    /// whoever made the update. No gradients.
    const kernels::RowFactors* of_row = nullptr;
};

/// Row boundaries of the batch an operator runs on, [rows + 1].
using RowBegin = std::vector<int32_t>;

/// x W^T + bias + the updates. `weight` [d_out, d_in] is frozen and gets no gradient; x, a, b, gate and input
/// do. One autograd node that saves x, u and the small factors only. x: [N, d_in]; result: [N, d_out] in x's
/// dtype.
at::Tensor adapted_linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                          const RowBegin& rows, const std::vector<LowRank>& updates);

class FrozenMatrix;

/// One of several linears that read the same x.
struct LinearBranch {
    std::shared_ptr<const FrozenMatrix>
        weight;       ///< may lie packed, and is then expanded again for the backward pass
    at::Tensor bias;  ///< compute dtype; may be undefined
    std::vector<LowRank> updates;
    /// Instead of weight and bias: what the updates are added to, [N, d_out], in place (the caller gives it
    /// up).
    at::Tensor made = {};
    std::function<at::Tensor()> made_again = {};  ///< makes it once more for a replay
};

/// Makes the outputs of a recorded adapted_linears again, bit for bit, before its own backward pass.
using Replay = std::function<std::vector<at::Tensor>()>;

/// adapted_linear for every branch as one autograd node, so that the gradient of x is summed in one buffer.
/// `recompute` (optional) makes x again when the backward pass needs it, so that the node need not keep it.
/// `replay` (optional) is set when something is recorded and every branch can be made again.
std::vector<at::Tensor> adapted_linears(const at::Tensor& x, std::vector<LinearBranch> branches,
                                        const RowBegin& rows, std::function<at::Tensor()> recompute = {},
                                        Replay* replay = nullptr);

}  // namespace polyad
