// SPDX-License-Identifier: Apache-2.0
// Device side that kernels share: element types, loads of eight, warp sums, bf16 matrix fragments.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace polyad::kernels::cuda {

using bf16 = __nv_bfloat16;

__device__ __forceinline__ float to_float(float x) {
    return x;
}
__device__ __forceinline__ float to_float(bf16 x) {
    return __bfloat162float(x);
}
template <class T>
__device__ __forceinline__ T from_float(float x) {
    if constexpr (sizeof(T) == 4)
        return x;
    else
        return __float2bfloat16_rn(x);
}

/// Elements of one 16-byte access.
template <class T>
inline constexpr int wide = 16 / static_cast<int>(sizeof(T));

/// wide<T> neighbours as floats; `p` 16-byte aligned.
__device__ __forceinline__ void load_wide(const float* p, float* out) {
    const float4 v = *reinterpret_cast<const float4*>(p);
    out[0] = v.x, out[1] = v.y, out[2] = v.z, out[3] = v.w;
}
__device__ __forceinline__ void spread(const uint4& v, float* out) {
    const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        out[2 * i] = __uint_as_float(words[i] << 16);
        out[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
    }
}
__device__ __forceinline__ void load_wide(const bf16* p, float* out) {
    spread(*reinterpret_cast<const uint4*>(p), out);
}
__device__ __forceinline__ uint32_t pack(float low, float high) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
}
__device__ __forceinline__ void store_wide(float* p, const float* in) {
    *reinterpret_cast<float4*>(p) = make_float4(in[0], in[1], in[2], in[3]);
}
__device__ __forceinline__ void store_wide(bf16* p, const float* in) {
    *reinterpret_cast<uint4*>(p) =
        make_uint4(pack(in[0], in[1]), pack(in[2], in[3]), pack(in[4], in[5]), pack(in[6], in[7]));
}

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}
__device__ __forceinline__ double warp_sum(double x) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
    return x;
}

/// Sum over a block of whole warps, in a fixed order; `shared` holds one value a warp. Every thread gets it.
template <class Value>
__device__ __forceinline__ Value block_sum(Value x, Value* shared) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    x = warp_sum(x);
    __syncthreads();
    if (lane == 0) shared[warp] = x;
    __syncthreads();
    Value total = 0;
    for (int w = 0; w < warps; ++w) total += shared[w];
    return total;
}
__device__ __forceinline__ float block_max(float x, float* shared) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    x = warp_max(x);
    __syncthreads();
    if (lane == 0) shared[warp] = x;
    __syncthreads();
    float top = shared[0];
    for (int w = 1; w < warps; ++w) top = fmaxf(top, shared[w]);
    return top;
}

/// The row a token belongs to: begin[row] <= token < begin[row + 1]. Empty rows are passed over.
__device__ __forceinline__ int row_of(const int32_t* begin, int rows, int token) {
    int low = 0, high = rows - 1;
    while (low < high) {
        const int middle = (low + high + 1) / 2;
        if (begin[middle] <= token)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

// ---- bf16 tensor-core products, m16n8k16, float32 sums ----
// Accumulator c[4] of a 16 x 8 tile: rows lane / 4 (c[0], c[1]) and lane / 4 + 8 (c[2], c[3]), columns
// lane % 4 * 2 and the next.

__device__ __forceinline__ uint32_t shared_address(const void* p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}
__device__ __forceinline__ void load_matrices(uint32_t* r, const bf16* p) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(p)));
}
__device__ __forceinline__ void load_matrices_transposed(uint32_t* r, const bf16* p) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(p)));
}
/// A [16 x 16] at `tile`, rows of `stride` elements.
__device__ __forceinline__ void load_a(uint32_t* a, const bf16* tile, int stride) {
    const int lane = threadIdx.x % 32;
    load_matrices(a, tile + (lane % 16) * stride + lane / 16 * 8);
}
/// A [16 x 16] that lies transposed: tile[k][m].
__device__ __forceinline__ void load_a_transposed(uint32_t* a, const bf16* tile, int stride) {
    const int lane = threadIdx.x % 32, matrix = lane / 8;
    load_matrices_transposed(a, tile + (matrix / 2 * 8 + lane % 8) * stride + matrix % 2 * 8);
}
/// Two neighbouring B tiles [16 x 8] from rows tile[n][k]: b[0..1] for n < 8, b[2..3] for the next eight.
__device__ __forceinline__ void load_b(uint32_t* b, const bf16* tile, int stride) {
    const int lane = threadIdx.x % 32, matrix = lane / 8;
    load_matrices(b, tile + (matrix / 2 * 8 + lane % 8) * stride + matrix % 2 * 8);
}
/// The same from tile[k][n].
__device__ __forceinline__ void load_b_transposed(uint32_t* b, const bf16* tile, int stride) {
    const int lane = threadIdx.x % 32, matrix = lane / 8;
    load_matrices_transposed(b, tile + (matrix % 2 * 8 + lane % 8) * stride + matrix / 2 * 8);
}
__device__ __forceinline__ void multiply(float* c, const uint32_t* a, const uint32_t* b) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// ---- asynchronous copies to shared memory ----
/// 16 bytes, zeros when not `valid` (the address must be readable memory all the same, or is not read).
__device__ __forceinline__ void copy_async(void* to, const void* from, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
                 "r"(valid ? 16 : 0));
}
__device__ __forceinline__ void commit_copies() {
    asm volatile("cp.async.commit_group;");
}
template <int Left>
__device__ __forceinline__ void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(Left));
}

}  // namespace polyad::kernels::cuda
