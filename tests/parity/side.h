// SPDX-License-Identifier: Apache-2.0
// A fixture's padded rows as a ragged batch, and where its values lie in the padded tensors.
#pragma once

#include "report.h"

namespace polyad::parity {

struct Side {
    std::vector<std::vector<int32_t>> rows;  ///< prompts of greedy decoding: an encoder-decoder's sources
    Batch batch;
    std::vector<int64_t> place;         ///< flat [B * T] index of each token of the ragged batch
    std::vector<int64_t> source_place;  ///< the same of each source token
    std::vector<int64_t> predicting;    ///< positions in the ragged batch that predict a target
    std::vector<int32_t> targets;
    std::vector<int64_t> target_place;  ///< flat [B * T] index of each target
};

/// Decoder-only fixtures: "right." or "left." padded.
Side read_decoder_side(const Safetensors& expected, const std::string& prefix);
Side read_encoder_decoder_side(const Safetensors& expected);

/// Rows of the first two dimensions taken as one.
at::Tensor pick(const at::Tensor& padded, const std::vector<int64_t>& places);
at::Tensor select_rows(const at::Tensor& x, const std::vector<int64_t>& rows);

/// Greedy tokens with and without end-of-sequence.
void run_greedy(const Backbone& backbone, const Safetensors& expected, const Json& about, const Side& side,
                Report& report);

}  // namespace polyad::parity
