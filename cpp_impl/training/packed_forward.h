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

/// How a batch is computed within what may be kept for its backward pass.
struct ForwardPlan {
    std::vector<std::vector<TrainingRow>> parts;  ///< one forward each; their gradients add up to the batch's
    int64_t activation_bytes = 0;                 ///< ForwardOptions::activation_bytes of each
};

/// `activation_bytes` may be kept, or for 0 three quarters of what the backbone's weights take (at least 64
/// MiB). A batch that keeps more makes activations again, and where that would not do or cost too much is
/// computed in parts of whole rows of about equal length; `share` as for PackedForward, rows that share then
/// stay together. One part on devices, for encoder-decoders, and for methods whose rows may see each other
/// (losses over a batch's tokens): those make activations again only where a number is given.
ForwardPlan plan_forwards(const Backbone& backbone, const Method& method,
                          const std::vector<TrainingRow>& rows, bool share, int64_t activation_bytes);

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
