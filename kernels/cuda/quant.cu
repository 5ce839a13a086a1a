// SPDX-License-Identifier: Apache-2.0
// Expansion of ggml's blocks, and products and rows taken straight from them. A thread expands eight weights.
#include "kernels/cuda/ops.h"
#include "kernels/cuda/quant_blocks.h"
#include "kernels/cuda/tile.cuh"

namespace polyad::kernels::cuda {
namespace {

constexpr int threads = 256;

/// Where the eight weights number `group` of a run of blocks lie.
struct Place {
    const uint8_t* block;
    int part;
};
__device__ __forceinline__ Place place_of(const uint8_t* src, BlockSize shape, int64_t group) {
    const int parts = shape.elements / 8;
    return {src + group / parts * shape.bytes, static_cast<int>(group % parts)};
}

template <class T>
__device__ __forceinline__ void store_eight(T* to, bool aligned, const float* w) {
    if (aligned) {
#pragma unroll
        for (int i = 0; i < 8; i += wide<T>) store_wide(to + i, w + i);
        return;
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) to[i] = from_float<T>(w[i]);
}

/// One run of `n` weights to y, by the threads of `step` blocks' stride.
template <class T>
__device__ __forceinline__ void expand_run(Quant quant, const uint8_t* src, int64_t n, int64_t first,
                                           int64_t step, bool aligned, T* y) {
    const BlockSize shape = block_shape(quant);
    for (int64_t g = first; g < n / 8; g += step) {
        const Place place = place_of(src, shape, g);
        float w[8];
        expand_eight(quant, place.block, place.part, w);
        store_eight(y + 8 * g, aligned, w);
    }
    // Only plain types end within eight.
    if (first < n % 8) y[n / 8 * 8 + first] = from_float<T>(plain_value(quant, src, n / 8 * 8 + first));
}

template <class T>
__global__ void __launch_bounds__(threads)
    expand(Quant quant, const uint8_t* src, int64_t n, bool aligned, T* y) {
    expand_run(quant, src, n, static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x,
               static_cast<int64_t>(gridDim.x) * threads, aligned, y);
}

/// y[t, r] = x[t] . W[r] for `Tokens` tokens: a warp a row of W. Each token's sum has the same order whatever
/// Tokens is.
template <class T, int Tokens>
__global__ void __launch_bounds__(threads)
    products(Quant quant, const uint8_t* matrix, const int32_t* source_row, const T* x, int tokens,
             int64_t rows, int columns, int64_t row_bytes, bool aligned, T* y) {
    const int64_t r = static_cast<int64_t>(blockIdx.x) * (threads / 32) + threadIdx.x / 32;
    if (r >= rows) return;
    const int lane = threadIdx.x % 32;
    const uint8_t* src = matrix + (source_row ? source_row[r] : r) * row_bytes;
    const BlockSize shape = block_shape(quant);
    float sums[Tokens] = {};
#pragma unroll 2
    for (int g = lane; g < columns / 8; g += 32) {
        const Place place = place_of(src, shape, g);
        float w[8];
        expand_eight(quant, place.block, place.part, w);
#pragma unroll
        for (int t = 0; t < Tokens; ++t) {
            if (t >= tokens) break;
            const T* from = x + static_cast<int64_t>(t) * columns + 8 * g;
            float v[8];
            if (aligned) {
#pragma unroll
                for (int i = 0; i < 8; i += wide<T>) load_wide(from + i, v + i);
            } else {
#pragma unroll
                for (int i = 0; i < 8; ++i) v[i] = to_float(from[i]);
            }
#pragma unroll
            for (int i = 0; i < 8; ++i) sums[t] = fmaf(w[i], v[i], sums[t]);
        }
    }
    if (lane < columns % 8) {
        const int k = columns / 8 * 8 + lane;
        const float w = plain_value(quant, src, k);
#pragma unroll
        for (int t = 0; t < Tokens; ++t)
            if (t < tokens) sums[t] = fmaf(w, to_float(x[static_cast<int64_t>(t) * columns + k]), sums[t]);
    }
#pragma unroll
    for (int t = 0; t < Tokens; ++t) {
        const float sum = warp_sum(sums[t]);
        if (lane == 0 && t < tokens) y[t * rows + r] = from_float<T>(sum);
    }
}

BlockSize known_shape(Quant quant, int64_t n) {
    const BlockSize shape = block_shape(quant);
    if (shape.bytes == 0) fail("no block type has the number %d", static_cast<int>(quant));
    if (!is_plain(quant) && n % shape.elements != 0)
        fail("%lld weights are no whole blocks of %d", static_cast<long long>(n), shape.elements);
    return shape;
}
int64_t bytes_of(BlockSize shape, int64_t n) {
    return n * shape.bytes / shape.elements;
}

template <class T>
void expand_all(const char* name, Quant quant, const void* src, T* dst, int64_t n) {
    run(name, [&](Call& call) {
        known_shape(quant, n);
        if (n <= 0) return;
        expand<<<blocks_for(n, int64_t{8} * threads), threads, 0, call.stream()>>>(
            quant, static_cast<const uint8_t*>(src), n, aligned16(dst), dst);
        call.launched();
    });
}

}  // namespace

void dequantise(Quant type, const void* src, float* dst, int64_t n) {
    expand_all("dequantise", type, src, dst, n);
}

void dequantise_bf16(Quant type, const void* src, uint16_t* dst, int64_t n) {
    expand_all("dequantise_bf16", type, src, reinterpret_cast<bf16*>(dst), n);
}

void multiply_packed(Quant quant, const void* w, const int32_t* source_row, Float type, const void* x,
                     int64_t n, int64_t rows, int64_t columns, void* y) {
    run("multiply_packed", [&](Call& call) {
        const int64_t row_bytes = bytes_of(known_shape(quant, columns), columns);
        if (n <= 0 || rows <= 0) return;
        const int32_t* source = source_row ? call.stage(source_row, rows) : nullptr;
        with_type(type, [&](auto element) {
            using T = decltype(element);
            constexpr int most = 8;
            const bool aligned = columns % 8 == 0 && aligned16(x);
            for (int64_t t = 0; t < n; t += most) {
                const auto kernel = n - t == 1   ? products<T, 1>
                                    : n - t <= 4 ? products<T, 4>
                                                 : products<T, most>;
                kernel<<<blocks_for(rows, threads / 32), threads, 0, call.stream()>>>(
                    quant, static_cast<const uint8_t*>(w), source, static_cast<const T*>(x) + t * columns,
                    static_cast<int>(n - t < most ? n - t : most), rows, static_cast<int>(columns), row_bytes,
                    aligned, static_cast<T*>(y) + t * rows);
                call.launched();
            }
        });
    });
}

}  // namespace polyad::kernels::cuda
