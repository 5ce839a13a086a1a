// SPDX-License-Identifier: Apache-2.0
// The decoder's other pieces, each one kernel call and at most one autograd node that saves as little as it
// can. Without gradients they are the bare kernels.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "backbone/low_rank.h"
#include "backbone/rope.h"

namespace polyad {

/// gain * x / sqrt(mean(x^2) + eps) over the last dimension, which gain [width] (float32, may be trained)
/// must divide: [N, heads * width] is normed per head. gain [N, width] = one per token, [rows, width] = one
/// per row of `rows`. Saves x and one number per row.
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& gain, double eps, const RowBegin& rows = {});

/// {residual + delta, rms_norm of it}. `delta`'s storage becomes the sum's: the caller gives it up. Saves the
/// sum.
std::pair<at::Tensor, at::Tensor> add_rms_norm(const at::Tensor& residual, const at::Tensor& delta,
                                               const at::Tensor& gain, double eps, const RowBegin& rows = {});

/// gate and up of a gated feed-forward, kept for the backward pass or made again when it comes.
class GateUp {
  public:
    /// Keeps the tensors, or only how they are made again.
    GateUp(const at::Tensor& gate, const at::Tensor& up, Replay again);
    /// silu(gate) * up, no gradients; makes both again first where they were not kept.
    at::Tensor product();
    const std::vector<at::Tensor>& both();
    void release();

  private:
    std::vector<at::Tensor> both_;
    Replay again_;
};
/// silu(gate) * up; the backward pass reads both from `kept`.
at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up, const std::shared_ptr<GateUp>& kept);

/// Where a batch's queries stand, and the past they attend to.
struct AttentionPlan {
    int64_t heads = 0, heads_kv = 0, head_dim = 0;
    double scale = 1.0;
    bool causal = true;                     ///< false: every query sees every key of its row (encoders)
    std::vector<int32_t> query_begin;       ///< [rows + 1]
    std::vector<int32_t> key_count;         ///< [rows], past included
    std::vector<int32_t> position;          ///< [N] for rotary embedding
    std::vector<int32_t> parent;            ///< as Batch::parent; key_count then counts a row's whole line
    std::shared_ptr<const RopeTable> rope;  ///< null: nothing is rotated

    int32_t rows() const { return static_cast<int32_t>(key_count.size()); }
};

/// Where the rows' past lies, room for the new tokens included: the same for every layer.
struct PastRows {
    std::vector<int32_t> length;  ///< [rows] tokens already there
    /// With pages, as kernels::Attention has them.
    int32_t page_tokens = 0;
    std::vector<int32_t> page_begin;  ///< [rows]
    std::vector<void*> page;
};

/// One layer's part of it: each row's history in one piece, or in the rows' pages.
struct PastKeys {
    std::shared_ptr<const PastRows> rows;
    std::vector<void*> k_row, v_row;     ///< [rows], empty with pages
    int64_t k_offset = 0, v_offset = 0;  ///< elements into a page

    bool paged() const { return k_row.empty(); }
};

/// Rotates q and k (in their own storage: the caller gives both up), appends k and v to the past when there
/// is one, and attends. q [N, heads * head_dim], k and v [N, heads_kv * head_dim]. Saves q, k, v, the output
/// and its log-sum-exp, no probabilities. window: 0 = unlimited.
at::Tensor rotary_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const std::shared_ptr<const AttentionPlan>& plan, int64_t window,
                            const PastKeys* past);

}  // namespace polyad
