// SPDX-License-Identifier: Apache-2.0
// Named tensors as they lie in a file: what safetensors, GGUF and bundles have in common.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/bytes.h"

namespace polyad {

/// Storage types Polyad reads. Values are Polyad's own; io/gguf maps ggml's numbers onto them.
enum class DType : int {
    f32 = 0, f16, bf16, f64, i8, i16, i32, i64, u8, boolean,
    q8_0, q4_0, q4_1, q5_0, q5_1, q2_k, q3_k, q4_k, q5_k, q6_k, iq4_nl, iq4_xs,
};

const char* dtype_name(DType type);
/// Elements per block (1 for plain types) and bytes per block.
int64_t block_elements(DType type);
int64_t block_bytes(DType type);

/// A tensor inside `owner`'s bytes. Shape is row-major, outermost first (a GGUF's ne[] reversed).
struct StoredTensor {
    std::string name;
    DType dtype = DType::f32;
    std::vector<int64_t> shape;
    std::span<const std::byte> data;
    Bytes owner;

    int64_t elements() const {
        int64_t n = 1;
        for (int64_t d : shape) n *= d;
        return n;
    }
};

}  // namespace polyad
