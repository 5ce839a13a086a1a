// SPDX-License-Identifier: Apache-2.0
// Choosing the next tokens where the logits lie, so that a step brings home one number per row.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "serving/sampling.h"

namespace polyad {

/// One row's part of a step: as pick_token takes it.
struct SampledRow {
    const SamplingOptions* options;
    std::span<const int32_t> prompt, answer;
    Generator* random;
};

/// True for devices that choose tokens themselves.
bool samples_on_device(at::Device device);
/// pick_token for every row of logits [rows, vocab] (float32); -1 where that would be Code::numeric_error.
std::vector<int32_t> sample_on_device(const at::Tensor& logits, const std::vector<SampledRow>& rows);

}  // namespace polyad
