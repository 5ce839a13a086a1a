// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace polyad {

/// Asks for 2 MiB pages under memory that was just allocated and is long and read in order: the processor
/// runs ahead within a page only, and every page costs a fault when it is first written. Where the system
/// knows no such thing nothing happens.
void prefer_huge_pages(void* memory, int64_t bytes);

}  // namespace polyad
