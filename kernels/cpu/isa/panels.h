// SPDX-License-Identifier: Apache-2.0
// Frozen weights laid out for multiply_panels: `lanes` neighbouring rows side by side, so that a vector holds
// one place of each row and no sum ever runs across lanes. A format is integer codes plus scales:
//
//     w = scale * (code - offset) [- or + minimum]       in groups of 32 columns
//
// Panel p holds rows [p lanes, (p + 1) lanes), missing ones as zeros: first the codes of all groups, then the
// scales of all groups. What the file stores exactly stays exact; nothing is rounded here.
#pragma once

#include "kernels/cpu/isa/blocks.h"
#include "kernels/cpu/isa/kernels.h"
#include "kernels/cpu/isa/vec.h"

namespace polyad::kernels::POLYAD_ISA {

inline constexpr int group_size = 32;

// ---- integer vectors: a lane is a row and holds two neighbouring columns as 16-bit numbers ----
using vs = int16_t __attribute__((vector_size(lanes * 2)));
inline vi splat_bits(int32_t x) {
    return vi{} + x;
}
inline vu load_words(const uint8_t* p) {
    vu v;
    std::memcpy(&v, p, sizeof v);
    return v;
}
/// sum + a.low b.low + a.high b.high.
inline vi add_products(vi sum, vi a, vi b) {
#if defined(__AVX512VNNI__)
    return (vi)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)a, (__m512i)b);
#elif defined(__AVX512BW__)
    return sum + (vi)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return sum + (vi)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#else
    return sum + ((a << 16) >> 16) * ((b << 16) >> 16) + (a >> 16) * (b >> 16);
#endif
}
/// 2 * lanes signed bytes as 16-bit numbers.
inline vi widen_bytes(const uint8_t* p) {
#if defined(__AVX512BW__)
    return (vi)_mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__AVX2__)
    return (vi)_mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
    int16_t wide[2 * lanes];
    for (int i = 0; i < 2 * lanes; ++i) wide[i] = static_cast<int8_t>(p[i]);
    vi v;
    std::memcpy(&v, wide, sizeof v);
    return v;
#endif
}
inline vf floats_of(vi v) {
    return __builtin_convertvector(v, vf);
}

// ---- codes ----
// pairs(p, f): f(pair, v) for the 16 pairs of columns of the group at p, v signed 16-bit codes; columns 2
// pair and 2 pair + 1. store(p, column, lane, code) is its inverse, on zeroed memory.

/// Four bits a code. Word w of a lane holds columns 8 j + 2 i + w at bits 4 i.
template <int Offset>
struct Nibbles {
    static constexpr int bytes = 16;  ///< of a group and row
    static constexpr int offset = Offset;
    template <class Use>
    __attribute__((always_inline)) static void pairs(const uint8_t* p, Use&& use) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
            const vu v = load_words(p + j * lanes * 4);
#pragma GCC unroll 4
            for (int i = 0; i < 4; ++i) use(4 * j + i, (vi)((v >> (4 * i)) & 0x000f000fu));
        }
    }
    static void store(uint8_t* p, int column, int lane, int code) {
        const int j = column / 8, i = column % 8 / 2, word = column % 2;
        p[(j * lanes + lane) * 4 + word * 2 + i / 2] |= static_cast<uint8_t>(code << (4 * (i % 2)));
    }
};

/// A byte a code, signed.
struct SignedBytes {
    static constexpr int bytes = 32;
    static constexpr int offset = 0;
    template <class Use>
    __attribute__((always_inline)) static void pairs(const uint8_t* p, Use&& use) {
#pragma GCC unroll 16
        for (int pair = 0; pair < 16; ++pair) use(pair, widen_bytes(p + pair * lanes * 2));
    }
    static void store(uint8_t* p, int column, int lane, int code) {
        p[(column / 2 * lanes + lane) * 2 + column % 2] = static_cast<uint8_t>(code);
    }
};

/// Six bits: the lower four as in Nibbles, then the upper two: word w holds columns 16 h + 2 i + w at bits 2
/// i.
struct Sixes {
    static constexpr int bytes = 24;
    static constexpr int offset = 32;
    template <class Use>
    __attribute__((always_inline)) static void pairs(const uint8_t* p, Use&& use) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
            const vu low = load_words(p + j * lanes * 4), high = load_words(p + (4 + j / 2) * lanes * 4);
#pragma GCC unroll 4
            for (int i = 0; i < 4; ++i) {
                const int field = j % 2 * 4 + i;
                const vu upper = field < 2 ? high << (4 - 2 * field) : high >> (2 * field - 4);
                use(4 * j + i, (vi)(((low >> (4 * i)) & 0x000f000fu) | (upper & 0x00300030u)));
            }
        }
    }
    static void store(uint8_t* p, int column, int lane, int code) {
        Nibbles<0>::store(p, column, lane, code & 15);
        const int h = column / 16, i = column % 16 / 2, word = column % 2;
        p[((4 + h) * lanes + lane) * 4 + word * 2 + i / 4] |=
            static_cast<uint8_t>(code >> 4 << (2 * (i % 4)));
    }
};

// ---- scales ----
// get(p, g, part, scale, minimum) of the panel whose scales begin at p: those of columns
// [span part, span (part + 1)) of group g. w = scale * code + minimum.

inline vf half_floats(const uint8_t* p) {
#if defined(__AVX512F__)
    return (vf)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__F16C__)
    return (vf)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
    vf v;
    for (int i = 0; i < lanes; ++i) v[i] = half(p + 2 * i);
    return v;
#endif
}
inline vf unsigned_floats(const uint8_t* p) {
#if defined(__AVX512F__)
    return (vf)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#elif defined(__AVX2__)
    return (vf)_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#else
    vf v;
    for (int i = 0; i < lanes; ++i) v[i] = static_cast<float>(p[i]);
    return v;
#endif
}
inline vf signed_floats(const uint8_t* p) {
#if defined(__AVX512F__)
    return (vf)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#elif defined(__AVX2__)
    return (vf)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#else
    vf v;
    for (int i = 0; i < lanes; ++i) v[i] = static_cast<float>(static_cast<int8_t>(p[i]));
    return v;
#endif
}

/// A half per group.
struct Halves {
    static constexpr int span = 32, block = 32;
    static constexpr int bytes = 2;  ///< of a block and row
    static constexpr bool has_minimum = false;
    __attribute__((always_inline)) static void get(const uint8_t* p, int64_t g, int, vf& scale, vf&) {
        scale = half_floats(p + g * lanes * 2);
    }
};

/// Two halves per group, scale and minimum.
struct HalfPairs {
    static constexpr int span = 32, block = 32;
    static constexpr int bytes = 4;
    static constexpr bool has_minimum = true;
    __attribute__((always_inline)) static void get(const uint8_t* p, int64_t g, int, vf& scale, vf& minimum) {
        scale = half_floats(p + g * lanes * 4);
        minimum = half_floats(p + g * lanes * 4 + lanes * 2);
    }
};

/// Of 256 columns: a half, and a signed byte per 16 that multiplies it.
struct SignedSteps {
    static constexpr int span = 16, block = 256;
    static constexpr int bytes = 2 + 16;
    static constexpr bool has_minimum = false;
    __attribute__((always_inline)) static void get(const uint8_t* p, int64_t g, int part, vf& scale, vf&) {
        p += g / 8 * lanes * bytes;
        scale = half_floats(p) * signed_floats(p + lanes * 2 + (g % 8 * 2 + part) * lanes);
    }
};

/// Of 256 columns: two halves, and two bytes per `Span` that multiply them: scale and minimum.
template <int Span>
struct StepPairs {
    static constexpr int span = Span, block = 256;
    static constexpr int bytes = 4 + 2 * block / Span;
    static constexpr bool has_minimum = true;
    __attribute__((always_inline)) static void get(const uint8_t* p, int64_t g, int part, vf& scale,
                                                   vf& minimum) {
        p += g / 8 * lanes * bytes;
        const uint8_t* steps = p + lanes * 4 + (g % 8 * (32 / Span) + part) * lanes * 2;
        scale = half_floats(p) * unsigned_floats(steps);
        minimum = -(half_floats(p + lanes * 2) * unsigned_floats(steps + lanes));
    }
};

/// Bytes of one panel.
template <class Codes, class Scales>
inline int64_t panel_size(int64_t columns) {
    return round_up(
        columns / group_size * Codes::bytes * lanes + columns / Scales::block * Scales::bytes * lanes, 64);
}

/// Calls use.template operator()<Codes, Scales>() for the way `quant` is laid out; false when it is not: such
/// matrices are multiplied dense.
template <class Use>
inline bool with_layout(Quant quant, Use&& use) {
    switch (quant) {
        case Quant::q4_0:
            use.template operator()<Nibbles<8>, Halves>();
            return true;
        case Quant::q4_1:
            use.template operator()<Nibbles<0>, HalfPairs>();
            return true;
        case Quant::q4_k:
            use.template operator()<Nibbles<0>, StepPairs<32>>();
            return true;
        case Quant::q6_k:
            use.template operator()<Sixes, SignedSteps>();
            return true;
        case Quant::q8_0:
        case Quant::q5_0:
        case Quant::iq4_nl:
            use.template operator()<SignedBytes, Halves>();
            return true;
        case Quant::q5_1:
            use.template operator()<SignedBytes, HalfPairs>();
            return true;
        case Quant::q5_k:
            use.template operator()<SignedBytes, StepPairs<32>>();
            return true;
        case Quant::q2_k:
            use.template operator()<SignedBytes, StepPairs<16>>();
            return true;
        case Quant::q3_k:
        case Quant::iq4_xs:
            use.template operator()<SignedBytes, SignedSteps>();
            return true;
        case Quant::f32:
        case Quant::f16:
        case Quant::bf16:
            return false;
    }
    return false;
}

}  // namespace polyad::kernels::POLYAD_ISA
