// SPDX-License-Identifier: Apache-2.0
#include "device/shadow_memory.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <new>

#include "base/error.h"

namespace polyad {
namespace {

constexpr uintptr_t mark = uintptr_t{1} << 62;  // no address of a program has this bit: using one faults

struct Block {
    size_t bytes;
    uint64_t number;
    int users;
};

/// Never destroyed: tensors in static storage are given back late.
struct Book {
    std::mutex mutex;
    std::map<uintptr_t, Block> blocks;  ///< by host address
    uint64_t last = 0;
    size_t used = 0, limit = 0;
};
Book& book() {
    static auto& one = *new Book;
    return one;
}

thread_local ShadowPool* pool = nullptr;
thread_local uint64_t youngest_allowed = 0;  ///< number of the youngest block allowed; 0 = all

void leave(void* host) {
    Book& b = book();
    const std::lock_guard lock(b.mutex);
    const auto at = b.blocks.find(reinterpret_cast<uintptr_t>(host));
    if (--at->second.users > 0) return;
    b.used -= at->second.bytes;
    b.blocks.erase(at);
    std::free(host);
}

c10::Device device() {
    return {c10::DeviceType::PrivateUse1, 0};
}

uintptr_t unmarked(const void* address) {
    const auto value = reinterpret_cast<uintptr_t>(address);
    if (!(value & mark)) fail(Code::internal, "a kernel of the device got an address of host memory");
    return value & ~mark;
}

/// The number of the block an address lies in, 0 = none.
uint64_t number_of(uintptr_t host) {
    Book& b = book();
    const std::lock_guard lock(b.mutex);
    auto at = b.blocks.upper_bound(host);
    if (at == b.blocks.begin()) return 0;
    --at;
    return host < at->first + at->second.bytes ? at->second.number : 0;
}

/// Only storages see the mark: every address of a tensor on the device derives from its storage's.
class MarkedAllocator final : public c10::Allocator {
  public:
    c10::DataPtr allocate(size_t n) override { return shadow_allocate(n); }
    void copy_data(void* to, const void* from, size_t n) const override {
        std::memcpy(shadow_host(to), shadow_host(from), n);
    }
};
MarkedAllocator allocator;

}  // namespace

c10::Allocator* shadow_allocator() {
    return &allocator;
}

c10::DataPtr shadow_allocate(size_t n) {
    if (n == 0) return {nullptr, device()};
    Book& b = book();
    const std::lock_guard lock(b.mutex);
    TORCH_CHECK_WITH(OutOfMemoryError, b.limit == 0 || b.used + n <= b.limit,
                     "shadow out of memory. Tried to allocate ", n, " bytes. The device has ", b.limit,
                     " bytes of which ", b.limit - std::min(b.limit, b.used), " bytes are free.");
    void* host = std::aligned_alloc(64, (n + 63) / 64 * 64);
    if (!host) throw std::bad_alloc();
    // What nobody has written yet must not look like a result.
    std::memset(host, 0xFF, n);
    b.blocks[reinterpret_cast<uintptr_t>(host)] = {n, ++b.last, pool ? 2 : 1};
    b.used += n;
    if (pool) pool->blocks_.push_back(host);
    return {reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(host) | mark), host, &leave, device()};
}

void set_shadow_memory(size_t bytes) {
    Book& b = book();
    const std::lock_guard lock(b.mutex);
    b.limit = bytes;
}

size_t shadow_memory_used() {
    Book& b = book();
    const std::lock_guard lock(b.mutex);
    return b.used;
}

ShadowPool::ShadowPool() {
    POLYAD_CHECK(!pool);
    pool = this;
}

ShadowPool::~ShadowPool() {
    if (pool == this) pool = nullptr;
    for (void* host : blocks_) leave(host);
}

void ShadowPool::close() {
    pool = nullptr;
    Book& b = book();
    const std::lock_guard lock(b.mutex);
    for (void* host : blocks_) std::memset(host, 0xFF, b.blocks.at(reinterpret_cast<uintptr_t>(host)).bytes);
    last_ = b.last;
}

ShadowAge::ShadowAge(uint64_t last) {
    POLYAD_CHECK(youngest_allowed == 0);
    youngest_allowed = last;
}

ShadowAge::~ShadowAge() {
    youngest_allowed = 0;
}

void* shadow_host(const void* address) {
    if (!address) return nullptr;
    const uintptr_t host = unmarked(address);
    if (youngest_allowed > 0) {
        const uint64_t number = number_of(host);
        if (number == 0 || number > youngest_allowed)
            fail(Code::internal, "a recording uses memory that was given back since it was made");
    }
    return reinterpret_cast<void*>(host);
}

void* shadow_host_read(const void* address) {
    if (!address) return nullptr;
    const uintptr_t host = unmarked(address);
    if (number_of(host) == 0)
        fail(Code::internal, "a kernel read an address of device memory that is not in use");
    return reinterpret_cast<void*>(host);
}

}  // namespace polyad
