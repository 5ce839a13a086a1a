// SPDX-License-Identifier: Apache-2.0
// Pages of mapped files that were read once.
#pragma once

#include <cstddef>
#include <span>

#include "base/bytes.h"

namespace polyad {

/// Tells the system that `part` of a mapped file is not read again soon: its pages need not stay in this
/// process's memory, and reading them fetches them again. Nothing happens to bytes that are no mapped file.
/// Any thread, also while others read them.
void release_pages(const Bytes& file, std::span<const std::byte> part);

}  // namespace polyad
