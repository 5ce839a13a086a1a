// SPDX-License-Identifier: Apache-2.0
#include "backbone/buffer_pool.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/util/accumulate.h>
#include <sys/mman.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <new>
#include <set>
#include <utility>

#include "backbone/frozen_gemm.h"
#include "base/huge_pages.h"

namespace polyad {
namespace {

constexpr int64_t smallest = 16 << 10;  ///< bytes; below, malloc keeps what it was given back
constexpr int64_t page = 4096;
constexpr int64_t chunk = int64_t{64} << 20;  ///< address space taken at a time; memory only as it is written

int64_t round_up(int64_t bytes, int64_t to) {
    return (bytes + to - 1) / to * to;
}

/// Best fit, the rest of a block stays free, free neighbours are joined again: whatever sizes a step's
/// buffers have, they fall into pages that are there. Free blocks with memory and those that are address
/// space only lie apart.
class Pool {
  public:
    /// `keeps`: memory given back stays for the next taker, else only its address space does.
    explicit Pool(bool keeps) : keeps_(keeps) {}

    void* take(int64_t bytes) {
        const int64_t size = round_up(bytes, page);
        const std::lock_guard lock(mutex_);
        bool resident = true;
        auto found = of_size_[true].lower_bound({size, 0});
        if (found == of_size_[true].end()) {
            resident = false;
            found = of_size_[false].lower_bound({size, 0});
            if (found == of_size_[false].end()) found = grow(size);
        }
        const auto [block, at] = *found;
        remove(at);
        if (size < block) insert(at + static_cast<uintptr_t>(size), block - size, resident);
        live_ += size;
        peak_ = std::max(peak_, live_);
        if (resident) {
            idle_ -= size;
        } else {
            taken_ += size;
            while (live_ + idle_ > peak_ + peak_ / 8 && idle_ > 0)
                give_back(live_ + idle_ - peak_ - peak_ / 8);
        }
        return reinterpret_cast<void*>(at);
    }

    void give(void* buffer, int64_t bytes) {
        const int64_t size = round_up(bytes, page);
        // Takes the system a while: not while others wait.
        if (!keeps_) ::madvise(buffer, static_cast<size_t>(size), MADV_DONTNEED);
        const std::lock_guard lock(mutex_);
        live_ -= size;
        if (keeps_) idle_ += size;
        insert(reinterpret_cast<uintptr_t>(buffer), size, keeps_);
    }

    void release() {
        const std::lock_guard lock(mutex_);
        for (const auto& [at, block] : free_)
            ::munmap(reinterpret_cast<void*>(at), static_cast<size_t>(block.size));
        free_.clear();
        of_size_[false].clear();
        of_size_[true].clear();
        idle_ = 0;
        peak_ = live_;
    }

    BufferUse use() {
        const std::lock_guard lock(mutex_);
        return {live_, idle_, taken_};
    }

  private:
    struct Block {
        int64_t size;
        bool resident;  ///< backed by memory
    };
    using OfSize = std::set<std::pair<int64_t, uintptr_t>>;

    /// A free block, joined with its neighbours of the same kind.
    void insert(uintptr_t at, int64_t size, bool resident) {
        const auto next = free_.lower_bound(at);
        if (next != free_.begin()) {
            const auto [before, block] = *std::prev(next);
            if (before + static_cast<uintptr_t>(block.size) == at && block.resident == resident) {
                remove(before);
                at = before;
                size += block.size;
            }
        }
        const auto after = free_.find(at + static_cast<uintptr_t>(size));
        if (after != free_.end() && after->second.resident == resident) {
            size += after->second.size;
            remove(after->first);
        }
        free_.emplace(at, Block{size, resident});
        of_size_[resident].emplace(size, at);
    }

    void remove(uintptr_t at) {
        const auto place = free_.find(at);
        of_size_[place->second.resident].erase({place->second.size, at});
        free_.erase(place);
    }

    OfSize::iterator grow(int64_t size) {
        const int64_t space = round_up(size, chunk), with_room = space + huge_page;
        // Not from malloc: between small blocks that live longer, buffers of changing sizes leave holes.
        void* const memory = ::mmap(nullptr, static_cast<size_t>(with_room), PROT_READ | PROT_WRITE,
                                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) throw std::bad_alloc();
        const auto begin = reinterpret_cast<uintptr_t>(memory);
        const auto at = static_cast<uintptr_t>(round_up(static_cast<int64_t>(begin), huge_page));
        const uintptr_t end = at + static_cast<uintptr_t>(space);
        if (at > begin) ::munmap(memory, at - begin);
        if (const uintptr_t rest = begin + static_cast<uintptr_t>(with_room) - end)
            ::munmap(reinterpret_cast<void*>(end), rest);
        prefer_huge_pages(reinterpret_cast<void*>(at), space);
        insert(at, space, false);
        return of_size_[false].lower_bound({size, 0});
    }

    /// At least `bytes` of the largest free block's memory, or all of it.
    void give_back(int64_t bytes) {
        const auto [size, at] = *of_size_[true].rbegin();
        const int64_t part = std::min(size, round_up(bytes, page));
        const uintptr_t from = at + static_cast<uintptr_t>(size - part);
        ::madvise(reinterpret_cast<void*>(from), static_cast<size_t>(part), MADV_DONTNEED);
        remove(at);
        if (part < size) insert(at, size - part, true);
        insert(from, part, false);
        idle_ -= part;
    }

    const bool keeps_;
    std::mutex mutex_;
    std::map<uintptr_t, Block> free_;  ///< by address
    OfSize of_size_[2];                ///< the same by size, [resident]
    int64_t live_ = 0, idle_ = 0, peak_ = 0, taken_ = 0;
};

// Never destroyed: tensors may outlive every static.
Pool& pool() {
    static Pool* const pool = new Pool(true);
    return *pool;
}
Pool& lasting() {
    static Pool* const pool = new Pool(false);
    return *pool;
}

/// With as much memory as a tensor of `roomy` elements.
at::Tensor from(Pool& pool, at::IntArrayRef sizes, int64_t roomy, const at::TensorOptions& options) {
    const int64_t bytes = roomy * static_cast<int64_t>(options.dtype().itemsize());
    at::Tensor out = at::from_blob(
        pool.take(bytes), sizes, [&pool, bytes](void* buffer) { pool.give(buffer, bytes); }, options);
    out.storage().unsafeGetStorageImpl()->set_nbytes(static_cast<size_t>(bytes));
    return out;
}

/// Worth a pool's while.
bool pooled(int64_t elements, const at::TensorOptions& options) {
    return options.device().is_cpu() &&
           elements * static_cast<int64_t>(options.dtype().itemsize()) >= smallest;
}

}  // namespace

at::Tensor new_buffer(at::IntArrayRef sizes, const at::TensorOptions& options) {
    const bool matrix = sizes.size() == 2 && options.device().is_cpu();
    const int64_t elements = c10::multiply_integers(sizes),
                  roomy = matrix ? padded_rows(sizes[0]) * sizes[1] : elements;
    if (pooled(roomy, options)) return from(pool(), sizes, roomy, options);
    if (roomy == elements) return at::empty(sizes, options);
    // Detached: autograd shall not take it for a view.
    return at::empty({padded_rows(sizes[0]), sizes[1]}, options).narrow(0, 0, sizes[0]).detach();
}

at::Tensor new_buffer_like(const at::Tensor& t) {
    return new_buffer(t.sizes(), t.options());
}

at::Tensor new_zeros(at::IntArrayRef sizes, const at::TensorOptions& options) {
    return new_buffer(sizes, options).zero_();
}

at::Tensor new_lasting(at::IntArrayRef sizes, const at::TensorOptions& options) {
    const int64_t elements = c10::multiply_integers(sizes);
    return pooled(elements, options) ? from(lasting(), sizes, elements, options) : at::empty(sizes, options);
}

BufferUse buffer_use() {
    return pool().use();
}

void release_idle_buffers() {
    pool().release();
}

}  // namespace polyad
