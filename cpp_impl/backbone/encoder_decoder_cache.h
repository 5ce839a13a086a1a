// SPDX-License-Identifier: Apache-2.0
// What an encoder-decoder keeps of each row: the keys and values of the decoder's past, and those its
// cross-attention reads of the encoder's states.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "backbone/backbone.h"
#include "backbone/biased_attention.h"

namespace polyad {

/// length() counts the decoder's tokens. truncate(slot, 0) forgets the source, too; any other length keeps
/// it.
class EncoderDecoderCache final : public KvCache {
  public:
    /// `layers` of the decoder; `capacity` tokens of the decoder per slot.
    EncoderDecoderCache(int64_t layers, int slots, int capacity, int64_t kv_width, at::ScalarType dtype,
                        at::Device device);

    int slots() const override { return static_cast<int>(length_.size()); }
    int capacity() const override { return capacity_; }
    int length(int slot) const override;
    void truncate(int slot, int length) override;
    int64_t bytes_for(int64_t tokens, int64_t source) const override;

    /// Writes k and v [n, kv_width] behind the slot's past and returns the whole; they count as past only
    /// after commit(). `copy`: which of the layer's copies; memory for those beyond the first comes with
    /// first use.
    RowKeys append(int64_t layer, int copy, int slot, const at::Tensor& k, const at::Tensor& v);
    /// Keys and values of a slot's source; they, too, count only after commit().
    void set_source(int64_t layer, int copy, int slot, const RowKeys& keys);
    RowKeys source(int64_t layer, int copy, int slot) const;
    bool has_source(int slot) const { return has_source_[static_cast<size_t>(slot)]; }
    /// The forward is through: the slot holds a source and `tokens` more of the decoder's.
    void commit(int slot, int tokens);

    /// True when made for a model of this shape.
    bool fits(int64_t layers, int64_t kv_width, at::ScalarType dtype, at::Device device) const;

  private:
    struct Copy {
        at::Tensor k, v;              ///< [slots, capacity, kv_width]; pages come with first use
        std::vector<RowKeys> source;  ///< [slots]
    };
    void check_slot(int slot) const;
    Copy make_copy() const;

    int capacity_;
    int64_t kv_width_;
    at::ScalarType dtype_;
    at::Device device_;
    std::vector<int32_t> length_;
    std::vector<char> has_source_;
    std::vector<std::vector<Copy>> layers_;  ///< [layer][copy]
};

}  // namespace polyad
