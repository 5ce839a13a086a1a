// SPDX-License-Identifier: Apache-2.0
// x W^T for a few tokens, straight from ggml's blocks. Decoding waits for memory: four bits a weight come
// three times faster than sixteen. Groups of 32 weights are expanded in registers to exactly the values
// dequantise() gives and used for all tokens at once; a lane's sum runs over the columns in order.
#include "kernels/cpu/isa/blocks.h"
#include "kernels/cpu/isa/kernels.h"
#include "kernels/cpu/isa/vec.h"

namespace polyad::kernels::POLYAD_ISA {
namespace {

constexpr int group_size = 32;
constexpr int vectors = group_size / lanes;  ///< of one group
constexpr int most_tokens = 8;               ///< beyond, another pass over the weights

using Bytes = uint8_t __attribute__((vector_size(16)));

inline Bytes load_bytes(const uint8_t* p) {
    Bytes b;
    std::memcpy(&b, p, sizeof b);
    return b;
}

/// `lanes` of the 16 bytes, from `at` on, as floats.
inline vf unsigned_floats(Bytes b, int at) {
#if defined(__AVX512F__)
    (void)at;
    return (vf)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32((__m128i)b));
#elif defined(__AVX2__)
    const __m128i part = at ? _mm_unpackhi_epi64((__m128i)b, (__m128i)b) : (__m128i)b;
    return (vf)_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(part));
#else
    vf v;
    for (int i = 0; i < lanes; ++i) v[i] = static_cast<float>(b[at + i]);
    return v;
#endif
}
inline vf signed_floats(Bytes b, int at) {
#if defined(__AVX512F__)
    (void)at;
    return (vf)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32((__m128i)b));
#elif defined(__AVX2__)
    const __m128i part = at ? _mm_unpackhi_epi64((__m128i)b, (__m128i)b) : (__m128i)b;
    return (vf)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(part));
#else
    vf v;
    for (int i = 0; i < lanes; ++i) v[i] = static_cast<float>(static_cast<int8_t>(b[at + i]));
    return v;
#endif
}

/// The 16 values q * scale + offset at vector `v` of a group whose halves are low and high.
inline void scaled(Bytes low, Bytes high, float scale, float offset, vf* w) {
    constexpr int half_vectors = vectors / 2;
    for (int v = 0; v < half_vectors; ++v) {
        w[v] = fma(unsigned_floats(low, v * lanes), splat(scale), splat(offset));
        w[half_vectors + v] = fma(unsigned_floats(high, v * lanes), splat(scale), splat(offset));
    }
}

// Each format: elements and bytes of a block, and group(p, g, w), the g-th 32 weights of the block at p.
// Products of a scale and a small integer are exact in float32, so the fused sums round once, as the
// reference routines do.
struct Q4_0 {
    static constexpr int elements = 32, bytes = 18;
    static void group(const uint8_t* p, int, vf* w) {
        const float d = half(p);
        const Bytes q = load_bytes(p + 2);
        scaled(q & 15, q >> 4, d, -8.0f * d, w);
    }
};

struct Q4_1 {
    static constexpr int elements = 32, bytes = 20;
    static void group(const uint8_t* p, int, vf* w) {
        const Bytes q = load_bytes(p + 4);
        scaled(q & 15, q >> 4, half(p), half(p + 2), w);
    }
};

struct Q8_0 {
    static constexpr int elements = 32, bytes = 34;
    static void group(const uint8_t* p, int, vf* w) {
        const vf d = splat(half(p));
        for (int v = 0; v < vectors; ++v) {
            const int at = v * lanes;
            w[v] = d * signed_floats(load_bytes(p + 2 + at / 16 * 16), at % 16);
        }
    }
};

struct Q4K {
    static constexpr int elements = 256, bytes = 144;
    static void group(const uint8_t* p, int g, vf* w) {
        int s, m;
        scale_min(g, p + 4, s, m);
        const uint8_t* q = p + 16 + 32 * (g / 2);
        Bytes low = load_bytes(q), high = load_bytes(q + 16);
        low = g % 2 ? low >> 4 : low & 15;
        high = g % 2 ? high >> 4 : high & 15;
        scaled(low, high, half(p) * static_cast<float>(s), -(half(p + 2) * static_cast<float>(m)), w);
    }
};

struct Q6K {
    static constexpr int elements = 256, bytes = 210;
    static void group(const uint8_t* p, int g, vf* w) {
        const int part = g / 4, quarter = g % 4;
        const float d = half(p + 208);
        for (int side = 0; side < 2; ++side) {
            Bytes four = load_bytes(p + 64 * part + 32 * (quarter & 1) + 16 * side);
            four = quarter >> 1 ? four >> 4 : four & 15;
            const Bytes two = load_bytes(p + 128 + 32 * part + 16 * side) >> (2 * quarter) & 3;
            const Bytes q = four | two << 4;
            const auto step = static_cast<int8_t>(p[192 + 8 * part + side + 2 * quarter]);
            const float scale = d * static_cast<float>(step);
            for (int v = 0; v < vectors / 2; ++v)
                w[side * (vectors / 2) + v] = splat(scale) * (unsigned_floats(q, v * lanes) - splat(32.0f));
        }
    }
};

/// `Rows` rows of W times `Tokens` tokens: enough sums in flight to hide a fused multiply-add's latency.
template <class Block, int Tokens, int Rows>
inline void tile(const uint8_t* const* p, const float* x, int64_t columns, float* y, int64_t y_stride) {
    vf sums[Rows][Tokens] = {};
    for (int64_t k = 0; k < columns; k += Block::elements) {
        const int64_t at = k / Block::elements * Block::bytes;
        for (int g = 0; g < Block::elements / group_size; ++g) {
            const float* xg = x + k + g * group_size;
#pragma GCC unroll 8
            for (int r = 0; r < Rows; ++r) {
                vf w[vectors];
                Block::group(p[r] + at, g, w);
#pragma GCC unroll 8
                for (int t = 0; t < Tokens; ++t)
                    for (int v = 0; v < vectors; ++v)
                        sums[r][t] = fma(w[v], load(xg + t * columns + v * lanes), sums[r][t]);
            }
        }
    }
    for (int r = 0; r < Rows; ++r)
        for (int t = 0; t < Tokens; ++t) y[t * y_stride + r] = sum(sums[r][t]);
}

/// Where W's rows lie.
struct PackedRows {
    const uint8_t* data;
    const int32_t* source_row;
    int64_t bytes;
    const uint8_t* row(int64_t r) const { return data + (source_row ? source_row[r] : r) * bytes; }
};

template <class Block, int Tokens>
void rows_of(const PackedRows& w, int64_t begin, int64_t end, const float* x, int64_t columns, float* y,
             int64_t y_stride) {
    constexpr int many = Tokens == 1 ? 8 : Tokens == 2 ? 4 : Tokens <= 4 ? 2 : 1;
    const uint8_t* p[many];
    int64_t r = begin;
    for (; r + many <= end; r += many) {
        for (int i = 0; i < many; ++i) p[i] = w.row(r + i);
        tile<Block, Tokens, many>(p, x, columns, y + r, y_stride);
    }
    for (; r < end; ++r) {
        p[0] = w.row(r);
        tile<Block, Tokens, 1>(p, x, columns, y + r, y_stride);
    }
}

template <class Block>
void rows_for(int64_t tokens, const PackedRows& w, int64_t begin, int64_t end, const float* x,
              int64_t columns, float* y, int64_t y_stride) {
    switch (tokens) {
        case 1:
            return rows_of<Block, 1>(w, begin, end, x, columns, y, y_stride);
        case 2:
            return rows_of<Block, 2>(w, begin, end, x, columns, y, y_stride);
        case 3:
            return rows_of<Block, 3>(w, begin, end, x, columns, y, y_stride);
        case 4:
            return rows_of<Block, 4>(w, begin, end, x, columns, y, y_stride);
        case 5:
            return rows_of<Block, 5>(w, begin, end, x, columns, y, y_stride);
        case 6:
            return rows_of<Block, 6>(w, begin, end, x, columns, y, y_stride);
        case 7:
            return rows_of<Block, 7>(w, begin, end, x, columns, y, y_stride);
        default:
            return rows_of<Block, 8>(w, begin, end, x, columns, y, y_stride);
    }
}

/// A format without a group() of its own: a row is expanded to memory first.
template <Quant quant>
void expanded_rows(int64_t tokens, const PackedRows& w, int64_t begin, int64_t end, const float* x,
                   int64_t columns, float* y, int64_t y_stride) {
    const Scratch<float> row(columns);
    for (int64_t r = begin; r < end; ++r) {
        dequantise(quant, w.row(r), row.get(), columns);
        for (int64_t t = 0; t < tokens; ++t) {
            vf s{};
            sweep(columns, [&](int64_t k, auto part) {
                s = fma(load(row.get() + k, part), load(x + t * columns + k, part), s);
            });
            y[t * y_stride + r] = sum(s);
        }
    }
}

using RowsKernel = void (*)(int64_t, const PackedRows&, int64_t, int64_t, const float*, int64_t, float*,
                            int64_t);
struct Format {
    int elements, bytes;
    RowsKernel kernel;
};

template <class Block>
constexpr Format grouped() {
    return {Block::elements, Block::bytes, rows_for<Block>};
}
template <Quant quant>
constexpr Format expanded(int elements, int bytes) {
    return {elements, bytes, expanded_rows<quant>};
}

Format format_of(Quant quant) {
    switch (quant) {
        case Quant::q4_0:
            return grouped<Q4_0>();
        case Quant::q4_1:
            return grouped<Q4_1>();
        case Quant::q8_0:
            return grouped<Q8_0>();
        case Quant::q4_k:
            return grouped<Q4K>();
        case Quant::q6_k:
            return grouped<Q6K>();
        case Quant::f32:
            return expanded<Quant::f32>(1, 4);
        case Quant::f16:
            return expanded<Quant::f16>(1, 2);
        case Quant::bf16:
            return expanded<Quant::bf16>(1, 2);
        case Quant::q5_0:
            return expanded<Quant::q5_0>(32, 22);
        case Quant::q5_1:
            return expanded<Quant::q5_1>(32, 24);
        case Quant::q2_k:
            return expanded<Quant::q2_k>(256, 84);
        case Quant::q3_k:
            return expanded<Quant::q3_k>(256, 110);
        case Quant::q5_k:
            return expanded<Quant::q5_k>(256, 176);
        case Quant::iq4_nl:
            return expanded<Quant::iq4_nl>(32, 18);
        case Quant::iq4_xs:
            return expanded<Quant::iq4_xs>(256, 136);
    }
    return {};
}

void to_floats(Float type, const void* x, float* out, int64_t n) {
    if (type == Float::f32)
        std::memcpy(out, x, static_cast<size_t>(n) * 4);
    else
        sweep(n, [&](int64_t i, auto w) { store(out + i, load(static_cast<const bf16*>(x) + i, w), w); });
}

}  // namespace

void multiply_packed(Quant quant, const void* weights, const int32_t* source_row, Float type, const void* x,
                     int64_t n, int64_t rows, int64_t columns, void* y) {
    constexpr int64_t rows_per_task = 64;  // of a head of 49,152 rows or a key projection of 192
    const Format format = format_of(quant);
    const PackedRows w{static_cast<const uint8_t*>(weights), source_row,
                       columns / format.elements * format.bytes};
    const Scratch<float> input(n * columns), output(n * rows);
    to_floats(type, x, input.get(), n * columns);
    const int64_t tasks = (rows + rows_per_task - 1) / rows_per_task;
#pragma omp parallel for schedule(static) if (rows * columns >= parallel_elements)
    for (int64_t task = 0; task < tasks; ++task) {
        const int64_t begin = task * rows_per_task, end = least(rows, begin + rows_per_task);
        for (int64_t t = 0; t < n; t += most_tokens)
            format.kernel(least(most_tokens, n - t), w, begin, end, input.get() + t * columns, columns,
                          output.get() + t * rows, rows);
    }
    if (type == Float::f32)
        std::memcpy(y, output.get(), static_cast<size_t>(n * rows) * 4);
    else
        to_bf16(output.get(), static_cast<uint16_t*>(y), n * rows);
}

}  // namespace polyad::kernels::POLYAD_ISA
