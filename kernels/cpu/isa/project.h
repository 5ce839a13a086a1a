// SPDX-License-Identifier: Apache-2.0
// Products of rows with rows, both contiguous along the summed dimension: vectors run along it and the lanes
// are added up once at the end. Needs no packing.
#pragma once

#include "kernels/cpu/isa/tile.h"

namespace polyad::kernels::POLYAD_ISA {

#if defined(__AVX512F__)
inline constexpr int token_tile = 3, rank_tile = 8;
#else
inline constexpr int token_tile = 2, rank_tile = 4;
#endif

/// Asks for memory that is read soon, once, and in pieces too short for the hardware to run ahead in.
inline void ask_for(const void* data, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(static_cast<const char*>(data) + i, 0, 3);
}

/// sums[i] = sum of the lanes of a[i], for 8 or 4 vectors at once where shuffles make that cheap.
template <int Count>
__attribute__((always_inline)) inline void lane_sums(const vf (&a)[Count], float* sums) {
#if defined(__AVX512F__)
    if constexpr (Count == 8) {
        __m512 pairs[4], quads[2];
        for (int i = 0; i < 4; ++i) {
            const auto x = (__m512)a[2 * i], y = (__m512)a[2 * i + 1];
            pairs[i] = _mm512_add_ps(_mm512_unpacklo_ps(x, y), _mm512_unpackhi_ps(x, y));
        }
        for (int i = 0; i < 2; ++i) {
            const auto x = (__m512d)pairs[2 * i], y = (__m512d)pairs[2 * i + 1];
            quads[i] = _mm512_add_ps((__m512)_mm512_unpacklo_pd(x, y), (__m512)_mm512_unpackhi_pd(x, y));
        }
        // quads[i]: in each 128-bit lane the partial sums of vectors 4i .. 4i + 3.
        const __m512 low = _mm512_shuffle_f32x4(quads[0], quads[1], 0x44);
        const __m512 high = _mm512_shuffle_f32x4(quads[0], quads[1], 0xee);
        const __m512 all = _mm512_add_ps(low, high);  // lanes: q0, q0, q1, q1
        const __m512 swapped = _mm512_shuffle_f32x4(all, all, 0xb1);
        const __m512 total = _mm512_add_ps(all, swapped);
        const __m512 out = _mm512_shuffle_f32x4(total, total, 0x08);  // lanes 0 and 2
        _mm256_storeu_ps(sums, _mm512_castps512_ps256(out));
        return;
    }
    if constexpr (Count == 4) {
        __m512 pairs[2];
        for (int i = 0; i < 2; ++i) {
            const auto x = (__m512)a[2 * i], y = (__m512)a[2 * i + 1];
            pairs[i] = _mm512_add_ps(_mm512_unpacklo_ps(x, y), _mm512_unpackhi_ps(x, y));
        }
        const auto x = (__m512d)pairs[0], y = (__m512d)pairs[1];
        const __m512 quad = _mm512_add_ps((__m512)_mm512_unpacklo_pd(x, y), (__m512)_mm512_unpackhi_pd(x, y));
        const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(quad), _mm512_extractf32x8_ps(quad, 1));
        _mm_storeu_ps(sums, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
        return;
    }
#endif
#pragma GCC unroll 8
    for (int i = 0; i < Count; ++i) sums[i] = sum(a[i]);
}

/// Adds the products of one vector's worth of k to the sums.
template <int Tokens, int Ranks, class T, class W>
__attribute__((always_inline)) inline void project_step(vf (&acc)[Tokens][Ranks], const T* x, const T* m,
                                                        int64_t x_stride, int64_t m_stride, W w) {
    vf left[Tokens];
#pragma GCC unroll 8
    for (int i = 0; i < Tokens; ++i) left[i] = load(x + i * x_stride, w);
#pragma GCC unroll 8
    for (int j = 0; j < Ranks; ++j) {
        const vf right = load(m + j * m_stride, w);
#pragma GCC unroll 8
        for (int i = 0; i < Tokens; ++i) acc[i][j] = fma(left[i], right, acc[i][j]);
    }
}

#if defined(__AVX512BF16__)
/// The same for up to 32 values of k in bf16.
template <int Tokens, int Ranks>
__attribute__((always_inline)) inline void project_pairs(vf (&acc)[Tokens][Ranks], const bf16* x,
                                                         const bf16* m, int64_t x_stride, int64_t m_stride,
                                                         __mmask32 mask) {
    __m512bh left[Tokens];
#pragma GCC unroll 8
    for (int i = 0; i < Tokens; ++i) left[i] = (__m512bh)_mm512_maskz_loadu_epi16(mask, x + i * x_stride);
#pragma GCC unroll 8
    for (int j = 0; j < Ranks; ++j) {
        const auto right = (__m512bh)_mm512_maskz_loadu_epi16(mask, m + j * m_stride);
#pragma GCC unroll 8
        for (int i = 0; i < Tokens; ++i) acc[i][j] = (vf)_mm512_dpbf16_ps((__m512)acc[i][j], left[i], right);
    }
}
#endif

template <class T, int Tokens, int Ranks>
inline void project_tile(const T* x, int64_t x_stride, const T* m, int64_t m_stride, int64_t d, float scale,
                         float* u, int64_t u_stride) {
    vf acc[Tokens][Ranks];
#pragma GCC unroll 8
    for (int i = 0; i < Tokens; ++i)
#pragma GCC unroll 8
        for (int j = 0; j < Ranks; ++j) acc[i][j] = vf{};
    int64_t k = 0;
    if constexpr (cell_depth<T> == 2) {
#if defined(__AVX512BF16__)
        for (; k + 32 <= d; k += 32) project_pairs(acc, x + k, m + k, x_stride, m_stride, ~__mmask32{0});
        if (k < d) project_pairs(acc, x + k, m + k, x_stride, m_stride, (1u << (d - k)) - 1);
#endif
    } else {
        for (; k + lanes <= d; k += lanes) project_step(acc, x + k, m + k, x_stride, m_stride, Whole{});
        if (k < d) project_step(acc, x + k, m + k, x_stride, m_stride, Part{d - k});
    }
#pragma GCC unroll 8
    for (int i = 0; i < Tokens; ++i) {
        float sums[Ranks];
        lane_sums(acc[i], sums);
        for (int j = 0; j < Ranks; ++j) u[i * u_stride + j] = scale * sums[j];
    }
}

template <class T, int Ranks>
inline void project_rows(const T* x, int64_t x_stride, const T* m, int64_t m_stride, int64_t rows, int64_t d,
                         float scale, float* u, int64_t u_stride) {
    int64_t t = 0;
    for (; t + token_tile <= rows; t += token_tile)
        project_tile<T, token_tile, Ranks>(x + t * x_stride, x_stride, m, m_stride, d, scale,
                                           u + t * u_stride, u_stride);
    for (; t < rows; ++t)
        project_tile<T, 1, Ranks>(x + t * x_stride, x_stride, m, m_stride, d, scale, u + t * u_stride,
                                  u_stride);
}

/// u [rows, rank] = scale x M^T with x [rows, d] and M [rank, d].
template <class T>
inline void project(const T* x, int64_t x_stride, const T* m, int64_t m_stride, int64_t rows, int64_t d,
                    int64_t rank, float scale, float* u, int64_t u_stride) {
    int64_t r = 0;
    for (; r + rank_tile <= rank; r += rank_tile)
        project_rows<T, rank_tile>(x, x_stride, m + r * m_stride, m_stride, rows, d, scale, u + r, u_stride);
    if constexpr (rank_tile > 4)
        for (; r + 4 <= rank; r += 4)
            project_rows<T, 4>(x, x_stride, m + r * m_stride, m_stride, rows, d, scale, u + r, u_stride);
    for (; r + 2 <= rank; r += 2)
        project_rows<T, 2>(x, x_stride, m + r * m_stride, m_stride, rows, d, scale, u + r, u_stride);
    if (r < rank)
        project_rows<T, 1>(x, x_stride, m + r * m_stride, m_stride, rows, d, scale, u + r, u_stride);
}

}  // namespace polyad::kernels::POLYAD_ISA
