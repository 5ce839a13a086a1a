// SPDX-License-Identifier: Apache-2.0
// The low-rank products token by token: any type, rank and alignment, and what decoding uses, where tokens
// are few and each may have factors of its own. Memory-bound: wide loads, several in flight.
#pragma once

#include "kernels/cuda/low_rank_plan.h"
#include "kernels/cuda/tile.cuh"

namespace polyad::kernels::cuda {

inline constexpr int row_threads = 128;

/// sums[i] of x[k] m[i * d + k] over k in [begin, end), shared out over a warp; every lane gets the sums.
/// `wide_loads`: begin and end are multiples of wide<T> and both pointers aligned.
template <class T, int Count>
__device__ __forceinline__ void dot_rows(const T* x, const T* m, int64_t d, int count, int begin, int end,
                                         bool wide_loads, float* sums) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < Count; ++i) sums[i] = 0.0f;
    if (wide_loads) {
        constexpr int step = 32 * wide<T>;
#pragma unroll 4
        for (int k = begin + lane * wide<T>; k < end; k += step) {
            float a[wide<T>];
            load_wide(x + k, a);
#pragma unroll
            for (int i = 0; i < Count; ++i) {
                if (i >= count) break;
                float b[wide<T>];
                load_wide(m + i * d + k, b);
#pragma unroll
                for (int j = 0; j < wide<T>; ++j) sums[i] = fmaf(a[j], b[j], sums[i]);
            }
        }
    } else {
        for (int k = begin + lane; k < end; k += 32) {
            const float a = to_float(x[k]);
#pragma unroll
            for (int i = 0; i < Count; ++i)
                if (i < count) sums[i] = fmaf(a, to_float(m[i * d + k]), sums[i]);
        }
    }
#pragma unroll
    for (int i = 0; i < Count; ++i) sums[i] = warp_sum(sums[i]);
}

/// y[i] += scale * sum_r v[r] b[i * rank + r] for i in [begin, end), by all threads of the block; v in shared
/// memory.
template <class T>
__device__ __forceinline__ void add_rows(const float* v, const T* b, int begin, int end, int rank,
                                         float scale, T* y, bool wide_loads) {
    const int lanes = rank / wide<T>;  // that share a row
    if (wide_loads && rank % wide<T> == 0 && (lanes & (lanes - 1)) == 0 && lanes <= 32) {
        const int part = threadIdx.x % lanes, stride = blockDim.x / lanes;
        float mine[wide<T>];
#pragma unroll
        for (int j = 0; j < wide<T>; ++j) mine[j] = v[part * wide<T> + j];
        // Whole warps run each turn: the shuffles need every lane.
        const int turns = (end - begin + stride - 1) / stride;
#pragma unroll 4
        for (int turn = 0; turn < turns; ++turn) {
            const int row = begin + turn * stride + threadIdx.x / lanes;
            float sum = 0.0f;
            if (row < end) {
                float m[wide<T>];
                load_wide(b + static_cast<int64_t>(row) * rank + part * wide<T>, m);
#pragma unroll
                for (int j = 0; j < wide<T>; ++j) sum = fmaf(mine[j], m[j], sum);
            }
            for (int step = lanes / 2; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
            if (part == 0 && row < end) y[row] = from_float<T>(to_float(y[row]) + scale * sum);
        }
        return;
    }
    for (int row = begin + threadIdx.x; row < end; row += blockDim.x) {
        const T* m = b + static_cast<int64_t>(row) * rank;
        float sum = 0.0f;
        for (int r = 0; r < rank; ++r) sum = fmaf(v[r], to_float(m[r]), sum);
        y[row] = from_float<T>(to_float(y[row]) + scale * sum);
    }
}

/// Which factors a token uses.
struct Groups {
    const int32_t *group_of_row, *begin;
    int rows;
    __device__ int of(int token) const { return group_of_row[row_of(begin, rows, token)]; }
};

/// u[t, r] = x[t] . A[r]: grid (tokens, parts of the rank), a warp takes two ranks.
template <class T>
__global__ void __launch_bounds__(row_threads)
    project_rows(const T* x, const T* a, Groups groups, int d, int rank, bool wide_loads, float* u) {
    const int token = blockIdx.x, group = groups.of(token), lane = threadIdx.x % 32;
    const int r = (blockIdx.y * (row_threads / 32) + threadIdx.x / 32) * 2;
    if (r >= rank) return;
    float sums[2] = {};
    const int count = min(2, rank - r);
    if (group >= 0)
        dot_rows<T, 2>(x + static_cast<int64_t>(token) * d, a + (static_cast<int64_t>(group) * rank + r) * d,
                       d, count, 0, d, wide_loads, sums);
    if (lane < count) u[static_cast<int64_t>(token) * rank + r + lane] = lane ? sums[1] : sums[0];
}

/// y[t] += scale B v[t]: grid (tokens, parts of d). Shared memory: rank floats.
template <class T>
__global__ void __launch_bounds__(row_threads)
    expand_rows(const float* v, const T* b, Groups groups, int d, int rank, int part, float scale,
                bool wide_loads, T* y) {
    extern __shared__ float shared_v[];
    const int token = blockIdx.x, group = groups.of(token);
    if (group < 0) return;
    for (int r = threadIdx.x; r < rank; r += row_threads)
        shared_v[r] = v[static_cast<int64_t>(token) * rank + r];
    __syncthreads();
    const int begin = blockIdx.y * part;
    add_rows(shared_v, b + static_cast<int64_t>(group) * d * rank, begin, min(d, begin + part), rank, scale,
             y + static_cast<int64_t>(token) * d, wide_loads);
}

/// dv[t, r] = scale sum_o dy[t, o] B[o, r]: a block a token and 32 ranks, 4 warps share the sum over o.
template <class T>
__global__ void __launch_bounds__(row_threads)
    project_columns(const T* dy, const T* b, Groups groups, int d, int rank, float scale, float* dv) {
    __shared__ float parts[row_threads];
    const int token = blockIdx.x, group = groups.of(token);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, r = blockIdx.y * 32 + lane;
    float sum = 0.0f;
    if (group >= 0 && r < rank) {
        const T* m = b + static_cast<int64_t>(group) * d * rank + r;
        for (int o = warp; o < d; o += row_threads / 32)
            sum = fmaf(to_float(dy[static_cast<int64_t>(token) * d + o]),
                       to_float(m[static_cast<int64_t>(o) * rank]), sum);
    }
    parts[threadIdx.x] = sum;
    __syncthreads();
    if (warp > 0 || r >= rank) return;
    for (int w = 1; w < row_threads / 32; ++w) sum += parts[w * 32 + lane];
    dv[static_cast<int64_t>(token) * rank + r] = scale * sum;
}

/// dx[t, c] += sum_r du[t, r] A[r, c]: grid (tokens, parts of d). Shared memory: rank floats.
template <class T>
__global__ void __launch_bounds__(row_threads)
    expand_columns(const float* du, const T* a, Groups groups, int d, int rank, T* dx) {
    extern __shared__ float shared_v[];
    const int token = blockIdx.x, group = groups.of(token);
    if (group < 0) return;
    for (int r = threadIdx.x; r < rank; r += row_threads)
        shared_v[r] = du[static_cast<int64_t>(token) * rank + r];
    __syncthreads();
    const int c = blockIdx.y * row_threads + threadIdx.x;
    if (c >= d) return;
    const T* m = a + static_cast<int64_t>(group) * rank * d + c;
    float sum = 0.0f;
    for (int r = 0; r < rank; ++r) sum = fmaf(shared_v[r], to_float(m[static_cast<int64_t>(r) * d]), sum);
    T& to = dx[static_cast<int64_t>(token) * d + c];
    to = from_float<T>(to_float(to) + sum);
}

/// G += scale sum_t v[t] x[t]^T, an element a thread: grid (parts of rank x d, groups).
template <class T>
__global__ void __launch_bounds__(row_threads)
    outer_elements(const float* v, const T* x, const Segment* items, const GroupItems* groups, int d,
                   int rank, float scale, bool transposed, float* gradient) {
    const GroupItems group = groups[blockIdx.y];
    const int64_t at = static_cast<int64_t>(blockIdx.x) * row_threads + threadIdx.x;
    if (at >= static_cast<int64_t>(rank) * d) return;
    // Neighbouring threads read neighbouring columns of x.
    const int r = static_cast<int>(at / d), c = static_cast<int>(at % d);
    float sum = 0.0f;
    for (int i = group.first; i < group.last; ++i)
        for (int t = items[i].begin; t < items[i].end; ++t)
            sum = fmaf(v[static_cast<int64_t>(t) * rank + r], to_float(x[static_cast<int64_t>(t) * d + c]),
                       sum);
    gradient[static_cast<int64_t>(group.group) * rank * d +
             (transposed ? static_cast<int64_t>(c) * rank + r : static_cast<int64_t>(r) * d + c)] +=
        scale * sum;
}

}  // namespace polyad::kernels::cuda
