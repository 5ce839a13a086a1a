// SPDX-License-Identifier: Apache-2.0
#include "io/tensor_file.h"

#include <array>
#include <cstring>

#include "base/error.h"

namespace polyad {
namespace {

struct DTypeRow {
    const char* name;
    int64_t elements, bytes;
    int quant;  ///< kernels::Quant, -1: not a weight
};

// Indexed by DType.
constexpr std::array<DTypeRow, 25> rows = {{
    {"F32", 1, 4, 0},       {"F16", 1, 2, 1},         {"BF16", 1, 2, 30},     {"F64", 1, 8, -1},
    {"I8", 1, 1, -1},       {"I16", 1, 2, -1},        {"I32", 1, 4, -1},      {"I64", 1, 8, -1},
    {"U8", 1, 1, -1},       {"BOOL", 1, 1, -1},       {"Q8_0", 32, 34, 8},    {"Q4_0", 32, 18, 2},
    {"Q4_1", 32, 20, 3},    {"Q5_0", 32, 22, 6},      {"Q5_1", 32, 24, 7},    {"Q2_K", 256, 84, 10},
    {"Q3_K", 256, 110, 11}, {"Q4_K", 256, 144, 12},   {"Q5_K", 256, 176, 13}, {"Q6_K", 256, 210, 14},
    {"IQ4_NL", 32, 18, 20}, {"IQ4_XS", 256, 136, 23}, {"U16", 1, 2, -1},      {"U32", 1, 4, -1},
    {"U64", 1, 8, -1},
}};

const DTypeRow& row(DType type) {
    const auto index = static_cast<size_t>(type);
    POLYAD_CHECK(index < rows.size());
    return rows[index];
}

template <class Stored, class Out>
void convert(const StoredTensor& tensor, Out* out) {
    const std::byte* from = tensor.data.data();
    const int64_t n = tensor.elements();
    for (int64_t i = 0; i < n; ++i) {
        Stored value;
        std::memcpy(&value, from + static_cast<size_t>(i) * sizeof(Stored),
                    sizeof(Stored));  // may be unaligned
        out[i] = static_cast<Out>(value);
    }
}

/// False when `type` is not an integer or boolean.
template <class Out>
bool convert_integers(const StoredTensor& tensor, Out* out) {
    switch (tensor.dtype) {
        case DType::i8:
            convert<int8_t>(tensor, out);
            return true;
        case DType::i16:
            convert<int16_t>(tensor, out);
            return true;
        case DType::i32:
            convert<int32_t>(tensor, out);
            return true;
        case DType::i64:
            convert<int64_t>(tensor, out);
            return true;
        case DType::u8:
        case DType::boolean:
            convert<uint8_t>(tensor, out);
            return true;
        case DType::u16:
            convert<uint16_t>(tensor, out);
            return true;
        case DType::u32:
            convert<uint32_t>(tensor, out);
            return true;
        case DType::u64:
            convert<uint64_t>(tensor, out);
            return true;
        default:
            return false;
    }
}

void check_size(const StoredTensor& tensor) {
    const int64_t wanted = checked_bytes(tensor.dtype, tensor.shape, text("tensor '", tensor.name, "'"));
    if (static_cast<int64_t>(tensor.data.size()) != wanted)
        fail(Code::bad_format, "tensor '", tensor.name, "' holds ", tensor.data.size(), " bytes, its shape ",
             shape_text(tensor.shape), " needs ", wanted);
}

}  // namespace

const char* dtype_name(DType type) {
    return row(type).name;
}
int64_t block_elements(DType type) {
    return row(type).elements;
}
int64_t block_bytes(DType type) {
    return row(type).bytes;
}
bool is_weight_dtype(DType type) {
    return row(type).quant >= 0;
}

kernels::Quant quant_of(DType type) {
    if (!is_weight_dtype(type)) {
        std::string allowed;
        for (const DTypeRow& r : rows)
            if (r.quant >= 0) allowed += (allowed.empty() ? "" : ", ") + std::string(r.name);
        fail(Code::unsupported, "dtype ", dtype_name(type), " cannot hold weights, allowed: ", allowed);
    }
    return static_cast<kernels::Quant>(row(type).quant);
}

std::string shape_text(std::span<const int64_t> shape) {
    std::string out = "[";
    for (size_t i = 0; i < shape.size(); ++i) out += (i ? ", " : "") + std::to_string(shape[i]);
    return out + "]";
}

int64_t checked_bytes(DType type, std::span<const int64_t> shape, const std::string& what) {
    int64_t n = 1;
    for (int64_t d : shape) {
        if (d < 0) fail(Code::bad_format, what, ": negative dimension in shape ", shape_text(shape));
        if (__builtin_mul_overflow(n, d, &n))
            fail(Code::bad_format, what, ": shape ", shape_text(shape), " overflows 64 bits");
    }
    const int64_t block = block_elements(type);
    const int64_t inner = shape.empty() ? 1 : shape.back();
    if (inner % block != 0)
        fail(Code::bad_format, what, ": rows of ", inner, " elements are no multiple of the ", block,
             "-element block of ", dtype_name(type));
    int64_t bytes = 0;
    if (__builtin_mul_overflow(n / block, block_bytes(type), &bytes))
        fail(Code::bad_format, what, ": shape ", shape_text(shape), " overflows 64 bits");
    return bytes;
}

void to_float(const StoredTensor& tensor, float* out) {
    check_size(tensor);
    const int64_t n = tensor.elements();
    if (n == 0) return;
    if (tensor.dtype == DType::f32) {
        std::memcpy(out, tensor.data.data(), tensor.data.size());
    } else if (is_weight_dtype(tensor.dtype)) {
        kernels::ops().dequantise(quant_of(tensor.dtype), tensor.data.data(), out, n);
    } else if (tensor.dtype == DType::f64) {
        convert<double>(tensor, out);
    } else {
        convert_integers(tensor, out);
    }
}

std::vector<float> to_float(const StoredTensor& tensor) {
    check_size(tensor);  // before allocating
    std::vector<float> out(static_cast<size_t>(tensor.elements()));
    to_float(tensor, out.data());
    return out;
}

std::vector<int64_t> to_int64(const StoredTensor& tensor) {
    check_size(tensor);
    std::vector<int64_t> out(static_cast<size_t>(tensor.elements()));
    if (!convert_integers(tensor, out.data()))
        fail(Code::unsupported, "tensor '", tensor.name, "' is ", dtype_name(tensor.dtype),
             ", integers are needed");
    return out;
}

StoredTensor float_tensor(std::string name, std::vector<int64_t> shape, std::span<const float> values) {
    StoredTensor out;
    out.owner = Bytes::copy_of(std::as_bytes(values), name);
    out.data = out.owner.span();
    out.name = std::move(name);
    out.shape = std::move(shape);
    check_size(out);
    return out;
}

}  // namespace polyad
