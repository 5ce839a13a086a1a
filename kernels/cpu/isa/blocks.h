// SPDX-License-Identifier: Apache-2.0
// What ggml's block formats share: small numbers and their packing.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/quant_format.h"

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace polyad::kernels::POLYAD_ISA {

/// IEEE half to float, exact for every input including subnormals; NaN payloads keep their upper bits.
inline float half(const uint8_t* p) {
    const uint32_t h = static_cast<uint32_t>(p[0]) | static_cast<uint32_t>(p[1]) << 8;
#if defined(__F16C__)
    return _cvtsh_ss(static_cast<uint16_t>(h));
#else
    const uint32_t sign = (h & 0x8000u) << 16, exponent = (h >> 10) & 31, mantissa = h & 0x3ff;
    uint32_t bits;
    if (exponent == 31) {
        bits = sign | 0x7f800000u | mantissa << 13;
    } else if (exponent != 0) {
        bits = sign | (exponent + 112) << 23 | mantissa << 13;
    } else {
        const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
        std::memcpy(&bits, &magnitude, 4);
        bits |= sign;
    }
    float out;
    std::memcpy(&out, &bits, 4);
    return out;
#endif
}

inline float upper(const uint8_t* p) {
    const uint32_t bits = (static_cast<uint32_t>(p[0]) | static_cast<uint32_t>(p[1]) << 8) << 16;
    float out;
    std::memcpy(&out, &bits, 4);
    return out;
}

inline uint32_t word(const uint8_t* p) {
    uint32_t out;
    std::memcpy(&out, p, 4);
    return out;
}

// Non-linear 4-bit code book of the IQ4 formats.
inline constexpr int8_t iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                          1,    13,   25,  38,  53,  69,  89,  113};

}  // namespace polyad::kernels::POLYAD_ISA
