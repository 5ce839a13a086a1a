// SPDX-License-Identifier: Apache-2.0
#include "io/hash.h"

#include <array>
#include <bit>
#include <cstring>

namespace polyad {
namespace {

static_assert(std::endian::native == std::endian::little, "file formats here are little endian");

constexpr uint64_t prime1 = 0x9E3779B185EBCA87, prime2 = 0xC2B2AE3D27D4EB4F, prime3 = 0x165667B19E3779F9;

// Slicing by 8: table[k][b] is the CRC of byte b followed by k zero bytes.
constexpr auto crc_tables = [] {
    std::array<std::array<uint32_t, 256>, 8> table{};
    for (uint32_t i = 0; i < 256; ++i) {
        uint32_t value = i;
        for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ (value & 1 ? 0xEDB88320u : 0);
        table[0][i] = value;
    }
    for (size_t k = 1; k < 8; ++k)
        for (size_t i = 0; i < 256; ++i)
            table[k][i] = (table[k - 1][i] >> 8) ^ table[0][table[k - 1][i] & 255];
    return table;
}();

uint64_t mixed(uint64_t x) {
    x = (x ^ x >> 33) * prime2;
    x = (x ^ x >> 29) * prime3;
    return x ^ x >> 32;
}

}  // namespace

uint32_t crc32(std::span<const std::byte> data) {
    const auto* p = reinterpret_cast<const unsigned char*>(data.data());
    size_t n = data.size();
    uint32_t crc = 0xFFFFFFFFu;
    for (; n >= 8; n -= 8, p += 8) {
        uint32_t a, b;
        std::memcpy(&a, p, 4);
        std::memcpy(&b, p + 4, 4);
        a ^= crc;
        const auto& t = crc_tables;
        crc = t[7][a & 255] ^ t[6][a >> 8 & 255] ^ t[5][a >> 16 & 255] ^ t[4][a >> 24] ^ t[3][b & 255] ^
              t[2][b >> 8 & 255] ^ t[1][b >> 16 & 255] ^ t[0][b >> 24];
    }
    for (; n > 0; --n, ++p) crc = (crc >> 8) ^ crc_tables[0][(crc ^ *p) & 255];
    return ~crc;
}

std::string Hash128::hex() const {
    std::string out;
    for (uint64_t half : {high, low})
        for (int shift = 60; shift >= 0; shift -= 4) out += "0123456789abcdef"[half >> shift & 15];
    return out;
}

Hash128 hash128(std::span<const std::byte> data) {
    std::array<uint64_t, 4> lane = {prime1 + prime2, prime2, 0, 0 - prime1};
    const auto step = [&](const std::byte* block) {
        std::array<uint64_t, 4> word;
        std::memcpy(word.data(), block, sizeof(word));
        for (size_t i = 0; i < 4; ++i) lane[i] = std::rotl(lane[i] + word[i] * prime2, 31) * prime1;
    };
    size_t at = 0;
    for (; at + 32 <= data.size(); at += 32) step(data.data() + at);
    std::array<std::byte, 32> tail{};  // zero-padded; the length below tells it from data that ends in zeros
    if (at < data.size()) std::memcpy(tail.data(), data.data() + at, data.size() - at);
    step(tail.data());
    Hash128 out{data.size() * prime1, ~data.size() * prime2};
    for (size_t i = 0; i < 4; ++i) {
        out.high = mixed(out.high ^ lane[i]) + prime1;
        out.low = mixed(out.low + std::rotl(lane[3 - i], 17)) ^ prime2;
    }
    return {mixed(out.high), mixed(out.low + out.high)};
}

}  // namespace polyad
