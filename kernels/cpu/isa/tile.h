// SPDX-License-Identifier: Apache-2.0
// The matrix product all blocked kernels stand on: C [m, n] (+)= A [m, k] B [k, n] over 32-bit *cells*. A
// cell is one float, or, where the CPU multiplies bf16 pairs (vdpbf16ps), two neighbours along k;
// accumulation is float32. A is read cell by cell (any strides), B vector by vector (n is a multiple of the
// vector length).
#pragma once

#include "kernels/cpu/isa/vec.h"

namespace polyad::kernels::POLYAD_ISA {

/// Values of type T per cell.
template <class T>
inline constexpr int cell_depth = 1;
#if defined(__AVX512BF16__)
template <>
inline constexpr int cell_depth<bf16> = 2;
#endif

template <int Depth>
inline vf multiply_add(vf acc, vf a, vf b) {
#if defined(__AVX512BF16__)
    if constexpr (Depth == 2) return (vf)_mm512_dpbf16_ps((__m512)acc, (__m512bh)a, (__m512bh)b);
#endif
    return fma(a, b, acc);
}

#if defined(__AVX512F__)
inline constexpr int tile_rows = 6, tile_vectors = 4;
#else
inline constexpr int tile_rows = 4, tile_vectors = 2;
#endif

struct Operand {
    const float* cells;
    int64_t row_stride, column_stride;
};

/// C may be float or bf16; it is read and rounded once per call.
template <int Depth, int Rows, int Vectors, class Out>
inline void tile(Operand a, const float* b, int64_t b_stride, Out* c, int64_t c_stride, int64_t k, bool add) {
    vf acc[Rows][Vectors];
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
        for (int j = 0; j < Vectors; ++j) acc[i][j] = add ? load(c + i * c_stride + j * lanes) : vf{};
    const float* a_cells = a.cells;
    for (int64_t p = 0; p < k; ++p) {
        vf right[Vectors];
#pragma GCC unroll 8
        for (int j = 0; j < Vectors; ++j) right[j] = load(b + j * lanes);
#pragma GCC unroll 16
        for (int i = 0; i < Rows; ++i) {
            // Moved as bits: as a number a pair of bf16 could be changed.
            uint32_t bits;
            std::memcpy(&bits, a_cells + i * a.row_stride, 4);
            const vf left = float_of(vu{} + bits);
#pragma GCC unroll 8
            for (int j = 0; j < Vectors; ++j) acc[i][j] = multiply_add<Depth>(acc[i][j], left, right[j]);
        }
        a_cells += a.column_stride;
        b += b_stride;
    }
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
        for (int j = 0; j < Vectors; ++j) store(c + i * c_stride + j * lanes, acc[i][j]);
}

template <int Depth, int Vectors, class Out>
inline void tile_column(int64_t m, Operand a, const float* b, int64_t b_stride, Out* c, int64_t c_stride,
                        int64_t k, bool add) {
    while (m > 0) {
        int64_t rows;
        if (tile_rows == 6 && m >= 6 && m != 8) {  // 8 = 4 + 4 keeps more sums in flight than 6 + 2
            rows = 6;
            tile<Depth, tile_rows, Vectors>(a, b, b_stride, c, c_stride, k, add);
        } else if (m >= 4) {
            rows = 4;
            tile<Depth, 4, Vectors>(a, b, b_stride, c, c_stride, k, add);
        } else if (m >= 2) {
            rows = 2;
            tile<Depth, 2, Vectors>(a, b, b_stride, c, c_stride, k, add);
        } else {
            rows = 1;
            tile<Depth, 1, Vectors>(a, b, b_stride, c, c_stride, k, add);
        }
        a.cells += rows * a.row_stride;
        c += rows * c_stride;
        m -= rows;
    }
}

template <int Depth, class Out>
inline void multiply(int64_t m, int64_t n, int64_t k, Operand a, const float* b, int64_t b_stride, Out* c,
                     int64_t c_stride, bool add) {
    int64_t j = 0;
    for (; j + tile_vectors * lanes <= n; j += tile_vectors * lanes)
        tile_column<Depth, tile_vectors>(m, a, b + j, b_stride, c + j, c_stride, k, add);
    for (; tile_vectors > 2 && j + 2 * lanes <= n; j += 2 * lanes)
        tile_column<Depth, 2>(m, a, b + j, b_stride, c + j, c_stride, k, add);
    for (; j < n; j += lanes) tile_column<Depth, 1>(m, a, b + j, b_stride, c + j, c_stride, k, add);
}

// ---- making cells ----
#if defined(__AVX512BF16__)
/// Puts the 16-bit halves of two vectors side by side: lane i of `low` holds (a[i], b[i]), of `high` (a[16 +
/// i], b[16 + i]).
inline void interleave(__m512i a, __m512i b, vf& low, vf& high) {
    alignas(64) static constexpr uint16_t order[2][32] = {
        {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
         8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47},
        {16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23, 55,
         24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63}};
    low = (vf)_mm512_permutex2var_epi16(a, _mm512_load_si512(order[0]), b);
    high = (vf)_mm512_permutex2var_epi16(a, _mm512_load_si512(order[1]), b);
}
#endif

/// Cells of two values each; with depth 1 the first is taken as it is.
template <int Depth>
inline vf pair_up(vf first, [[maybe_unused]] vf second) {
    if constexpr (Depth == 1) return first;
#if defined(__AVX512BF16__)
    const auto low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)first));
    const auto high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)second));
    return (vf)_mm512_or_si512(low, _mm512_slli_epi32(high, 16));
#else
    return first;  // not reached: cells of depth 2 need the instruction
#endif
}

/// One row of n values -> ceil(n / depth) cells.
template <class T, class Source>
inline void row_cells(const Source* row, int64_t n, float* out) {
    if constexpr (cell_depth<T> == 1) {
        sweep(n, [&](int64_t i, auto w) { store(out + i, load(row + i, w), w); });
    } else {
        auto* half = reinterpret_cast<bf16*>(out);
        sweep(n, [&](int64_t i, auto w) { store(half + i, load(row + i, w), w); });
        if (n % 2) half[n] = 0;
    }
}

/// Two rows of n values (the second may be null: zeros) -> n cells holding a column each.
template <class T>
inline void column_cells(const T* first, [[maybe_unused]] const T* second, int64_t n, float* out) {
    if constexpr (cell_depth<T> == 1) {
        sweep(n, [&](int64_t i, auto w) { store(out + i, load(first + i, w), w); });
    } else {
#if defined(__AVX512BF16__)
        for (int64_t i = 0; i < n; i += 32) {
            const int64_t rest = n - i;
            const auto mask = static_cast<__mmask32>(rest >= 32 ? ~0u : (1u << rest) - 1);
            const __m512i a = _mm512_maskz_loadu_epi16(mask, first + i);
            const __m512i b = second ? _mm512_maskz_loadu_epi16(mask, second + i) : _mm512_setzero_si512();
            vf low, high;
            interleave(a, b, low, high);
            if (rest >= 32) {
                store(out + i, low);
                store(out + i + 16, high);
            } else {
                store(out + i, low, Part{least(rest, 16)});
                if (rest > 16) store(out + i + 16, high, Part{rest - 16});
            }
        }
#endif
    }
}

#if defined(__AVX512F__)
/// Transposes 16 x 16 cells held in registers.
inline void transpose16(__m512 r[16]) {
    __m512 t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; ++j) {
            const __m512d a = (__m512d)t[i + j], b = (__m512d)t[i + j + 2];
            r[i + 2 * j] = (__m512)_mm512_unpacklo_pd(a, b);
            r[i + 2 * j + 1] = (__m512)_mm512_unpackhi_pd(a, b);
        }
    for (int i = 0; i < 4; ++i) {
        const __m512 a = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88),
                     b = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xdd);
        const __m512 c = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88);
        const __m512 d = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xdd);
        t[i] = _mm512_shuffle_f32x4(a, c, 0x88);
        t[i + 8] = _mm512_shuffle_f32x4(a, c, 0xdd);
        t[i + 4] = _mm512_shuffle_f32x4(b, d, 0x88);
        t[i + 12] = _mm512_shuffle_f32x4(b, d, 0xdd);
    }
    for (int i = 0; i < 16; ++i) r[i] = t[i];
}
#endif

#if defined(__AVX512F__)
/// 16 rows of 4 cells that lie side by side.
inline void transpose16x4(const float* from, float* to, int64_t to_stride) {
    __m512 r[4];
    for (int i = 0; i < 4; ++i) r[i] = _mm512_loadu_ps(from + 16 * i);  // rows 4i .. 4i + 3
    for (int c = 0; c < 4; c += 2) {
        const __m512i order = _mm512_setr_epi32(c, c + 4, c + 8, c + 12, c + 16, c + 20, c + 24, c + 28,
                                                c + 1, c + 5, c + 9, c + 13, c + 17, c + 21, c + 25, c + 29);
        const __m512 a = _mm512_permutex2var_ps(r[0], order, r[1]),
                     b = _mm512_permutex2var_ps(r[2], order, r[3]);
        _mm512_storeu_ps(to + c * to_stride, _mm512_shuffle_f32x4(a, b, 0x44));
        _mm512_storeu_ps(to + (c + 1) * to_stride, _mm512_shuffle_f32x4(a, b, 0xee));
    }
}
#endif

/// to[c, r] = from[r, c] for cells.
inline void transpose(const float* from, int64_t from_stride, int64_t rows, int64_t columns, float* to,
                      int64_t to_stride) {
    int64_t r = 0;
#if defined(__AVX512F__)
    if (columns == 4 && from_stride == 4)
        for (; r + 16 <= rows; r += 16) transpose16x4(from + 4 * r, to + r, to_stride);
    const auto up_to_16_rows = [&](int64_t count) __attribute__((always_inline)) {
        const auto used = static_cast<__mmask16>((1u << count) - 1);
        for (int64_t c = 0; c < columns; c += 16) {
            const int64_t width = least(16, columns - c);
            const auto mask = static_cast<__mmask16>((1u << width) - 1);
            __m512 block[16];
            for (int i = 0; i < 16; ++i)
                block[i] =
                    i < count ? _mm512_maskz_loadu_ps(mask, from + (r + i) * from_stride + c) : __m512{};
            transpose16(block);
            for (int i = 0; i < width; ++i)
                _mm512_mask_storeu_ps(to + (c + i) * to_stride + r, used, block[i]);
        }
    };
    for (; r + 16 <= rows; r += 16) up_to_16_rows(16);
    if (r < rows && columns >= 16) {
        up_to_16_rows(rows - r);
        return;
    }
#endif
    for (; r < rows; ++r)
        for (int64_t c = 0; c < columns; ++c)
            std::memcpy(to + c * to_stride + r, from + r * from_stride + c, 4);
}

}  // namespace polyad::kernels::POLYAD_ISA
