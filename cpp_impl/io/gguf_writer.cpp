// SPDX-License-Identifier: Apache-2.0
#include "io/gguf_writer.h"

#include <algorithm>

#include "base/error.h"
#include "io/gguf.h"

namespace polyad {
namespace {

constexpr size_t alignment = 32;  // llama.cpp's when general.alignment is not given

template <class T>
void put(std::string& to, T value) {
    to.append(reinterpret_cast<const char*>(&value), sizeof value);  // little endian machines only
}

void put_text(std::string& to, std::string_view value) {
    put<uint64_t>(to, value.size());
    to.append(value);
}

void pad(std::string& to) {
    to.append((alignment - to.size() % alignment) % alignment, '\0');
}

}  // namespace

void GgufWriter::key(std::string_view name, uint32_t type) {
    if (std::find(keys_.begin(), keys_.end(), name) != keys_.end())
        fail(Code::invalid_argument, "GGUF metadata '", name, "' is given twice");
    keys_.emplace_back(name);
    put_text(metadata_, name);
    put(metadata_, type);
}

void GgufWriter::add(std::string_view name, std::string_view value) {
    key(name, static_cast<uint32_t>(GgufType::string));
    put_text(metadata_, value);
}

void GgufWriter::add(std::string_view name, uint32_t value) {
    key(name, static_cast<uint32_t>(GgufType::u32));
    put(metadata_, value);
}

void GgufWriter::add(std::string_view name, float value) {
    key(name, static_cast<uint32_t>(GgufType::f32));
    put(metadata_, value);
}

void GgufWriter::add(StoredTensor tensor) {
    if (tensor.dtype != DType::f32 || tensor.shape.empty() || tensor.shape.size() > 4)
        fail(Code::invalid_argument, "GGUF tensor '", tensor.name, "' is ", dtype_name(tensor.dtype), " ",
             shape_text(tensor.shape), ", allowed: float32 of 1 to 4 dimensions");
    POLYAD_CHECK(static_cast<size_t>(checked_bytes(tensor.dtype, tensor.shape, tensor.name)) ==
                 tensor.data.size());
    for (const StoredTensor& other : tensors_)
        if (other.name == tensor.name)
            fail(Code::invalid_argument, "GGUF tensor '", tensor.name, "' is given twice");
    tensors_.push_back(std::move(tensor));
}

std::string GgufWriter::encode() const {
    std::string out = "GGUF";
    put<uint32_t>(out, 3);
    put<uint64_t>(out, tensors_.size());
    put<uint64_t>(out, keys_.size());
    out += metadata_;
    uint64_t offset = 0;
    for (const StoredTensor& tensor : tensors_) {
        put_text(out, tensor.name);
        put<uint32_t>(out, static_cast<uint32_t>(tensor.shape.size()));
        for (auto size = tensor.shape.rbegin(); size != tensor.shape.rend(); ++size)
            put<uint64_t>(out, static_cast<uint64_t>(*size));
        put<uint32_t>(out, 0);  // ggml's F32
        put<uint64_t>(out, offset);
        offset += (tensor.data.size() + alignment - 1) / alignment * alignment;
    }
    pad(out);
    for (const StoredTensor& tensor : tensors_) {
        out.append(reinterpret_cast<const char*>(tensor.data.data()), tensor.data.size());
        pad(out);
    }
    return out;
}

}  // namespace polyad
