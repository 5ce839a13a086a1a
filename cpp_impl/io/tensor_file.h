// SPDX-License-Identifier: Apache-2.0
// Named tensors as they lie in a file: what safetensors, GGUF and bundles have in common.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "kernels/op_table.h"

namespace polyad {

/// Storage types Polyad reads. Values are Polyad's own; io/gguf maps ggml's numbers onto them.
enum class DType : int {
    f32 = 0,
    f16,
    bf16,
    f64,
    i8,
    i16,
    i32,
    i64,
    u8,
    boolean,
    q8_0,
    q4_0,
    q4_1,
    q5_0,
    q5_1,
    q2_k,
    q3_k,
    q4_k,
    q5_k,
    q6_k,
    iq4_nl,
    iq4_xs,
    u16,
    u32,
    u64,
};

const char* dtype_name(DType type);
/// Elements per block (1 for plain types) and bytes per block.
int64_t block_elements(DType type);
int64_t block_bytes(DType type);
/// f32, f16, bf16 and every block type: what a weight may be stored as.
bool is_weight_dtype(DType type);
/// The kernels' number of a weight dtype (kernels::OpTable::dequantise); Code::unsupported for any other.
kernels::Quant quant_of(DType type);

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

/// "[2, 3]".
std::string shape_text(std::span<const int64_t> shape);
/// Bytes a tensor of this shape takes. Code::bad_format when a dimension is negative, the product overflows,
/// or the innermost dimension is no multiple of the block; `what` names the tensor.
int64_t checked_bytes(DType type, std::span<const int64_t> shape, const std::string& what);

/// Values of a weight, f64, integer or boolean tensor as float32 (blocks expanded bitwise as ggml does).
std::vector<float> to_float(const StoredTensor& tensor);
void to_float(const StoredTensor& tensor, float* out);
/// Values of an integer or boolean tensor; Code::unsupported for floats.
std::vector<int64_t> to_int64(const StoredTensor& tensor);
/// A float32 tensor that owns a copy of `values`.
StoredTensor float_tensor(std::string name, std::vector<int64_t> shape, std::span<const float> values);

}  // namespace polyad
