// SPDX-License-Identifier: Apache-2.0
// ggml's block formats eight weights at a time, for host and device: what a thread of the CUDA kernels
// expands. Every value is rounded as kernels/cpu/isa/dequant.cpp rounds it (scale times integer, then add or
// subtract), so both give the same bits.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/quant_format.h"

namespace polyad::kernels::cuda {

// Never contracted into a fused multiply-add.
POLYAD_SHARED_CODE float product(float a, float b) {
#if defined(__CUDA_ARCH__)
    return __fmul_rn(a, b);
#else
    return a * b;
#endif
}
POLYAD_SHARED_CODE float total(float a, float b) {
#if defined(__CUDA_ARCH__)
    return __fadd_rn(a, b);
#else
    return a + b;
#endif
}

POLYAD_SHARED_CODE float from_word(uint32_t bits) {
#if defined(__CUDA_ARCH__)
    return __uint_as_float(bits);
#else
    float f;
    std::memcpy(&f, &bits, 4);
    return f;
#endif
}

// Blocks and all their fields lie at even addresses, so two bytes come in one load.
POLYAD_SHARED_CODE uint32_t pair_at(const uint8_t* p) {
#if defined(__CUDA_ARCH__)
    return *reinterpret_cast<const uint16_t*>(p);
#else
    return static_cast<uint32_t>(p[0]) | static_cast<uint32_t>(p[1]) << 8;
#endif
}
POLYAD_SHARED_CODE uint32_t word_at(const uint8_t* p) {
    return pair_at(p) | pair_at(p + 2) << 16;
}
/// Eight bytes.
struct Eight {
    uint8_t byte[8];
};
POLYAD_SHARED_CODE Eight eight_at(const uint8_t* p) {
    Eight out;
    for (int i = 0; i < 4; ++i) {
        const uint32_t two = pair_at(p + 2 * i);
        out.byte[2 * i] = static_cast<uint8_t>(two & 255);
        out.byte[2 * i + 1] = static_cast<uint8_t>(two >> 8);
    }
    return out;
}

/// IEEE half to float, exact.
POLYAD_SHARED_CODE float half_at(const uint8_t* p) {
    const uint32_t h = pair_at(p);
#if defined(__CUDA_ARCH__)
    float out;
    asm("cvt.f32.f16 %0, %1;" : "=f"(out) : "h"(static_cast<uint16_t>(h)));
    return out;
#else
    const uint32_t sign = (h & 0x8000u) << 16, exponent = (h >> 10) & 31, mantissa = h & 0x3ff;
    if (exponent == 31) return from_word(sign | 0x7f800000u | mantissa << 13 | (mantissa ? 0x400000u : 0u));
    if (exponent != 0) return from_word(sign | (exponent + 112) << 23 | mantissa << 13);
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return sign ? -magnitude : magnitude;
#endif
}
POLYAD_SHARED_CODE float upper_at(const uint8_t* p) {
    return from_word(pair_at(p) << 16);
}
POLYAD_SHARED_CODE float as_float(int x) {
    return static_cast<float>(x);
}

/// The non-linear 4-bit code book of the IQ4 formats, its 16 signed bytes as two words each of eight.
POLYAD_SHARED_CODE int iq4_value(int code) {
    // -127 -104 -83 -65 -49 -35 -22 -10 | 1 13 25 38 53 69 89 113, lowest code in the lowest byte.
    const uint64_t low = 0xf6eaddcfbfad9881u, high = 0x7159453526190d01u;
    return static_cast<int8_t>((code < 8 ? low : high) >> (8 * (code & 7)) & 0xff);
}

POLYAD_SHARED_CODE bool is_plain(Quant quant) {
    return quant == Quant::f32 || quant == Quant::f16 || quant == Quant::bf16;
}

/// Plain types count eight values as a block: what one thread expands. {0, 0} for a number that is no type.
POLYAD_SHARED_CODE BlockSize block_shape(Quant quant) {
    const BlockSize size = block_of(quant);
    if (size.bytes == 0) return {0, 0};
    return is_plain(quant) ? BlockSize{8 * size.elements, 8 * size.bytes} : size;
}
/// Value i of a plain type.
POLYAD_SHARED_CODE float plain_value(Quant quant, const uint8_t* p, int64_t i) {
    if (quant == Quant::f32) return from_word(word_at(p + 4 * i));
    return quant == Quant::f16 ? half_at(p + 2 * i) : upper_at(p + 2 * i);
}

/// w = values [8 j, 8 j + 8) of the block at p.
POLYAD_SHARED_CODE void expand_eight(Quant quant, const uint8_t* p, int j, float* w) {
    switch (quant) {
        case Quant::f32:
        case Quant::f16:
        case Quant::bf16:
            for (int i = 0; i < 8; ++i) w[i] = plain_value(quant, p, i);
            return;
        case Quant::q8_0: {
            const float d = half_at(p);
            const Eight q = eight_at(p + 2 + 8 * j);
            for (int i = 0; i < 8; ++i) w[i] = product(d, as_float(static_cast<int8_t>(q.byte[i])));
            return;
        }
        case Quant::q4_0: {
            const float d = half_at(p);
            const Eight q = eight_at(p + 2 + j % 2 * 8);
            for (int i = 0; i < 8; ++i) w[i] = product(d, as_float((q.byte[i] >> (j / 2 * 4) & 15) - 8));
            return;
        }
        case Quant::q4_1: {
            const float d = half_at(p), m = half_at(p + 2);
            const Eight q = eight_at(p + 4 + j % 2 * 8);
            for (int i = 0; i < 8; ++i) w[i] = total(product(d, as_float(q.byte[i] >> (j / 2 * 4) & 15)), m);
            return;
        }
        case Quant::q5_0: {
            const float d = half_at(p);
            const uint32_t high = word_at(p + 2) >> (8 * j);
            const Eight q = eight_at(p + 6 + j % 2 * 8);
            for (int i = 0; i < 8; ++i) {
                const int four = q.byte[i] >> (j / 2 * 4) & 15;
                w[i] = product(d, as_float((four | static_cast<int>(high >> i & 1) << 4) - 16));
            }
            return;
        }
        case Quant::q5_1: {
            const float d = half_at(p), m = half_at(p + 2);
            const uint32_t high = word_at(p + 4) >> (8 * j);
            const Eight q = eight_at(p + 8 + j % 2 * 8);
            for (int i = 0; i < 8; ++i) {
                const int four = q.byte[i] >> (j / 2 * 4) & 15;
                w[i] = total(product(d, as_float(four | static_cast<int>(high >> i & 1) << 4)), m);
            }
            return;
        }
        case Quant::q2_k: {  // scales[16], qs[64], d, dmin: 16 values share a scale
            const int part = j / 16, shift = j % 16 / 4 * 2, at = j % 4 * 8;
            const uint8_t s = p[j / 2];
            const float scale = product(half_at(p + 80), as_float(s & 15)),
                        minimum = product(half_at(p + 82), as_float(s >> 4));
            const Eight q = eight_at(p + 16 + 32 * part + at);
            for (int i = 0; i < 8; ++i)
                w[i] = total(product(scale, as_float(q.byte[i] >> shift & 3)), -minimum);
            return;
        }
        case Quant::q3_k: {  // hmask[32], qs[64], scales[12], d
            const int part = j / 16, step = j % 16 / 4, at = j % 4 * 8, number = j / 2;
            const uint8_t* packed = p + 96;
            const int low_scale = number < 8 ? packed[number] & 15 : packed[number - 8] >> 4;
            const int high_scale = packed[8 + number % 4] >> (2 * (number / 4)) & 3;
            const float scale = product(half_at(p + 108), as_float((low_scale | high_scale << 4) - 32));
            const Eight q = eight_at(p + 32 + 32 * part + at), mask = eight_at(p + at);
            for (int i = 0; i < 8; ++i) {
                const int low = q.byte[i] >> (2 * step) & 3;
                const int high = mask.byte[i] >> (4 * part + step) & 1;
                w[i] = product(scale, as_float(low - (high ? 0 : 4)));
            }
            return;
        }
        case Quant::q4_k: {  // d, dmin, scales[12], qs[128]
            const int number = j / 4;
            int s, m;
            scale_min(number, p + 4, s, m);
            const float scale = product(half_at(p), as_float(s)),
                        minimum = product(half_at(p + 2), as_float(m));
            const Eight q = eight_at(p + 16 + 32 * (number / 2) + j % 4 * 8);
            for (int i = 0; i < 8; ++i)
                w[i] = total(product(scale, as_float(q.byte[i] >> (4 * (number % 2)) & 15)), -minimum);
            return;
        }
        case Quant::q5_k: {  // d, dmin, scales[12], qh[32], qs[128]
            const int number = j / 4, at = j % 4 * 8;
            int s, m;
            scale_min(number, p + 4, s, m);
            const float scale = product(half_at(p), as_float(s)),
                        minimum = product(half_at(p + 2), as_float(m));
            const Eight q = eight_at(p + 48 + 32 * (number / 2) + at), upper = eight_at(p + 16 + at);
            for (int i = 0; i < 8; ++i) {
                const int four = q.byte[i] >> (4 * (number % 2)) & 15;
                const int high = upper.byte[i] >> number & 1;
                w[i] = total(product(scale, as_float(four | high << 4)), -minimum);
            }
            return;
        }
        case Quant::q6_k: {  // ql[128], qh[64], scales[16], d
            const int part = j / 16, quarter = j % 16 / 4, at = j % 4 * 8;
            const float scale = product(
                half_at(p + 208), as_float(static_cast<int8_t>(p[192 + 8 * part + at / 16 + 2 * quarter])));
            const Eight q = eight_at(p + 64 * part + at + 32 * (quarter & 1)),
                        upper = eight_at(p + 128 + 32 * part + at);
            for (int i = 0; i < 8; ++i) {
                const int four = q.byte[i] >> (4 * (quarter >> 1)) & 15;
                const int two = upper.byte[i] >> (2 * quarter) & 3;
                w[i] = product(scale, as_float((four | two << 4) - 32));
            }
            return;
        }
        case Quant::iq4_nl: {
            const float d = half_at(p);
            const Eight q = eight_at(p + 2 + j % 2 * 8);
            for (int i = 0; i < 8; ++i) w[i] = product(d, as_float(iq4_value(q.byte[i] >> (j / 2 * 4) & 15)));
            return;
        }
        case Quant::iq4_xs: {  // d, scales_h, scales_l[4], qs[128]
            const int group = j / 4, part = j % 4;
            const int high = p[2] | p[3] << 8;
            const int scale = (p[4 + group / 2] >> (4 * (group % 2)) & 15) | (high >> (2 * group) & 3) << 4;
            const float dl = product(half_at(p), as_float(scale - 32));
            const Eight q = eight_at(p + 8 + 16 * group + part % 2 * 8);
            for (int i = 0; i < 8; ++i)
                w[i] = product(dl, as_float(iq4_value(q.byte[i] >> (part / 2 * 4) & 15)));
            return;
        }
    }
}

}  // namespace polyad::kernels::cuda
