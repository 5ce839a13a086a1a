// SPDX-License-Identifier: Apache-2.0
#include "backbone/encoder_decoder_cache.h"

#include <ATen/ops/empty.h>

#include "base/error.h"

namespace polyad {

EncoderDecoderCache::EncoderDecoderCache(int64_t layers, int slots, int capacity, int64_t kv_width,
                                         at::ScalarType dtype, at::Device device)
    : capacity_(capacity), kv_width_(kv_width), dtype_(dtype), device_(device) {
    if (slots < 1 || capacity < 1)
        fail(Code::invalid_argument, "a cache needs at least one slot and one token of capacity, not ", slots,
             " and ", capacity);
    length_.assign(static_cast<size_t>(slots), 0);
    has_source_.assign(static_cast<size_t>(slots), 0);
    for (int64_t l = 0; l < layers; ++l) {
        layers_.emplace_back();
        layers_.back().push_back(make_copy());
    }
}

EncoderDecoderCache::Copy EncoderDecoderCache::make_copy() const {
    const auto options = at::TensorOptions().dtype(dtype_).device(device_);
    return {at::empty({slots(), capacity_, kv_width_}, options),
            at::empty({slots(), capacity_, kv_width_}, options), std::vector<RowKeys>(length_.size())};
}

void EncoderDecoderCache::check_slot(int slot) const {
    if (slot < 0 || slot >= slots())
        fail(Code::invalid_argument, "cache slot ", slot, " is outside [0, ", slots(), ")");
}

int EncoderDecoderCache::length(int slot) const {
    check_slot(slot);
    return length_[static_cast<size_t>(slot)];
}

void EncoderDecoderCache::truncate(int slot, int length) {
    check_slot(slot);
    int32_t& now = length_[static_cast<size_t>(slot)];
    if (length < 0 || length > now)
        fail(Code::invalid_argument, "cannot truncate slot ", slot, " to ", length, " of its ", now,
             " tokens");
    now = length;
    if (length > 0) return;
    has_source_[static_cast<size_t>(slot)] = 0;
    for (auto& copies : layers_)
        for (Copy& copy : copies) copy.source[static_cast<size_t>(slot)] = {};
}

int64_t EncoderDecoderCache::bytes_for(int64_t tokens, int64_t source) const {
    return static_cast<int64_t>(layers_.size()) * 2 * (tokens + source) * kv_width_ *
           static_cast<int64_t>(at::elementSize(dtype_));
}

RowKeys EncoderDecoderCache::append(int64_t layer, int copy, int slot, const at::Tensor& k,
                                    const at::Tensor& v) {
    auto& copies = layers_[static_cast<size_t>(layer)];
    while (static_cast<int>(copies.size()) <= copy) copies.push_back(make_copy());
    const Copy& own = copies[static_cast<size_t>(copy)];
    const int64_t past = length(slot), all = past + k.size(0);
    POLYAD_CHECK(all <= capacity_);
    own.k.select(0, slot).slice(0, past, all).copy_(k);
    own.v.select(0, slot).slice(0, past, all).copy_(v);
    return {own.k.select(0, slot).slice(0, 0, all), own.v.select(0, slot).slice(0, 0, all)};
}

void EncoderDecoderCache::set_source(int64_t layer, int copy, int slot, const RowKeys& keys) {
    auto& copies = layers_[static_cast<size_t>(layer)];
    while (static_cast<int>(copies.size()) <= copy) copies.push_back(make_copy());
    // Clones: a slice would keep the whole batch's keys alive.
    copies[static_cast<size_t>(copy)].source[static_cast<size_t>(slot)] = {keys.k.clone(), keys.v.clone()};
}

RowKeys EncoderDecoderCache::source(int64_t layer, int copy, int slot) const {
    const auto& copies = layers_[static_cast<size_t>(layer)];
    POLYAD_CHECK(static_cast<size_t>(copy) < copies.size());
    const RowKeys& keys = copies[static_cast<size_t>(copy)].source[static_cast<size_t>(slot)];
    POLYAD_CHECK(keys.k.defined());
    return keys;
}

void EncoderDecoderCache::commit(int slot, int tokens) {
    length_[static_cast<size_t>(slot)] += tokens;
    has_source_[static_cast<size_t>(slot)] = 1;
}

bool EncoderDecoderCache::fits(int64_t layers, int64_t kv_width, at::ScalarType dtype,
                               at::Device device) const {
    return static_cast<int64_t>(layers_.size()) == layers && kv_width_ == kv_width && dtype_ == dtype &&
           device_ == device;
}

}  // namespace polyad
