// SPDX-License-Identifier: Apache-2.0
#include "io/gguf.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

#include "base/error.h"

namespace polyad {
namespace {

constexpr uint64_t max_dimensions = 4;
constexpr uint64_t default_alignment = 32, max_alignment = 1 << 20;
constexpr size_t smallest_entry = 8 + 4 + 1;       // key length, type, one byte of value
constexpr size_t smallest_tensor = 8 + 4 + 4 + 8;  // name length, dimensions, type, offset

/// Bytes of a fixed-size metadata type, 0 for strings, arrays and unknown numbers.
size_t fixed_size(GgufType type) {
    switch (type) {
        case GgufType::u8:
        case GgufType::i8:
        case GgufType::boolean:
            return 1;
        case GgufType::u16:
        case GgufType::i16:
            return 2;
        case GgufType::u32:
        case GgufType::i32:
        case GgufType::f32:
            return 4;
        case GgufType::u64:
        case GgufType::i64:
        case GgufType::f64:
            return 8;
        default:
            return 0;
    }
}

/// Walks the header; never moves past the end and never adds before comparing.
class Reader {
  public:
    Reader(std::span<const std::byte> data, const std::string& name) : data_(data), name_(name) {}

    size_t position() const { return position_; }
    size_t left() const { return data_.size() - position_; }

    std::span<const std::byte> take(uint64_t n, const std::string& what) {
        if (n > left())
            fail(Code::bad_format, name_, ": ", what, " at byte ", position_, " needs ", n, " bytes, ",
                 left(), " are left");
        const auto out = data_.subspan(position_, n);
        position_ += n;
        return out;
    }
    template <class T>
    T number(const std::string& what) {
        T out;
        std::memcpy(&out, take(sizeof(T), what).data(), sizeof(T));
        return out;
    }
    std::string_view string(const std::string& what) {
        const auto bytes = take(number<uint64_t>(what + " (length)"), what);
        return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
    }
    std::string name(const std::string& what) {
        const size_t at = position_;
        const std::string_view out = string(what);
        if (find_invalid_utf8(out) != std::string_view::npos)
            fail(Code::bad_format, name_, ": ", what, " at byte ", at, " is not UTF-8");
        return std::string(out);
    }
    void count_fits(uint64_t count, size_t smallest, const char* what) const {
        if (count > left() / smallest)
            fail(Code::bad_format, name_, ": ", what, " = ", count, ", the ", left(),
                 " bytes that follow cannot hold them");
    }
    /// Moves past one value and returns its bytes.
    std::span<const std::byte> value(GgufType type, uint64_t count, const std::string& what) {
        if (const size_t size = fixed_size(type)) {
            count_fits(count, size, what.c_str());
            return take(count * size, what);
        }
        if (type != GgufType::string)
            fail(Code::bad_format, name_, ": ", what, " at byte ", position_, " has value type ",
                 static_cast<uint32_t>(type), type == GgufType::array ? " (an array in an array)" : "",
                 ", allowed: 0 to 8 and 10 to 12, or an array of these");
        count_fits(count, 8, what.c_str());
        const size_t begin = position_;
        for (uint64_t i = 0; i < count; ++i) string(what);
        return data_.subspan(begin, position_ - begin);
    }

  private:
    std::span<const std::byte> data_;
    const std::string& name_;
    size_t position_ = 0;
};

GgufValue read_entry(Reader& in) {
    GgufValue out;
    out.key = in.name("a metadata key");
    const std::string what = "metadata '" + out.key.substr(0, 80) + "'";
    out.type = out.element = static_cast<GgufType>(in.number<uint32_t>(what + " (type)"));
    if (out.type == GgufType::array) {
        out.element = static_cast<GgufType>(in.number<uint32_t>(what + " (element type)"));
        out.count = in.number<uint64_t>(what + " (array length)");
    }
    out.data = in.value(out.element, out.count, what);
    return out;
}

DType dtype_of(uint32_t number, const std::string& what) {
    switch (number) {
        case 0:
            return DType::f32;
        case 1:
            return DType::f16;
        case 2:
            return DType::q4_0;
        case 3:
            return DType::q4_1;
        case 6:
            return DType::q5_0;
        case 7:
            return DType::q5_1;
        case 8:
            return DType::q8_0;
        case 10:
            return DType::q2_k;
        case 11:
            return DType::q3_k;
        case 12:
            return DType::q4_k;
        case 13:
            return DType::q5_k;
        case 14:
            return DType::q6_k;
        case 20:
            return DType::iq4_nl;
        case 23:
            return DType::iq4_xs;
        case 24:
            return DType::i8;
        case 25:
            return DType::i16;
        case 26:
            return DType::i32;
        case 27:
            return DType::i64;
        case 28:
            return DType::f64;
        case 30:
            return DType::bf16;
        default:
            break;
    }
    static constexpr std::pair<uint32_t, const char*> others[] = {
        {9, "Q8_1"},   {15, "Q8_K"},  {16, "IQ2_XXS"}, {17, "IQ2_XS"}, {18, "IQ3_XXS"}, {19, "IQ1_S"},
        {21, "IQ3_S"}, {22, "IQ2_S"}, {29, "IQ1_M"},   {34, "TQ1_0"},  {35, "TQ2_0"},   {39, "MXFP4"},
    };
    const char* name = nullptr;
    for (const auto& [value, other] : others)
        if (value == number) name = other;
    fail(name ? Code::unsupported : Code::bad_format, what, ": tensor type ", number, " (",
         name ? name : "unknown",
         ") cannot be read, allowed: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K, Q3_K, Q4_K, Q5_K, "
         "Q6_K, "
         "IQ4_NL, IQ4_XS, F64, I8, I16, I32, I64");
}

struct TensorInfo {
    StoredTensor tensor;
    uint64_t offset = 0, bytes = 0;
};

TensorInfo read_tensor(Reader& in, const std::string& file) {
    TensorInfo out;
    out.tensor.name = in.name("a tensor name");
    const std::string what = text(file, ": tensor '", out.tensor.name.substr(0, 80), "'");
    const uint64_t dimensions = in.number<uint32_t>(what + " (dimensions)");
    if (dimensions < 1 || dimensions > max_dimensions)
        fail(Code::bad_format, what, ": ", dimensions, " dimensions, allowed: 1 to ", max_dimensions);
    for (uint64_t d = 0; d < dimensions; ++d) {
        const auto size = static_cast<int64_t>(in.number<uint64_t>(what + " (shape)"));
        if (size < 1) fail(Code::bad_format, what, ": dimension ", d, " is ", size, ", it must be positive");
        out.tensor.shape.insert(out.tensor.shape.begin(), size);  // ne[] has the innermost first
    }
    out.tensor.dtype = dtype_of(in.number<uint32_t>(what + " (type)"), what);
    out.offset = in.number<uint64_t>(what + " (offset)");
    out.bytes = static_cast<uint64_t>(checked_bytes(out.tensor.dtype, out.tensor.shape, what));
    return out;
}

void check_overlaps(const std::vector<TensorInfo>& infos, const std::string& file) {
    std::vector<const TensorInfo*> order;
    for (const TensorInfo& info : infos) order.push_back(&info);
    std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) { return a->offset < b->offset; });
    for (size_t i = 1; i < order.size(); ++i)
        if (order[i]->offset - order[i - 1]->offset < order[i - 1]->bytes)
            fail(Code::bad_format, file, ": the data of '", order[i]->tensor.name, "' overlaps that of '",
                 order[i - 1]->tensor.name, "'");
}

template <class T>
T load(const std::byte* p) {
    T out;
    std::memcpy(&out, p, sizeof(T));
    return out;
}

Json scalar(GgufType type, const std::byte* p) {
    switch (type) {
        case GgufType::u8:
            return load<uint8_t>(p);
        case GgufType::i8:
            return load<int8_t>(p);
        case GgufType::u16:
            return load<uint16_t>(p);
        case GgufType::i16:
            return load<int16_t>(p);
        case GgufType::u32:
            return load<uint32_t>(p);
        case GgufType::i32:
            return load<int32_t>(p);
        case GgufType::f32:
            return load<float>(p);
        case GgufType::boolean:
            return load<uint8_t>(p) != 0;
        case GgufType::u64:
            return load<uint64_t>(p);
        case GgufType::i64:
            return load<int64_t>(p);
        case GgufType::f64:
            return load<double>(p);
        default:
            fail(Code::internal, "not a scalar metadata type");
    }
}

}  // namespace

const char* gguf_type_name(GgufType type) {
    static constexpr const char* names[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                            "bool", "string", "array", "u64", "i64", "f64"};
    const auto index = static_cast<uint32_t>(type);
    return index < std::size(names) ? names[index] : "unknown";
}

Json GgufValue::to_json() const {
    size_t at = 0;
    const auto next = [&](uint64_t index) -> Json {
        if (element != GgufType::string) {
            const std::byte* p = data.data() + at;
            at += fixed_size(element);
            return scalar(element, p);
        }
        const auto length = load<uint64_t>(data.data() + at);  // walked once by the parser: it fits
        const std::string_view s(reinterpret_cast<const char*>(data.data()) + at + 8, length);
        at += 8 + length;
        if (find_invalid_utf8(s) != std::string_view::npos)
            fail(Code::bad_format, "metadata '", key, "'",
                 type == GgufType::array ? text("[", index, "]") : "", ": text is not UTF-8");
        return std::string(s);
    };
    if (type != GgufType::array) return next(0);
    Json out = Json::array();
    for (uint64_t i = 0; i < count; ++i) out.push_back(next(i));
    return out;
}

GgufFile GgufFile::parse(const Bytes& file) {
    GgufFile out;
    out.name_ = file.name();
    Reader in(file.span(), out.name_);
    const auto magic = in.take(4, "the magic");
    if (std::memcmp(magic.data(), "GGUF", 4) != 0)
        fail(Code::bad_format, out.name_, ": not a GGUF file (byte 0)");
    out.version_ = in.number<uint32_t>("the version");
    if (out.version_ != 2 && out.version_ != 3)
        fail(Code::unsupported, out.name_, ": GGUF version ", out.version_,
             __builtin_bswap32(out.version_) <= 3 ? " (a big-endian file)" : "",
             ", allowed: 2 and 3, little endian");
    const auto tensor_count = in.number<uint64_t>("tensor_count");
    const auto entry_count = in.number<uint64_t>("metadata_kv_count");
    in.count_fits(tensor_count, smallest_tensor, "tensor_count");
    in.count_fits(entry_count, smallest_entry, "metadata_kv_count");

    std::set<std::string> names;
    for (uint64_t i = 0; i < entry_count; ++i) {
        out.metadata_.push_back(read_entry(in));
        if (!names.insert(out.metadata_.back().key).second)
            fail(Code::bad_format, out.name_, ": metadata '", out.metadata_.back().key, "' is given twice");
    }
    std::vector<TensorInfo> infos;
    names.clear();
    for (uint64_t i = 0; i < tensor_count; ++i) {
        infos.push_back(read_tensor(in, out.name_));
        if (!names.insert(infos.back().tensor.name).second)
            fail(Code::bad_format, out.name_, ": tensor '", infos.back().tensor.name, "' is listed twice");
    }

    uint64_t alignment = default_alignment;
    if (const auto given = out.integer("general.alignment")) alignment = static_cast<uint64_t>(*given);
    if (alignment < 8 || alignment > max_alignment || (alignment & (alignment - 1)) != 0)
        fail(Code::bad_format, out.name_, ": general.alignment = ", alignment,
             ", allowed: a power of two from 8 to ", max_alignment);
    const uint64_t start = (in.position() + alignment - 1) / alignment * alignment;
    const uint64_t available = start > file.size() ? 0 : file.size() - start;
    for (TensorInfo& info : infos) {
        if (info.offset % alignment != 0)
            fail(Code::bad_format, out.name_, ": tensor '", info.tensor.name, "': offset ", info.offset,
                 " is no multiple of the alignment ", alignment);
        if (info.offset > available || info.bytes > available - info.offset)
            fail(Code::bad_format, out.name_, ": tensor '", info.tensor.name, "' takes ", info.bytes,
                 " bytes at data offset ", info.offset, ", the data section has ", available);
        info.tensor.data = file.span().subspan(start + info.offset, info.bytes);
        info.tensor.owner = file;
    }
    check_overlaps(infos, out.name_);
    for (TensorInfo& info : infos) out.tensors_.push_back(std::move(info.tensor));
    return out;
}

const GgufValue* GgufFile::find(std::string_view key) const {
    for (const GgufValue& value : metadata_)
        if (value.key == key) return &value;
    return nullptr;
}

const StoredTensor* GgufFile::find_tensor(std::string_view name) const {
    for (const StoredTensor& tensor : tensors_)
        if (tensor.name == name) return &tensor;
    return nullptr;
}

std::optional<std::string> GgufFile::string(std::string_view key) const {
    const GgufValue* value = find(key);
    if (!value) return std::nullopt;
    if (value->type != GgufType::string)
        fail(Code::bad_format, name_, ": metadata '", key, "' needs a string, got ",
             gguf_type_name(value->type));
    return value->to_json().get<std::string>();
}

std::optional<int64_t> GgufFile::integer(std::string_view key) const {
    const GgufValue* value = find(key);
    if (!value) return std::nullopt;
    if (value->type == GgufType::string || value->type == GgufType::array || value->type == GgufType::boolean)
        fail(Code::bad_format, name_, ": metadata '", key, "' needs an integer, got ",
             gguf_type_name(value->type));
    const Json json = value->to_json();
    if (!json.is_number_integer() ||
        (json.is_number_unsigned() && json.get<uint64_t>() > uint64_t{INT64_MAX}))
        fail(Code::bad_format, name_, ": metadata '", key, "' = ", json.dump(),
             ", an integer below 2^63 is needed");
    return json.get<int64_t>();
}

std::optional<double> GgufFile::number(std::string_view key) const {
    const GgufValue* value = find(key);
    if (!value) return std::nullopt;
    const Json json = value->type == GgufType::array ? Json() : value->to_json();
    if (!json.is_number())
        fail(Code::bad_format, name_, ": metadata '", key, "' needs a number, got ",
             gguf_type_name(value->type));
    return json.get<double>();
}

std::optional<bool> GgufFile::boolean(std::string_view key) const {
    const GgufValue* value = find(key);
    if (!value) return std::nullopt;
    if (value->type != GgufType::boolean)
        fail(Code::bad_format, name_, ": metadata '", key, "' needs a boolean, got ",
             gguf_type_name(value->type));
    return value->to_json().get<bool>();
}

std::string GgufFile::architecture() const {
    if (auto name = string("general.architecture")) return *name;
    fail(Code::bad_format, name_, ": metadata 'general.architecture' is missing");
}

Json GgufFile::tokenizer_metadata() const {
    static constexpr std::string_view prefix = "tokenizer.ggml.";
    Json out;
    for (const GgufValue& value : metadata_) {
        if (value.key.starts_with(prefix)) out[value.key.substr(prefix.size())] = value.to_json();
        if (value.key == "tokenizer.chat_template") out["chat_template"] = value.to_json();
    }
    return out;
}

}  // namespace polyad
