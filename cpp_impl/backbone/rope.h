// SPDX-License-Identifier: Apache-2.0
// Rotary position tables: cos and sin of position * frequency, computed in double, kept in float32.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "io/hf_config.h"

namespace polyad {

struct RopeTable {
    int64_t positions = 0, half = 0;
    at::Tensor cos, sin;  ///< [positions, half] float32
};

/// Grows with the longest position asked for, so a model's nominal context costs nothing. Safe for concurrent
/// use.
class Rope {
  public:
    /// `factors` divides frequency i by factors[i] (GGUF's rope_freqs.weight); empty = as the config says.
    Rope(const ModelConfig& config, const std::vector<float>& factors, at::Device device = at::kCPU);

    /// A table that covers at least `positions`.
    std::shared_ptr<const RopeTable> table(int64_t positions) const;
    const std::vector<double>& frequencies() const { return frequencies_; }

  private:
    std::vector<double> frequencies_;
    at::Device device_;
    mutable std::mutex mutex_;
    mutable std::shared_ptr<const RopeTable> table_;
};

}  // namespace polyad
