// SPDX-License-Identifier: Apache-2.0
#include "base/huge_pages.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace polyad {

void prefer_huge_pages([[maybe_unused]] void* memory, [[maybe_unused]] int64_t bytes) {
#if defined(__linux__)
    // Rounded outwards, so that neighbours that are each shorter than a page can share one.
    constexpr auto page = static_cast<uintptr_t>(huge_page);
    const uintptr_t begin = reinterpret_cast<uintptr_t>(memory) / page * page;
    const uintptr_t end =
        (reinterpret_cast<uintptr_t>(memory) + static_cast<uintptr_t>(bytes) + page - 1) / page * page;
    if (bytes > 0) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace polyad
