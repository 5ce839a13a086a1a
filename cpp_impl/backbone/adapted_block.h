// SPDX-License-Identifier: Apache-2.0
// What every family does alike with an Adaptation: linears that read one input, trained norms, prefixes.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "backbone/backbone.h"
#include "backbone/spread.h"
#include "backbone/weights.h"

namespace polyad {

struct PlacedLinear {
    const Site* site;
    const Linear* linear;
};

/// The linears, which all read x, with the adaptation's updates, trained weights and output scales.
/// `adaptation` may be null; `recompute` and `replay` as in adapted_linears, but `replay` stays empty where
/// something else than the linears and their updates makes the outputs.
std::vector<at::Tensor> site_linears(Adaptation* adaptation, const std::vector<PlacedLinear>& linears,
                                     const at::Tensor& x, const RowBegin& rows,
                                     std::function<at::Tensor()> recompute = {}, Replay* replay = nullptr);

/// What linears that read the spread tokens make: the frozen products of h [N, d_in] once per token, each
/// copy's updates for its tokens; [M, d_out] each. `again` (optional) makes h in the backward pass; `replay`
/// as in adapted_linears, which wants `again`.
std::vector<at::Tensor> spread_linears(Adaptation& adaptation, const std::vector<PlacedLinear>& linears,
                                       const at::Tensor& h, const std::shared_ptr<const SpreadPlan>& plan,
                                       std::function<at::Tensor()> again = {}, Replay* replay = nullptr);

/// Output projection of spread tokens u [M, d_in]: the frozen product of what is added up, and each copy's
/// updates; [N, d_out]. `again` (optional) makes u in the backward pass.
at::Tensor joined_linear(Adaptation& adaptation, const PlacedLinear& placed, const at::Tensor& u,
                         const std::shared_ptr<const SpreadPlan>& plan,
                         std::function<at::Tensor()> again = {});

/// The trained tensor at `path`, or the frozen one. A norm's may be [N, width], one per token, where rows of
/// one batch train norms of their own.
inline at::Tensor trained_or(Adaptation* adaptation, const std::string& path, const at::Tensor& frozen) {
    if (!adaptation) return frozen;
    at::Tensor trained = adaptation->weight(path);
    return trained.defined() ? trained : frozen;
}

/// A stream with the adaptation's prefix before its rows.
struct Prefixed {
    at::Tensor embeddings;     ///< [N + prefix positions, width]
    RowBegin row_begin;        ///< of the longer rows
    std::vector<int64_t> own;  ///< [N] where the stream's own positions lie
};

/// nullopt when there is none. `embeddings` [N, width] are the stream's own, rows as in `row_begin`.
std::optional<Prefixed> put_prefix(Adaptation* adaptation, const at::Tensor& embeddings,
                                   const RowBegin& row_begin);

}  // namespace polyad
