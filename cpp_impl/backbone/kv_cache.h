// SPDX-License-Identifier: Apache-2.0
// Keys and values of past tokens, contiguous per slot in compute dtype.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "backbone/backbone.h"
#include "backbone/fused.h"

namespace polyad {

class DecoderCache final : public KvCache {
  public:
    DecoderCache(int64_t layers, int slots, int capacity, int64_t kv_width, at::ScalarType dtype);

    int slots() const override { return static_cast<int>(length_.size()); }
    int capacity() const override { return capacity_; }
    int length(int slot) const override;
    void truncate(int slot, int length) override;

    /// Where this layer's past lies for each row's slot.
    /// `copy`: which of the layer's copies; memory for copies beyond the first comes with their first use.
    PastKeys past(int64_t layer, const std::vector<int>& slots, int copy = 0);
    void grow(int slot, int tokens) { length_[static_cast<size_t>(slot)] += tokens; }
    /// True when made for a model of this shape.
    bool fits(int64_t layers, int64_t kv_width, at::ScalarType dtype) const;

  private:
    void check_slot(int slot) const;

    int capacity_;
    std::vector<int32_t> length_;
    /// Per layer and copy, [slots, capacity, kv_width]; pages come with first use.
    std::vector<std::vector<at::Tensor>> keys_, values_;
};

}  // namespace polyad
