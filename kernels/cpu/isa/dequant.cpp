// SPDX-License-Identifier: Apache-2.0
// Expands ggml's block formats. Each value is rounded at most once in the order ggml's reference routines use
// (scale times integer, then add or subtract), so all instruction sets give the same bits; contraction into
// fused multiply-add is switched off because the products here are exact for some formats only.
#include <algorithm>
#include <cstring>

#include "kernels/cpu/isa/blocks.h"
#include "kernels/cpu/isa/kernels.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("fp-contract=off")
#elif defined(__clang__)
#pragma clang fp contract(off)
#endif

namespace polyad::kernels::POLYAD_ISA {
namespace {

struct F32 {
    static constexpr int elements = 1, bytes = 4;
    static void expand(const uint8_t* p, float* y) { std::memcpy(y, p, 4); }
};
struct F16 {
    static constexpr int elements = 1, bytes = 2;
    static void expand(const uint8_t* p, float* y) { *y = half(p); }
};
struct Bf16 {
    static constexpr int elements = 1, bytes = 2;
    static void expand(const uint8_t* p, float* y) { *y = upper(p); }
};

struct Q8_0 {
    static constexpr int elements = 32, bytes = 34;
    static void expand(const uint8_t* p, float* y) {
        const float d = half(p);
        for (int i = 0; i < 32; ++i) y[i] = d * static_cast<float>(static_cast<int8_t>(p[2 + i]));
    }
};

struct Q4_0 {
    static constexpr int elements = 32, bytes = 18;
    static void expand(const uint8_t* p, float* y) {
        const float d = half(p);
        for (int i = 0; i < 16; ++i) {
            y[i] = d * static_cast<float>((p[2 + i] & 15) - 8);
            y[i + 16] = d * static_cast<float>((p[2 + i] >> 4) - 8);
        }
    }
};

struct Q4_1 {
    static constexpr int elements = 32, bytes = 20;
    static void expand(const uint8_t* p, float* y) {
        const float d = half(p), m = half(p + 2);
        for (int i = 0; i < 16; ++i) {
            y[i] = d * static_cast<float>(p[4 + i] & 15) + m;
            y[i + 16] = d * static_cast<float>(p[4 + i] >> 4) + m;
        }
    }
};

struct Q5_0 {
    static constexpr int elements = 32, bytes = 22;
    static void expand(const uint8_t* p, float* y) {
        const float d = half(p);
        const uint32_t high = word(p + 2);
        for (int i = 0; i < 16; ++i) {
            const int low_bit = static_cast<int>(high >> i & 1),
                      high_bit = static_cast<int>(high >> (i + 16) & 1);
            y[i] = d * static_cast<float>(((p[6 + i] & 15) | low_bit << 4) - 16);
            y[i + 16] = d * static_cast<float>(((p[6 + i] >> 4) | high_bit << 4) - 16);
        }
    }
};

struct Q5_1 {
    static constexpr int elements = 32, bytes = 24;
    static void expand(const uint8_t* p, float* y) {
        const float d = half(p), m = half(p + 2);
        const uint32_t high = word(p + 4);
        for (int i = 0; i < 16; ++i) {
            const int low_bit = static_cast<int>(high >> i & 1),
                      high_bit = static_cast<int>(high >> (i + 16) & 1);
            y[i] = d * static_cast<float>((p[8 + i] & 15) | low_bit << 4) + m;
            y[i + 16] = d * static_cast<float>((p[8 + i] >> 4) | high_bit << 4) + m;
        }
    }
};

// scales[16] (4 bits scale, 4 bits minimum), qs[64], d, dmin.
struct Q2K {
    static constexpr int elements = 256, bytes = 84;
    static void expand(const uint8_t* p, float* y) {
        const uint8_t* scales = p;
        const float d = half(p + 80), dmin = half(p + 82);
        for (int part = 0; part < 2; ++part) {
            const uint8_t* q = p + 16 + 32 * part;
            for (int shift = 0; shift < 8; shift += 2)
                for (int side = 0; side < 2; ++side) {
                    const uint8_t s = *scales++;
                    const float scale = d * static_cast<float>(s & 15),
                                minimum = dmin * static_cast<float>(s >> 4);
                    for (int i = 0; i < 16; ++i)
                        *y++ = scale * static_cast<float>(q[16 * side + i] >> shift & 3) - minimum;
                }
        }
    }
};

// hmask[32], qs[64], scales[12] (16 x 6 bits), d.
struct Q3K {
    static constexpr int elements = 256, bytes = 110;
    static void expand(const uint8_t* p, float* y) {
        const uint8_t* packed = p + 96;
        const float d = half(p + 108);
        int scales[16];
        for (int i = 0; i < 16; ++i) {
            const int low = i < 8 ? packed[i] & 15 : packed[i - 8] >> 4;
            const int high = packed[8 + i % 4] >> (2 * (i / 4)) & 3;
            scales[i] = (low | high << 4) - 32;
        }
        int next = 0;
        for (int part = 0; part < 2; ++part) {
            const uint8_t* q = p + 32 + 32 * part;
            for (int step = 0; step < 4; ++step)
                for (int side = 0; side < 2; ++side) {
                    const float scale = d * static_cast<float>(scales[next++]);
                    for (int i = 0; i < 16; ++i) {
                        const int at = 16 * side + i;
                        const int low = q[at] >> (2 * step) & 3;
                        const int high = p[at] >> (4 * part + step) & 1;
                        *y++ = scale * static_cast<float>(low - (high ? 0 : 4));
                    }
                }
        }
    }
};

// d, dmin, scales[12], qs[128].
struct Q4K {
    static constexpr int elements = 256, bytes = 144;
    static void expand(const uint8_t* p, float* y) {
        const float d = half(p), dmin = half(p + 2);
        for (int pair = 0; pair < 4; ++pair) {
            const uint8_t* q = p + 16 + 32 * pair;
            for (int side = 0; side < 2; ++side) {
                int s, m;
                scale_min(2 * pair + side, p + 4, s, m);
                const float scale = d * static_cast<float>(s), minimum = dmin * static_cast<float>(m);
                for (int i = 0; i < 32; ++i)
                    *y++ = scale * static_cast<float>(q[i] >> (4 * side) & 15) - minimum;
            }
        }
    }
};

// d, dmin, scales[12], qh[32], qs[128].
struct Q5K {
    static constexpr int elements = 256, bytes = 176;
    static void expand(const uint8_t* p, float* y) {
        const float d = half(p), dmin = half(p + 2);
        for (int pair = 0; pair < 4; ++pair) {
            const uint8_t* q = p + 48 + 32 * pair;
            for (int side = 0; side < 2; ++side) {
                int s, m;
                scale_min(2 * pair + side, p + 4, s, m);
                const float scale = d * static_cast<float>(s), minimum = dmin * static_cast<float>(m);
                for (int i = 0; i < 32; ++i) {
                    const int value = (q[i] >> (4 * side) & 15) | (p[16 + i] >> (2 * pair + side) & 1) << 4;
                    *y++ = scale * static_cast<float>(value) - minimum;
                }
            }
        }
    }
};

// ql[128], qh[64], scales[16], d.
struct Q6K {
    static constexpr int elements = 256, bytes = 210;
    static void expand(const uint8_t* p, float* y) {
        const float d = half(p + 208);
        for (int part = 0; part < 2; ++part) {
            const uint8_t* low = p + 64 * part;
            const uint8_t* high = p + 128 + 32 * part;
            const uint8_t* scales = p + 192 + 8 * part;
            for (int quarter = 0; quarter < 4; ++quarter)
                for (int i = 0; i < 32; ++i) {
                    const int four = low[i + 32 * (quarter & 1)] >> (4 * (quarter >> 1)) & 15;
                    const int value = (four | (high[i] >> (2 * quarter) & 3) << 4) - 32;
                    const float scale =
                        d * static_cast<float>(static_cast<int8_t>(scales[i / 16 + 2 * quarter]));
                    *y++ = scale * static_cast<float>(value);
                }
        }
    }
};

struct Iq4Nl {
    static constexpr int elements = 32, bytes = 18;
    static void expand(const uint8_t* p, float* y) {
        const float d = half(p);
        for (int i = 0; i < 16; ++i) {
            y[i] = d * static_cast<float>(iq4_values[p[2 + i] & 15]);
            y[i + 16] = d * static_cast<float>(iq4_values[p[2 + i] >> 4]);
        }
    }
};

// d, scales_h (8 x 2 bits), scales_l[4] (8 x 4 bits), qs[128].
struct Iq4Xs {
    static constexpr int elements = 256, bytes = 136;
    static void expand(const uint8_t* p, float* y) {
        const float d = half(p);
        const int high = p[2] | p[3] << 8;
        for (int group = 0; group < 8; ++group) {
            const int scale = (p[4 + group / 2] >> (4 * (group % 2)) & 15) | (high >> (2 * group) & 3) << 4;
            const float dl = d * static_cast<float>(scale - 32);
            const uint8_t* q = p + 8 + 16 * group;
            for (int i = 0; i < 16; ++i) {
                y[i] = dl * static_cast<float>(iq4_values[q[i] & 15]);
                y[i + 16] = dl * static_cast<float>(iq4_values[q[i] >> 4]);
            }
            y += 32;
        }
    }
};

/// Round to nearest even; NaN stays NaN.
inline uint16_t rounded(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40);
    return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

constexpr int64_t chunk = 4096;             // elements a thread takes at a time: a multiple of every block
constexpr int64_t parallel_from = 1 << 16;  // below this one thread is faster than waking others

template <class Block>
void run(const uint8_t* src, float* dst, int64_t n) {
    const int64_t chunks = (n + chunk - 1) / chunk;
#pragma omp parallel for schedule(static) if (n >= parallel_from)
    for (int64_t c = 0; c < chunks; ++c) {
        const int64_t begin = c * chunk, end = std::min(n, begin + chunk);
        const uint8_t* p = src + begin / Block::elements * Block::bytes;
        for (int64_t i = begin; i < end; i += Block::elements, p += Block::bytes) Block::expand(p, dst + i);
    }
}

template <class Block>
void run(const uint8_t* src, uint16_t* dst, int64_t n) {
    const int64_t chunks = (n + chunk - 1) / chunk;
#pragma omp parallel for schedule(static) if (n >= parallel_from)
    for (int64_t c = 0; c < chunks; ++c) {
        const int64_t begin = c * chunk, end = std::min(n, begin + chunk);
        const uint8_t* p = src + begin / Block::elements * Block::bytes;
        float block[Block::elements];
        for (int64_t i = begin; i < end; i += Block::elements, p += Block::bytes) {
            Block::expand(p, block);
            for (int k = 0; k < Block::elements; ++k) dst[i + k] = rounded(block[k]);
        }
    }
}

template <class Out>
void dispatch(Quant type, const void* source, Out* dst, int64_t n) {
    const auto* src = static_cast<const uint8_t*>(source);
    switch (type) {
        case Quant::f32:
            return run<F32>(src, dst, n);
        case Quant::f16:
            return run<F16>(src, dst, n);
        case Quant::bf16:
            return run<Bf16>(src, dst, n);
        case Quant::q8_0:
            return run<Q8_0>(src, dst, n);
        case Quant::q4_0:
            return run<Q4_0>(src, dst, n);
        case Quant::q4_1:
            return run<Q4_1>(src, dst, n);
        case Quant::q5_0:
            return run<Q5_0>(src, dst, n);
        case Quant::q5_1:
            return run<Q5_1>(src, dst, n);
        case Quant::q2_k:
            return run<Q2K>(src, dst, n);
        case Quant::q3_k:
            return run<Q3K>(src, dst, n);
        case Quant::q4_k:
            return run<Q4K>(src, dst, n);
        case Quant::q5_k:
            return run<Q5K>(src, dst, n);
        case Quant::q6_k:
            return run<Q6K>(src, dst, n);
        case Quant::iq4_nl:
            return run<Iq4Nl>(src, dst, n);
        case Quant::iq4_xs:
            return run<Iq4Xs>(src, dst, n);
    }
}

}  // namespace

void dequantise(Quant type, const void* src, float* dst, int64_t n) {
    dispatch(type, src, dst, n);
}

void dequantise_bf16(Quant type, const void* src, uint16_t* dst, int64_t n) {
    dispatch(type, src, dst, n);
}

}  // namespace polyad::kernels::POLYAD_ISA
