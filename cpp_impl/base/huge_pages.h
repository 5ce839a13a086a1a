// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace polyad {

inline constexpr int64_t huge_page = int64_t{2} << 20;  ///< bytes

/// Asks for such pages under memory that was just allocated and is long and read in order: the processor
/// runs ahead within a page only, and every page costs a fault when it is first written. Where the system
/// knows no such thing nothing happens.
void prefer_huge_pages(void* memory, int64_t bytes);

}  // namespace polyad
