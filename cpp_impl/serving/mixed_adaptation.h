// SPDX-License-Identifier: Apache-2.0
// Adapters of a batch whose rows belong to different skillsets, or to none.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "routing/skillset.h"
#include "serving/served_skillset.h"

namespace polyad {

/// What one row of a batch asks for.
struct RowRoute {
    const Skillset* skillset = nullptr;  ///< null: the backbone alone
    const ResidentLora* lora = nullptr;  ///< what the skillset does to this row, as plain pairs; or null
    int task = -1;                       ///< -1 = none
    const std::vector<float>* weights =
        nullptr;                    ///< explicit skill weights; null or empty = the router decides
    int32_t prompt_tokens = 0;      ///< leading tokens of the row, in this batch, that belong to its prompt
    RouteMemory* memory = nullptr;  ///< what its router keeps between the steps of its generation
    const std::vector<float>* intuition = nullptr;  ///< its scores against clusters; null or empty = none
};

/// Rows with plain pairs share one update, whatever skillsets they belong to. Every other skillset routes its
/// own rows by its own Adaptation; here their updates are merged, foreign rows getting group -1. Rows of one
/// skillset must be neighbours, so that their tokens are one slice of the batch. A skillset whose method is
/// exclusive must be the only one. Eval mode.
class MixedAdaptation final : public Adaptation {
  public:
    /// `rows` has one entry per row of the batch. What they point to must outlive this.
    MixedAdaptation(const std::vector<RowRoute>& rows, const Batch& batch);

    std::vector<LowRank> at(const Site& site, const at::Tensor& x) override;
    void begin(const Backbone& backbone, const Batch& batch, const ForwardOptions& options) override;
    void encoded(const at::Tensor& states) override;
    std::vector<at::Tensor> prefix() override;
    at::Tensor feed_forward(int layer, const at::Tensor& u, const at::Tensor& y) override;
    at::Tensor weight(const std::string& path) override;
    at::Tensor output_scale(const Site& site) override;
    std::optional<Spread> spread(int layer, const at::Tensor& h) override;
    int copies(int layer, const at::Tensor& x) override;
    void enter(int layer, int copy) override;
    std::optional<std::vector<int64_t>> copy_part(int layer, int copy) override;
    at::Tensor join(int layer, const std::vector<at::Tensor>& outputs) override;
    /// True when no row has a skillset: the backbone may run without an adaptation.
    bool empty() const { return parts_.empty() && loras_.empty(); }

  private:
    struct Part {
        std::unique_ptr<Adaptation> adaptation;
        int first_row = 0, rows = 0;
        int64_t first[2] = {0, 0}, count[2] = {0, 0};  ///< tokens, per Stream
    };
    int rows_ = 0;
    int64_t total_[2] = {0, 0};    ///< tokens of the batch, per Stream
    Adaptation* alone_ = nullptr;  ///< the one adaptation, when all rows are its own
    std::vector<Part> parts_;
    std::vector<const ResidentLora*> loras_;  ///< [rows], entries may be null; empty = none has any
    std::vector<std::vector<kernels::RowFactors>> of_site_;  ///< [sites][rows], made at a site's first use
};

}  // namespace polyad
