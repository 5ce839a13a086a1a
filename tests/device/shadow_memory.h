// SPDX-License-Identifier: Apache-2.0
// The shadow device's memory: host memory whose addresses carry a mark, with a book of what is in use.
#pragma once

#include <c10/core/Allocator.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace polyad {

/// Where an address of the device lies on the host; null stays null. Fails for an address of host memory and,
/// while a recording plays, for one that was given back since it was recorded.
void* shadow_host(const void* address);
/// The same for an address the device itself has read: it may be younger than the recording, but has to be in
/// use.
void* shadow_host_read(const void* address);

c10::Allocator* shadow_allocator();
c10::DataPtr shadow_allocate(size_t bytes);
/// Most bytes in use at a time; 0 = no limit. Beyond, LibTorch's OutOfMemoryError.
void set_shadow_memory(size_t bytes);
/// Bytes in use.
size_t shadow_memory_used();

/// Blocks that were made while it was there stay in use until it is gone.
class ShadowPool {
  public:
    ShadowPool();
    ~ShadowPool();
    ShadowPool(const ShadowPool&) = delete;
    ShadowPool& operator=(const ShadowPool&) = delete;
    /// No more of them; what they hold is spoiled, as if nothing had been computed.
    void close();
    /// Younger blocks have higher numbers.
    uint64_t last() const { return last_; }

  private:
    friend c10::DataPtr shadow_allocate(size_t bytes);
    std::vector<void*> blocks_;
    uint64_t last_ = 0;
};

/// While one lives, shadow_host() takes only blocks up to this number.
class ShadowAge {
  public:
    explicit ShadowAge(uint64_t last);
    ~ShadowAge();
    ShadowAge(const ShadowAge&) = delete;
    ShadowAge& operator=(const ShadowAge&) = delete;
};

}  // namespace polyad
