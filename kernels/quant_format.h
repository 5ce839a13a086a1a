// SPDX-License-Identifier: Apache-2.0
// What ggml's block formats are made of, the same for the CPU's and the CUDA kernels.
#pragma once

#include <cstdint>

#include "kernels/op_table.h"

// Static on the host: each instruction set compiles its own, and the linker must not pick one for all.
#if defined(__CUDACC__)
#define POLYAD_SHARED_CODE __host__ __device__ __forceinline__
#else
#define POLYAD_SHARED_CODE static inline
#endif

namespace polyad::kernels {

/// 6-bit scale and minimum number j of a K block's 12 packed bytes.
POLYAD_SHARED_CODE void scale_min(int j, const uint8_t* q, int& scale, int& minimum) {
    if (j < 4) {
        scale = q[j] & 63;
        minimum = q[j + 4] & 63;
    } else {
        scale = (q[j + 4] & 15) | (q[j - 4] >> 6) << 4;
        minimum = (q[j + 4] >> 4) | (q[j] >> 6) << 4;
    }
}

/// Elements and bytes of a format's block; no bytes for a number that is no format.
struct BlockSize {
    int elements, bytes;
};
POLYAD_SHARED_CODE BlockSize block_of(Quant quant) {
    switch (quant) {
        case Quant::f32:
            return {1, 4};
        case Quant::f16:
        case Quant::bf16:
            return {1, 2};
        case Quant::q4_0:
        case Quant::iq4_nl:
            return {32, 18};
        case Quant::q4_1:
            return {32, 20};
        case Quant::q5_0:
            return {32, 22};
        case Quant::q5_1:
            return {32, 24};
        case Quant::q8_0:
            return {32, 34};
        case Quant::q2_k:
            return {256, 84};
        case Quant::q3_k:
            return {256, 110};
        case Quant::q4_k:
            return {256, 144};
        case Quant::q5_k:
            return {256, 176};
        case Quant::q6_k:
            return {256, 210};
        case Quant::iq4_xs:
            return {256, 136};
    }
    return {1, 0};
}

}  // namespace polyad::kernels
