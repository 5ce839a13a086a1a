// SPDX-License-Identifier: Apache-2.0
// Keys and values of past tokens in pages of a fixed number of tokens: a row takes memory as it grows, and
// rows that begin alike may share the pages of their beginning.
#pragma once

#include <ATen/core/Tensor.h>

#include <atomic>
#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "backbone/backbone.h"
#include "backbone/fused.h"

namespace polyad {

/// Memory of a cache's pages. Pages may outlive the cache; what counts them may be asked from any thread.
class PagePool : public std::enable_shared_from_this<PagePool> {
  public:
    class Page {
      public:
        Page(std::shared_ptr<PagePool> pool, at::Tensor memory)
            : pool_(std::move(pool)), memory_(std::move(memory)) {}
        ~Page();
        Page(const Page&) = delete;
        Page& operator=(const Page&) = delete;
        void* data() const { return memory_.data_ptr(); }
        const at::Tensor& memory() const { return memory_; }

      private:
        std::shared_ptr<PagePool> pool_;
        at::Tensor memory_;
    };

    PagePool(int64_t elements, at::ScalarType dtype, at::Device device)
        : elements_(elements), dtype_(dtype), device_(device) {}

    /// Null when the limit, or the device's memory, leaves no room for one more.
    std::shared_ptr<Page> take();
    /// Why take() gave none the last time, with sizes.
    std::string refusal() const;
    int64_t page_bytes() const { return elements_ * static_cast<int64_t>(at::elementSize(dtype_)); }
    /// Bytes of pages somebody holds; unused ones that are kept for the next taker come on top, within the
    /// limit.
    int64_t bytes() const { return used_ * page_bytes(); }
    /// Most bytes of pages, kept ones included. Pages beyond a smaller limit go when they are given back.
    void set_limit(int64_t bytes);
    int64_t limit() const { return limit_; }

  private:
    void give(at::Tensor memory);

    const int64_t elements_;
    const at::ScalarType dtype_;
    const at::Device device_;
    std::atomic<int64_t> used_{0}, limit_{std::numeric_limits<int64_t>::max()};
    mutable std::mutex mutex_;
    // Guarded by mutex_.
    std::vector<at::Tensor> kept_;
    std::string refusal_;
};

class DecoderCache final : public KvCache {
  public:
    using PageRef = std::shared_ptr<PagePool::Page>;
    static constexpr int page_tokens = 32;

    DecoderCache(int64_t layers, int slots, int capacity, int64_t kv_width, at::ScalarType dtype,
                 at::Device device);

    int slots() const override { return static_cast<int>(length_.size()); }
    int capacity() const override { return capacity_; }
    int length(int slot) const override;
    void truncate(int slot, int length) override;
    int64_t bytes_for(int64_t tokens, int64_t source) const override;

    PagePool& pool() const { return *pool_; }
    /// Makes room for `tokens` more tokens of a slot; false when the pool has none, and then nothing changed.
    /// A forward does it by itself, but fails where there is no room.
    bool reserve(int slot, int tokens);
    /// Pages reserve() would take.
    int64_t pages_wanted(int slot, int tokens) const;
    /// The slot's pages, the first full ones first.
    const std::vector<PageRef>& pages(int slot) const { return pages_[static_cast<size_t>(slot)]; }
    /// An empty slot begins with full pages another row has filled with the same tokens.
    void adopt(int slot, std::vector<PageRef> pages);

    /// Where the past of each row's slot lies, and room for what reserve() made room for.
    std::shared_ptr<const PastRows> past(const std::vector<int>& slots) const;
    /// A layer's part of it. `copy`: which of the layer's copies; those beyond the first are contiguous and
    /// come with their first use.
    PastKeys past_keys(int64_t layer, std::shared_ptr<const PastRows> rows, const std::vector<int>& slots,
                       int copy = 0);
    void grow(int slot, int tokens) { length_[static_cast<size_t>(slot)] += tokens; }
    /// True when made for a model of this shape.
    bool fits(int64_t layers, int64_t kv_width, at::ScalarType dtype, at::Device device) const;

  private:
    struct Copy {
        at::Tensor k, v;  ///< [slots, capacity, kv_width]; the system's pages come with first use
    };
    void check_slot(int slot) const;

    int capacity_;
    int64_t layers_, kv_width_;
    at::ScalarType dtype_;
    at::Device device_;
    std::vector<int32_t> length_;
    /// A page holds its tokens of all layers, [layers, 2 (keys, values), page_tokens, kv_width].
    std::shared_ptr<PagePool> pool_;
    std::vector<std::vector<PageRef>> pages_;  ///< [slots]
    std::vector<std::vector<Copy>> copies_;    ///< [layers][copy - 1]
};

}  // namespace polyad
