// SPDX-License-Identifier: Apache-2.0
#include "backbone/buffer_pool.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/util/accumulate.h>
#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <map>
#include <mutex>
#include <new>
#include <vector>

#include "backbone/frozen_gemm.h"

namespace polyad {
namespace {

constexpr int64_t smallest = 64 << 10;  ///< bytes; below, malloc keeps what it was given back
constexpr int64_t page = 4096;

class Pool {
  public:
    /// At least `bytes`; returns the size to give back with.
    void* take(int64_t bytes, int64_t& size) {
        size = rounded(bytes);
        const std::lock_guard lock(mutex_);
        void* out = take_idle(size);
        if (!out) {
            while (live_ + idle_ + size > peak_ && idle_ > 0) drop(std::prev(idle_of_size_.end()));
            // Not from malloc: between small blocks that live longer, buffers of changing sizes leave holes.
            out = ::mmap(nullptr, static_cast<size_t>(size), PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (out == MAP_FAILED) throw std::bad_alloc();
            ++taken_;
        }
        live_ += size;
        peak_ = std::max(peak_, live_);
        return out;
    }

    void give(void* buffer, int64_t size) {
        const std::lock_guard lock(mutex_);
        live_ -= size;
        idle_ += size;
        idle_of_size_[size].push_back(buffer);
    }

    void release() {
        const std::lock_guard lock(mutex_);
        while (idle_ > 0) drop(idle_of_size_.begin());
        peak_ = live_;
    }

    BufferUse use() {
        const std::lock_guard lock(mutex_);
        return {live_, idle_, taken_};
    }

  private:
    using Idle = std::map<int64_t, std::vector<void*>>;

    /// 32 sizes between two powers of two: batches of nearly the same length use the same buffers.
    static int64_t rounded(int64_t bytes) {
        const auto whole = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(bytes)));
        const int64_t step = std::max(whole / 32, page);
        return (bytes + step - 1) / step * step;
    }

    /// One of this size or, as it would be wasted otherwise, of one a little larger.
    void* take_idle(int64_t& size) {
        const auto found = idle_of_size_.lower_bound(size);
        if (found == idle_of_size_.end() || found->first > size + size / 4) return nullptr;
        size = found->first;
        void* out = found->second.back();
        found->second.pop_back();
        if (found->second.empty()) idle_of_size_.erase(found);
        idle_ -= size;
        return out;
    }

    void drop(Idle::iterator place) {
        ::munmap(place->second.back(), static_cast<size_t>(place->first));
        place->second.pop_back();
        idle_ -= place->first;
        if (place->second.empty()) idle_of_size_.erase(place);
    }

    std::mutex mutex_;
    Idle idle_of_size_;
    int64_t live_ = 0, idle_ = 0, peak_ = 0, taken_ = 0;
};

Pool& pool() {
    static Pool* const pool = new Pool;  // never destroyed: tensors may outlive every static
    return *pool;
}

at::Tensor plain_buffer(at::IntArrayRef sizes, const at::TensorOptions& options) {
    const int64_t bytes = c10::multiply_integers(sizes) * static_cast<int64_t>(options.dtype().itemsize());
    if (bytes < smallest || !options.device().is_cpu()) return at::empty(sizes, options);
    int64_t size = 0;
    void* data = pool().take(bytes, size);
    return at::from_blob(
        data, sizes, [size](void* buffer) { pool().give(buffer, size); }, options);
}

}  // namespace

at::Tensor new_buffer(at::IntArrayRef sizes, const at::TensorOptions& options) {
    const int64_t rows = sizes.size() == 2 ? padded_rows(sizes[0]) : 0;
    if (rows == 0 || rows == sizes[0]) return plain_buffer(sizes, options);
    // Detached: autograd shall not take it for a view.
    return plain_buffer({rows, sizes[1]}, options).narrow(0, 0, sizes[0]).detach();
}

at::Tensor new_buffer_like(const at::Tensor& t) {
    return new_buffer(t.sizes(), t.options());
}

at::Tensor new_zeros(at::IntArrayRef sizes, const at::TensorOptions& options) {
    return new_buffer(sizes, options).zero_();
}

BufferUse buffer_use() {
    return pool().use();
}

void release_idle_buffers() {
    pool().release();
}

}  // namespace polyad
