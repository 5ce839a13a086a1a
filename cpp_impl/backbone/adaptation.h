// SPDX-License-Identifier: Apache-2.0
// What a backbone offers to adapters (sites) and asks of them (an Adaptation per forward).
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "backbone/batch.h"
#include "backbone/low_rank.h"

namespace polyad {

/// One adapted place: a linear of the backbone.
struct Site {
    int index = 0;     ///< position in Backbone::sites()
    std::string path;  ///< Hugging Face module path, e.g. "model.layers.0.self_attn.q_proj"
    int layer = 0;     ///< transformer layer, counted from 0 (decoder layers of an encoder-decoder follow on)
    int64_t d_in = 0, d_out = 0;

    /// Last path part ("q_proj"): what target_modules names.
    std::string name() const { return path.substr(path.rfind('.') + 1); }
};

/// One forward's adapters. Made by a skillset for one batch; the backbone asks it at every site.
class Adaptation {
  public:
    virtual ~Adaptation() = default;
    /// Updates of `site` for the batch the adaptation was made for. x [N, d_in] is the site's own input.
    virtual std::vector<LowRank> at(const Site& site, const at::Tensor& x) = 0;
};

}  // namespace polyad
