// SPDX-License-Identifier: Apache-2.0
// The three products of the low-rank operator for many tokens, bf16 on tensor cores:
//   project   u[t, r]  = scale sum_k x[t, k] M[r, k]      M [r, d] or, transposed, [d, r]
//   expand    y[t, :] += scale sum_r v[t, r] M[r, :]      M [r, d] or, transposed, [d, r]
//   outer     G[r, :] += scale sum_t v[t, r] x[t, :]      G [r, d] or, transposed, [d, r]
// Ranks are taken Rank = 16, 32, 64 or 128 at a time and padded with zeros.
#pragma once

#include "kernels/cuda/low_rank_plan.h"
#include "kernels/cuda/tile.cuh"

namespace polyad::kernels::cuda {

inline constexpr int tile_threads = 128, tile_tokens = 64;

/// Where a group's factors lie: one after the other, or each at an address of its own.
struct FactorPlaces {
    const bf16* first;
    const void* const* each;  ///< null: one after the other
    __device__ const bf16* of(int group, int64_t size) const {
        return each ? static_cast<const bf16*>(each[group]) : first + group * size;
    }
};

/// Copies an array of rows into shared memory: `Rows` rows of `Columns` elements (multiples of 8), rows
/// `stride` apart there. Outside [0, rows) x [0, columns) zeros. `from` points at the first element, rows
/// `pitch` apart. `wide`: 16-byte copies are possible (they are asynchronous), columns then is a multiple
/// of 8.
template <int Rows, int Columns>
__device__ __forceinline__ void copy_tile(bf16* to, int stride, const bf16* from, int64_t pitch, int rows,
                                          int columns, bool wide_copies) {
    if (wide_copies) {
        constexpr int vectors = Columns / 8;
#pragma unroll
        for (int i = threadIdx.x; i < Rows * vectors; i += tile_threads) {
            const int row = i / vectors, column = i % vectors * 8;
            const bool valid = row < rows && column < columns;
            copy_async(to + row * stride + column, valid ? from + row * pitch + column : from, valid);
        }
        return;
    }
    for (int i = threadIdx.x; i < Rows * Columns; i += tile_threads) {
        const int row = i / Columns, column = i % Columns;
        to[row * stride + column] =
            row < rows && column < columns ? from[row * pitch + column] : __float2bfloat16_rn(0.0f);
    }
}

template <int Rank, bool Transposed>
struct ProjectShape {
    static constexpr int depth = 64, stages = Rank == 128 ? 3 : 4;
    static constexpr int x_stride = depth + 8, m_stride = Transposed ? Rank + 8 : depth + 8;
    static constexpr int x_size = tile_tokens * x_stride, m_size = (Transposed ? depth : Rank) * m_stride;
    static constexpr int bytes = stages * (x_size + m_size) * 2;
};

/// grid (tiles, parts of d, parts of the rank). `out` [parts of d][tokens][rank].
template <int Rank, bool Transposed>
__global__ void __launch_bounds__(tile_threads)
    project_tiles(const bf16* x, const FactorPlaces places, const Segment* tiles, int d, int rank, int part,
                  float scale, int64_t part_stride, bool wide_x, bool wide_m, float* out) {
    using Shape = ProjectShape<Rank, Transposed>;
    extern __shared__ __align__(16) unsigned char shared[];
    const Segment tile = tiles[blockIdx.x];
    const int count = tile.end - tile.begin, rank0 = blockIdx.z * Rank;
    out += blockIdx.y * part_stride + static_cast<int64_t>(tile.begin) * rank;
    if (tile.group < 0) {
        for (int i = threadIdx.x; i < count * Rank; i += tile_threads)
            if (rank0 + i % Rank < rank) out[i / Rank * rank + rank0 + i % Rank] = 0.0f;
        return;
    }
    bf16* sx = reinterpret_cast<bf16*>(shared);
    bf16* sm = sx + Shape::stages * Shape::x_size;
    x += static_cast<int64_t>(tile.begin) * d;
    const bf16* factors = places.of(tile.group, static_cast<int64_t>(rank) * d);
    const int begin = blockIdx.y * part, end = min(d, begin + part);
    const int steps = (end - begin + Shape::depth - 1) / Shape::depth;
    const auto fetch = [&](int step) {
        if (step < steps) {
            const int k = begin + step * Shape::depth, buffer = step % Shape::stages;
            copy_tile<tile_tokens, Shape::depth>(sx + buffer * Shape::x_size, Shape::x_stride, x + k, d,
                                                 count, end - k, wide_x);
            if (Transposed)
                copy_tile<Shape::depth, Rank>(sm + buffer * Shape::m_size, Shape::m_stride,
                                              factors + static_cast<int64_t>(k) * rank + rank0, rank, end - k,
                                              rank - rank0, wide_m);
            else
                copy_tile<Rank, Shape::depth>(sm + buffer * Shape::m_size, Shape::m_stride,
                                              factors + static_cast<int64_t>(rank0) * d + k, d, rank - rank0,
                                              end - k, wide_m);
        }
        commit_copies();
    };
#pragma unroll
    for (int s = 0; s < Shape::stages - 1; ++s) fetch(s);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float c[Rank / 8][4] = {};
    for (int step = 0; step < steps; ++step) {
        wait_copies<Shape::stages - 2>();
        __syncthreads();
        fetch(step + Shape::stages - 1);
        const bf16* tx = sx + step % Shape::stages * Shape::x_size + warp * 16 * Shape::x_stride;
        const bf16* tm = sm + step % Shape::stages * Shape::m_size;
#pragma unroll
        for (int k = 0; k < Shape::depth; k += 16) {
            uint32_t a[4];
            load_a(a, tx + k, Shape::x_stride);
#pragma unroll
            for (int n = 0; n < Rank; n += 16) {
                uint32_t b[4];
                if (Transposed)
                    load_b_transposed(b, tm + k * Shape::m_stride + n, Shape::m_stride);
                else
                    load_b(b, tm + n * Shape::m_stride + k, Shape::m_stride);
                multiply(c[n / 8], a, b);
                multiply(c[n / 8 + 1], a, b + 2);
            }
        }
    }
#pragma unroll
    for (int n = 0; n < Rank / 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int row = warp * 16 + lane / 4 + i / 2 * 8, column = rank0 + n * 8 + lane % 4 * 2 + i % 2;
            if (row < count && column < rank)
                out[static_cast<int64_t>(row) * rank + column] = scale * c[n][i];
        }
}

template <int Rank, bool Transposed>
struct ExpandShape {
    static constexpr int columns = 128;
    static constexpr int v_stride = Rank + 8, m_stride = Transposed ? Rank + 8 : columns + 8;
    static constexpr int v_size = tile_tokens * v_stride, m_size = (Transposed ? columns : Rank) * m_stride;
    static constexpr int y_stride = columns + 4;
    static constexpr int operands = (v_size + m_size) * 2, sums = tile_tokens * y_stride * 4;
    static constexpr int bytes = operands > sums ? operands : sums;
};

/// grid (parts of d, tiles).
template <int Rank, bool Transposed>
__global__ void __launch_bounds__(tile_threads)
    expand_tiles(const float* v, const FactorPlaces places, const Segment* tiles, int d, int rank,
                 float scale, bool wide_v, bool wide_m, bool wide_y, bf16* y) {
    using Shape = ExpandShape<Rank, Transposed>;
    extern __shared__ __align__(16) unsigned char shared[];
    const Segment tile = tiles[blockIdx.y];
    if (tile.group < 0) return;
    const int count = tile.end - tile.begin, column0 = blockIdx.x * Shape::columns;
    v += static_cast<int64_t>(tile.begin) * rank;
    y += static_cast<int64_t>(tile.begin) * d + column0;
    const bf16* factors = places.of(tile.group, static_cast<int64_t>(rank) * d);
    bf16* sv = reinterpret_cast<bf16*>(shared);
    bf16* sm = sv + Shape::v_size;
    float* sy = reinterpret_cast<float*>(shared);

    // y is on its way while the product is made.
    constexpr int vectors = Shape::columns / 8, per_thread = tile_tokens * vectors / tile_threads;
    uint4 old[per_thread];
    if (wide_y) {
#pragma unroll
        for (int i = 0; i < per_thread; ++i) {
            const int at = threadIdx.x + i * tile_threads, row = at / vectors, column = at % vectors * 8;
            old[i] = row < count && column0 + column < d
                         ? *reinterpret_cast<const uint4*>(y + static_cast<int64_t>(row) * d + column)
                         : uint4{};
        }
    }
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int row0 = warp / 2 * 32, n0 = warp % 2 * 64;
    float c[2][8][4] = {};
    for (int rank0 = 0; rank0 < rank; rank0 += Rank) {
        if (rank0 > 0) __syncthreads();
        if (Transposed)
            copy_tile<Shape::columns, Rank>(sm, Shape::m_stride,
                                            factors + static_cast<int64_t>(column0) * rank + rank0, rank,
                                            d - column0, rank - rank0, wide_m);
        else
            copy_tile<Rank, Shape::columns>(sm, Shape::m_stride,
                                            factors + static_cast<int64_t>(rank0) * d + column0, d,
                                            rank - rank0, d - column0, wide_m);
        commit_copies();
        if (wide_v) {
            for (int i = threadIdx.x; i < tile_tokens * Rank / 4; i += tile_threads) {
                const int row = i / (Rank / 4), k = i % (Rank / 4) * 4;
                float4 f{};
                if (row < count && rank0 + k < rank)
                    f = *reinterpret_cast<const float4*>(v + static_cast<int64_t>(row) * rank + rank0 + k);
                *reinterpret_cast<uint2*>(sv + row * Shape::v_stride + k) =
                    make_uint2(pack(f.x, f.y), pack(f.z, f.w));
            }
        } else {
            for (int i = threadIdx.x; i < tile_tokens * Rank; i += tile_threads) {
                const int row = i / Rank, k = i % Rank;
                sv[row * Shape::v_stride + k] = __float2bfloat16_rn(
                    row < count && rank0 + k < rank ? v[static_cast<int64_t>(row) * rank + rank0 + k] : 0.0f);
            }
        }
        wait_copies<0>();
        __syncthreads();
#pragma unroll
        for (int k = 0; k < Rank; k += 16) {
            uint32_t a[2][4];
            load_a(a[0], sv + row0 * Shape::v_stride + k, Shape::v_stride);
            load_a(a[1], sv + (row0 + 16) * Shape::v_stride + k, Shape::v_stride);
#pragma unroll
            for (int n = 0; n < 64; n += 16) {
                uint32_t b[4];
                if (Transposed)
                    load_b(b, sm + (n0 + n) * Shape::m_stride + k, Shape::m_stride);
                else
                    load_b_transposed(b, sm + k * Shape::m_stride + n0 + n, Shape::m_stride);
#pragma unroll
                for (int m = 0; m < 2; ++m) {
                    multiply(c[m][n / 8], a[m], b);
                    multiply(c[m][n / 8 + 1], a[m], b + 2);
                }
            }
        }
    }
    __syncthreads();
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int n = 0; n < 8; ++n)
#pragma unroll
            for (int half = 0; half < 2; ++half)
                *reinterpret_cast<float2*>(sy + (row0 + m * 16 + lane / 4 + half * 8) * Shape::y_stride + n0 +
                                           n * 8 + lane % 4 * 2) =
                    make_float2(c[m][n][2 * half], c[m][n][2 * half + 1]);
    __syncthreads();
    if (wide_y) {
#pragma unroll
        for (int i = 0; i < per_thread; ++i) {
            const int at = threadIdx.x + i * tile_threads, row = at / vectors, column = at % vectors * 8;
            if (row >= count || column0 + column >= d) continue;
            float sum[8];
            spread(old[i], sum);
            const float* more = sy + row * Shape::y_stride + column;
#pragma unroll
            for (int j = 0; j < 8; ++j) sum[j] += scale * more[j];
            store_wide(y + static_cast<int64_t>(row) * d + column, sum);
        }
        return;
    }
    for (int i = threadIdx.x; i < count * Shape::columns; i += tile_threads) {
        const int row = i / Shape::columns, column = i % Shape::columns;
        if (column0 + column >= d) continue;
        bf16& to = y[static_cast<int64_t>(row) * d + column];
        to = __float2bfloat16_rn(to_float(to) + scale * sy[row * Shape::y_stride + column]);
    }
}

template <int Rank>
struct OuterShape {
    static constexpr int depth = 32, columns = 128, stages = Rank == 128 ? 3 : 4;
    static constexpr int x_stride = columns + 8, v_stride = Rank + 4;
    static constexpr int x_size = depth * x_stride, v_size = depth * v_stride;
    static constexpr int bytes = stages * (x_size * 2 + v_size * 4);
};

/// grid (parts of d, items, parts of the rank). Where a group has one item the sums are added to the gradient
/// [groups][rank x d]; else they are written to `out` [items][rank x d].
template <int Rank>
__global__ void __launch_bounds__(tile_threads)
    outer_tiles(const float* v, const bf16* x, const Segment* items, int d, int rank, float scale,
                bool transposed, bool add, bool wide_v, bool wide_x, float* out) {
    using Shape = OuterShape<Rank>;
    extern __shared__ __align__(16) unsigned char shared[];
    const Segment item = items[blockIdx.y];
    const int tokens = item.end - item.begin, column0 = blockIdx.x * Shape::columns,
              rank0 = blockIdx.z * Rank;
    float* sv = reinterpret_cast<float*>(shared);
    bf16* sx = reinterpret_cast<bf16*>(sv + Shape::stages * Shape::v_size);
    v += static_cast<int64_t>(item.begin) * rank + rank0;
    x += static_cast<int64_t>(item.begin) * d + column0;
    out += static_cast<int64_t>(add ? item.group : static_cast<int>(blockIdx.y)) * rank * d;
    const int steps = (tokens + Shape::depth - 1) / Shape::depth;
    const auto fetch = [&](int step) {
        if (step < steps) {
            const int t = step * Shape::depth, buffer = step % Shape::stages, count = tokens - t;
            copy_tile<Shape::depth, Shape::columns>(sx + buffer * Shape::x_size, Shape::x_stride,
                                                    x + static_cast<int64_t>(t) * d, d, count, d - column0,
                                                    wide_x);
            float* to = sv + buffer * Shape::v_size;
            const float* from = v + static_cast<int64_t>(t) * rank;
            if (wide_v) {
                for (int i = threadIdx.x; i < Shape::depth * Rank / 4; i += tile_threads) {
                    const int row = i / (Rank / 4), k = i % (Rank / 4) * 4;
                    const bool valid = row < count && rank0 + k < rank;
                    copy_async(to + row * Shape::v_stride + k, valid ? from + row * rank + k : from, valid);
                }
            } else {
                for (int i = threadIdx.x; i < Shape::depth * Rank; i += tile_threads) {
                    const int row = i / Rank, k = i % Rank;
                    to[row * Shape::v_stride + k] =
                        row < count && rank0 + k < rank ? from[row * rank + k] : 0.0f;
                }
            }
        }
        commit_copies();
    };
#pragma unroll
    for (int s = 0; s < Shape::stages - 1; ++s) fetch(s);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float c[Rank / 16][4][4] = {};
    for (int step = 0; step < steps; ++step) {
        wait_copies<Shape::stages - 2>();
        __syncthreads();
        fetch(step + Shape::stages - 1);
        const float* tv = sv + step % Shape::stages * Shape::v_size;
        const bf16* tx = sx + step % Shape::stages * Shape::x_size + warp * 32;
#pragma unroll
        for (int k = 0; k < Shape::depth; k += 16) {
            uint32_t b[2][4];
            load_b_transposed(b[0], tx + k * Shape::x_stride, Shape::x_stride);
            load_b_transposed(b[1], tx + k * Shape::x_stride + 16, Shape::x_stride);
#pragma unroll
            for (int m = 0; m < Rank; m += 16) {
                const float* p = tv + (k + lane % 4 * 2) * Shape::v_stride + m + lane / 4;
                const auto pair = [&](const float* q) { return pack(q[0], q[Shape::v_stride]); };
                const uint32_t a[4] = {pair(p), pair(p + 8), pair(p + 8 * Shape::v_stride),
                                       pair(p + 8 * Shape::v_stride + 8)};
#pragma unroll
                for (int n = 0; n < 4; ++n) multiply(c[m / 16][n], a, b[n / 2] + n % 2 * 2);
            }
        }
    }
#pragma unroll
    for (int m = 0; m < Rank / 16; ++m)
#pragma unroll
        for (int n = 0; n < 4; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int r = rank0 + m * 16 + lane / 4 + i / 2 * 8;
                const int column = column0 + warp * 32 + n * 8 + lane % 4 * 2 + i % 2;
                if (r >= rank || column >= d) continue;
                float& to = out[transposed ? static_cast<int64_t>(column) * rank + r
                                           : static_cast<int64_t>(r) * d + column];
                to = (add ? to : 0.0f) + scale * c[m][n][i];
            }
}

}  // namespace polyad::kernels::cuda
