// SPDX-License-Identifier: Apache-2.0
// Checksums of stored bytes. crc32 is zlib's, so any language can verify a bundle; hash128 is the fast
// non-cryptographic hash behind the backbone fingerprint (docs/bundle.md writes it out).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace polyad {

/// CRC-32 (IEEE 802.3, reflected), as zlib.crc32.
uint32_t crc32(std::span<const std::byte> data);

struct Hash128 {
    uint64_t high = 0, low = 0;
    std::string hex() const;  ///< 32 lower-case digits
};
Hash128 hash128(std::span<const std::byte> data);

}  // namespace polyad
