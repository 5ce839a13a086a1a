// SPDX-License-Identifier: Apache-2.0
// Adapters of a batch whose rows belong to different skillsets, or to none.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "routing/skillset.h"

namespace polyad {

/// What one row of a batch asks for.
struct RowRoute {
    const Skillset* skillset = nullptr;  ///< null: the backbone alone
    int task = -1;                       ///< -1 = none
    std::vector<float> weights;          ///< explicit skill weights; empty = let the router decide
    int32_t prompt_tokens = 0;  ///< leading tokens of the row, in this batch, that belong to its prompt
};

/// Each skillset routes its own rows by its own Adaptation; here their updates are merged, foreign rows
/// getting group -1. Rows of one skillset must be neighbours, so that their tokens are one slice of the
/// batch. Eval mode.
class MixedAdaptation final : public Adaptation {
  public:
    /// `rows` has one entry per row of `row_begin`. The skillsets must outlive this.
    MixedAdaptation(const std::vector<RowRoute>& rows, const RowBegin& row_begin);

    std::vector<LowRank> at(const Site& site, const at::Tensor& x) override;
    /// True when no row has a skillset: the backbone may run without an adaptation.
    bool empty() const { return parts_.empty(); }

  private:
    struct Part {
        std::unique_ptr<Adaptation> adaptation;
        int first_row = 0, rows = 0;
        int64_t first_token = 0, tokens = 0;
    };

    int rows_ = 0;
    int64_t tokens_ = 0;
    std::vector<Part> parts_;
};

}  // namespace polyad
