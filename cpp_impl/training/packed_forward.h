// SPDX-License-Identifier: Apache-2.0
// One forward of training rows: batch, routing, and where its answers are predicted.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "backbone/backbone.h"
#include "routing/method.h"
#include "training/encoded_data.h"

namespace polyad {

/// What a forward may keep for its backward pass, bytes: `mib` MiB, or for 0 as much as the backbone's
/// weights take (at least 64 MiB).
int64_t activation_budget(const Backbone& backbone, int64_t mib);

/// The rows in as many parts of about equal length as it takes to keep each forward within
/// `activation_bytes`; `share` as for PackedForward, rows that share then stay together. A part's gradients
/// add up to the whole's. One part on devices, for encoder-decoders, and for methods whose rows may see each
/// other (losses over a batch's tokens).
std::vector<std::vector<TrainingRow>> parts_within(const Backbone& backbone, const Method& method,
                                                   const std::vector<TrainingRow>& rows, bool share,
                                                   int64_t activation_bytes);

struct PackedForward {
    Batch batch;
    RouteInput route;
    std::vector<int64_t> positions;  ///< of answer targets
    std::vector<int32_t> targets;
    std::vector<int32_t> row_of_target;  ///< index into the rows given
    int64_t activation_bytes = 0;        ///< ForwardOptions::activation_bytes

    /// `share`: rows share their beginnings where the method and the backbone allow it.
    PackedForward(const Backbone& backbone, const Method& method, const std::vector<TrainingRow>& rows,
                  Mode mode, Generator* noise, bool share);

    /// Negative log likelihood of every answer token; only answer positions pass the output head.
    at::Tensor answer_nll(const Backbone& backbone, Adaptation& adaptation, double label_smoothing) const;
};

}  // namespace polyad
