// SPDX-License-Identifier: Apache-2.0
#include "backbone/kv_cache.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <utility>

#include "backbone/buffer_pool.h"
#include "backbone/device_error.h"
#include "base/error.h"

namespace polyad {

PagePool::Page::~Page() {
    pool_->give(std::move(memory_));
}

std::shared_ptr<PagePool::Page> PagePool::take() {
    at::Tensor memory;
    {
        const std::lock_guard lock(mutex_);
        if ((used_ + 1) * page_bytes() > limit_) {
            refusal_ = text("pages of ", page_bytes(), " bytes may take ", limit_, " bytes, ", bytes(),
                            " are in use");
            return nullptr;
        }
        ++used_;
        if (!kept_.empty()) {
            memory = std::move(kept_.back());
            kept_.pop_back();
        }
    }
    try {
        if (!memory.defined())
            memory = new_lasting({elements_}, at::TensorOptions().dtype(dtype_).device(device_));
        return std::make_shared<Page>(shared_from_this(), std::move(memory));
    } catch (const std::exception& e) {
        --used_;
        const std::string why = out_of_device_memory(e);
        if (why.empty()) throw;
        const std::lock_guard lock(mutex_);
        refusal_ = why;
        return nullptr;
    }
}

std::string PagePool::refusal() const {
    const std::lock_guard lock(mutex_);
    return refusal_;
}

void PagePool::give(at::Tensor memory) {
    const std::lock_guard lock(mutex_);
    --used_;
    if ((used_ + static_cast<int64_t>(kept_.size()) + 1) * page_bytes() > limit_) return;
    try {
        kept_.push_back(std::move(memory));
    } catch (...) {  // then it is not kept
    }
}

void PagePool::set_limit(int64_t bytes) {
    const std::lock_guard lock(mutex_);
    limit_ = bytes;
    while (!kept_.empty() && (used_ + static_cast<int64_t>(kept_.size())) * page_bytes() > limit_)
        kept_.pop_back();
}

DecoderCache::DecoderCache(int64_t layers, int slots, int capacity, int64_t kv_width, at::ScalarType dtype,
                           at::Device device)
    : capacity_(capacity), layers_(layers), kv_width_(kv_width), dtype_(dtype), device_(device) {
    if (slots < 1 || capacity < 1)
        fail(Code::invalid_argument, "a cache needs at least one slot and one token of capacity, not ", slots,
             " and ", capacity);
    length_.assign(static_cast<size_t>(slots), 0);
    pool_ = std::make_shared<PagePool>(layers * 2 * page_tokens * kv_width, dtype, device);
    pages_.resize(static_cast<size_t>(slots));
    copies_.resize(static_cast<size_t>(layers));
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
    auto& pages = pages_[static_cast<size_t>(slot)];
    const auto kept = static_cast<size_t>((length + page_tokens - 1) / page_tokens);
    if (pages.size() > kept) pages.resize(kept);
}

int64_t DecoderCache::bytes_for(int64_t tokens, int64_t /*source*/) const {
    return (tokens + page_tokens - 1) / page_tokens * pool_->page_bytes();
}

int64_t DecoderCache::pages_wanted(int slot, int tokens) const {
    const int64_t after = length(slot) + tokens, have = static_cast<int64_t>(pages(slot).size());
    return std::max<int64_t>((after + page_tokens - 1) / page_tokens - have, 0);
}

bool DecoderCache::reserve(int slot, int tokens) {
    check_slot(slot);
    auto& pages = pages_[static_cast<size_t>(slot)];
    const int past = length_[static_cast<size_t>(slot)];
    // A page others read is not written: the slot goes on in a copy of it.
    PageRef own;
    const auto last = static_cast<size_t>(past / page_tokens);
    if (tokens > 0 && past % page_tokens != 0 && pages[last].use_count() > 1) {
        own = pool_->take();
        if (!own) return false;
        own->memory().copy_(pages[last]->memory());
    }
    const size_t had = pages.size();
    for (int64_t more = pages_wanted(slot, tokens); more > 0; --more) {
        PageRef page = pool_->take();
        if (!page) {
            pages.resize(had);
            return false;
        }
        pages.push_back(std::move(page));
    }
    if (own) pages[last] = std::move(own);
    return true;
}

void DecoderCache::adopt(int slot, std::vector<PageRef> pages) {
    POLYAD_CHECK(length(slot) == 0 && static_cast<int>(pages.size()) * page_tokens <= capacity_);
    length_[static_cast<size_t>(slot)] = static_cast<int32_t>(pages.size()) * page_tokens;
    pages_[static_cast<size_t>(slot)] = std::move(pages);
}

std::shared_ptr<const PastRows> DecoderCache::past(const std::vector<int>& slots) const {
    auto rows = std::make_shared<PastRows>();
    rows->page_tokens = page_tokens;
    for (const int slot : slots) {
        rows->length.push_back(length(slot));
        rows->page_begin.push_back(static_cast<int32_t>(rows->page.size()));
        for (const PageRef& page : pages(slot)) rows->page.push_back(page->data());
    }
    return rows;
}

PastKeys DecoderCache::past_keys(int64_t layer, std::shared_ptr<const PastRows> rows,
                                 const std::vector<int>& slots, int copy) {
    PastKeys past;
    past.rows = std::move(rows);
    if (copy == 0) {
        past.k_offset = 2 * layer * page_tokens * kv_width_;
        past.v_offset = past.k_offset + page_tokens * kv_width_;
        return past;
    }
    auto& copies = copies_[static_cast<size_t>(layer)];
    const auto options = at::TensorOptions().dtype(dtype_).device(device_);
    while (static_cast<int>(copies.size()) < copy)
        copies.push_back({at::empty({this->slots(), capacity_, kv_width_}, options),
                          at::empty({this->slots(), capacity_, kv_width_}, options)});
    const Copy& own = copies[static_cast<size_t>(copy - 1)];
    const int64_t bytes = own.k.stride(0) * static_cast<int64_t>(own.k.element_size());
    for (const int slot : slots) {
        past.k_row.push_back(static_cast<std::byte*>(own.k.data_ptr()) + slot * bytes);
        past.v_row.push_back(static_cast<std::byte*>(own.v.data_ptr()) + slot * bytes);
    }
    return past;
}

bool DecoderCache::fits(int64_t layers, int64_t kv_width, at::ScalarType dtype, at::Device device) const {
    return layers_ == layers && kv_width_ == kv_width && dtype_ == dtype && device_ == device;
}

}  // namespace polyad
