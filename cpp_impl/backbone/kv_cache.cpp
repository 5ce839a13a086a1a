// SPDX-License-Identifier: Apache-2.0
#include "backbone/kv_cache.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "base/error.h"

namespace polyad {

DecoderCache::DecoderCache(int64_t layers, int slots, int capacity, int64_t kv_width, at::ScalarType dtype)
    : capacity_(capacity) {
    if (slots < 1 || capacity < 1)
        fail(Code::invalid_argument, "a cache needs at least one slot and one token of capacity, not ", slots,
             " and ", capacity);
    length_.assign(static_cast<size_t>(slots), 0);
    for (int64_t l = 0; l < layers; ++l) {
        keys_.push_back({at::empty({slots, capacity, kv_width}, at::TensorOptions().dtype(dtype))});
        values_.push_back({at::empty_like(keys_.back()[0])});
    }
}

void DecoderCache::check_slot(int slot) const {
    if (slot < 0 || slot >= slots())
        fail(Code::invalid_argument, "cache slot ", slot, " is outside [0, ", slots(), ")");
}

int DecoderCache::length(int slot) const {
    check_slot(slot);
    return length_[static_cast<size_t>(slot)];
}

void DecoderCache::truncate(int slot, int length) {
    check_slot(slot);
    int32_t& now = length_[static_cast<size_t>(slot)];
    if (length < 0 || length > now)
        fail(Code::invalid_argument, "cannot truncate slot ", slot, " to ", length, " of its ", now,
             " tokens");
    now = length;
}

PastKeys DecoderCache::past(int64_t layer, const std::vector<int>& slots, int copy) {
    auto& keys = keys_[static_cast<size_t>(layer)];
    auto& values = values_[static_cast<size_t>(layer)];
    while (static_cast<int>(keys.size()) <= copy) {
        keys.push_back(at::empty_like(keys[0]));
        values.push_back(at::empty_like(values[0]));
    }
    PastKeys past;
    const at::Tensor& k = keys[static_cast<size_t>(copy)];
    const at::Tensor& v = values[static_cast<size_t>(copy)];
    const int64_t bytes = k.stride(0) * static_cast<int64_t>(k.element_size());
    for (const int slot : slots) {
        past.k_row.push_back(static_cast<std::byte*>(k.data_ptr()) + slot * bytes);
        past.v_row.push_back(static_cast<std::byte*>(v.data_ptr()) + slot * bytes);
        past.length.push_back(length(slot));
    }
    return past;
}

bool DecoderCache::fits(int64_t layers, int64_t kv_width, at::ScalarType dtype) const {
    return static_cast<int64_t>(keys_.size()) == layers && keys_[0][0].size(2) == kv_width &&
           keys_[0][0].scalar_type() == dtype;
}

}  // namespace polyad
