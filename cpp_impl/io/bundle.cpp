// SPDX-License-Identifier: Apache-2.0
#include "io/bundle.h"

#define MSGPACK_NO_BOOST
#include <algorithm>
#include <msgpack.hpp>
#include <set>

#include "base/error.h"
#include "io/hash.h"

namespace polyad {
namespace {

constexpr const char* format_name = "polyad";
constexpr size_t max_depth = 64;
constexpr size_t max_values = size_t{1} << 23;  // tensor bytes count as one value each
constexpr size_t max_dimensions = 16;
constexpr int64_t max_data = 0xFFFFFFFF;  // msgpack's bin 32
// Marks a binary value that stands for a range of the document: 8 bytes offset, 8 bytes length. Beyond every
// subtype a document can state itself (an ext type is one byte).
constexpr uint64_t range_subtype = uint64_t{1} << 32;
constexpr const char* known_keys[] = {"format", "version",  "backbone", "config",
                                      "tasks",  "metadata", "tensors"};

bool is_known(const std::string& key) {
    return std::find(std::begin(known_keys), std::end(known_keys), key) != std::end(known_keys);
}

struct Sink {
    std::string& out;
    void write(const char* p, size_t n) { out.append(p, n); }
};
using Packer = msgpack::packer<Sink>;

void pack_text(Packer& packer, const std::string& s, const char* where) {
    if (find_invalid_utf8(s) != std::string::npos)
        fail(Code::bad_data, "bundle: ", where, " holds text that is not UTF-8");
    if (s.size() > static_cast<size_t>(max_data))
        fail(Code::unsupported, "bundle: ", where, " holds text above 4 GiB");
    packer.pack_str(static_cast<uint32_t>(s.size()));
    packer.pack_str_body(s.data(), static_cast<uint32_t>(s.size()));
}

void pack_json(Packer& packer, const Json& value, const char* where, size_t depth = 1) {
    if (depth > max_depth)
        fail(Code::invalid_argument, "bundle: ", where, " is nested deeper than ", max_depth, " levels");
    switch (value.type()) {
        case Json::value_t::boolean:
            value.get<bool>() ? packer.pack_true() : packer.pack_false();
            break;
        case Json::value_t::number_integer:
            packer.pack_int64(value.get<int64_t>());
            break;
        case Json::value_t::number_unsigned:
            packer.pack_uint64(value.get<uint64_t>());
            break;
        case Json::value_t::number_float:
            packer.pack_double(value.get<double>());
            break;
        case Json::value_t::string:
            pack_text(packer, value.get_ref<const std::string&>(), where);
            break;
        case Json::value_t::binary: {
            const auto& bytes = value.get_binary();
            const auto n = static_cast<uint32_t>(bytes.size());
            const auto* p = reinterpret_cast<const char*>(bytes.data());
            if (bytes.has_subtype()) {
                packer.pack_ext(n, static_cast<int8_t>(static_cast<uint8_t>(bytes.subtype())));
                packer.pack_ext_body(p, n);
            } else {
                packer.pack_bin(n);
                packer.pack_bin_body(p, n);
            }
            break;
        }
        case Json::value_t::array:
            packer.pack_array(static_cast<uint32_t>(value.size()));
            for (const Json& item : value) pack_json(packer, item, where, depth + 1);
            break;
        case Json::value_t::object:
            packer.pack_map(static_cast<uint32_t>(value.size()));
            for (const auto& [key, item] : value.items()) {
                pack_text(packer, key, where);
                pack_json(packer, item, where, depth + 1);
            }
            break;
        default:
            packer.pack_nil();
            break;
    }
}

void pack_tensor(Packer& packer, const StoredTensor& tensor) {
    const auto size = static_cast<int64_t>(tensor.data.size());
    if (block_elements(tensor.dtype) != 1 || size > max_data)
        fail(Code::unsupported, "bundle: tensor '", tensor.name,
             "' must have a plain dtype and less than 4 GiB");
    POLYAD_CHECK(checked_bytes(tensor.dtype, tensor.shape, tensor.name) == size);
    packer.pack_map(5);
    pack_text(packer, "name", "tensors");
    pack_text(packer, tensor.name, "tensors");
    pack_text(packer, "dtype", "tensors");
    pack_text(packer, dtype_name(tensor.dtype), "tensors");
    pack_text(packer, "shape", "tensors");
    packer.pack_array(static_cast<uint32_t>(tensor.shape.size()));
    for (int64_t d : tensor.shape) packer.pack_int64(d);
    pack_text(packer, "crc32", "tensors");
    packer.pack_uint32(crc32(tensor.data));
    pack_text(packer, "data", "tensors");
    packer.pack_bin(static_cast<uint32_t>(size));
    packer.pack_bin_body(reinterpret_cast<const char*>(tensor.data.data()), static_cast<uint32_t>(size));
}

/// Builds a Json tree from parse events. Counts in the document are never believed: memory grows only with
/// values that were really there.
class Builder : public msgpack::null_visitor {
  public:
    Builder(std::string_view document, const std::string& source) : document_(document), source_(source) {}

    Json take() { return std::move(root_); }

    bool visit_nil() { return put(nullptr); }
    bool visit_boolean(bool v) { return put(v); }
    bool visit_positive_integer(uint64_t v) { return put(v); }
    bool visit_negative_integer(int64_t v) { return put(v); }
    bool visit_float32(float v) { return put(v); }
    bool visit_float64(double v) { return put(v); }
    bool visit_str(const char* p, uint32_t n) {
        const std::string_view s(p, n);
        if (find_invalid_utf8(s) != std::string_view::npos) refuse("text that is not UTF-8", offset(p));
        if (!in_key_) return put(std::string(s));
        if (open_.back()->contains(s))
            refuse(text("the key '", s.substr(0, 80), "' a second time"), offset(p));
        keys_.back() = s;
        return true;
    }
    bool visit_bin(const char* p, uint32_t n) {
        if (open_.size() != 3 || keys_.front() != "tensors") return put(Json::binary(bytes(p, n)));
        const uint64_t range[2] = {offset(p), n};
        return put(Json::binary(bytes(reinterpret_cast<const char*>(range), sizeof(range)), range_subtype));
    }
    bool visit_ext(const char* p, uint32_t n) {  // the first byte is the ext type
        return put(Json::binary(bytes(p + 1, n - 1), static_cast<uint8_t>(*p)));
    }
    bool start_array(uint32_t n) { return open(Json::array(), n, 1); }
    bool end_array() { return close(); }
    bool start_map(uint32_t n) { return open(Json::object(), n, 2); }
    bool start_map_key() {
        in_key_ = true;
        return true;
    }
    bool end_map_key() {
        in_key_ = false;
        return true;
    }
    bool end_map() { return close(); }
    void parse_error(size_t, size_t at) { refuse("a byte that is no msgpack", at); }
    void insufficient_bytes(size_t, size_t at) { refuse("an end in the middle of a value (truncated)", at); }

    [[noreturn]] void refuse(const std::string& what, size_t at) const {
        fail(Code::bad_format, source_, ": ", path(), " at byte ", at, ": ", what);
    }

  private:
    static std::vector<uint8_t> bytes(const char* p, size_t n) { return {p, p + n}; }
    size_t offset(const char* p) const { return static_cast<size_t>(p - document_.data()); }
    std::string path() const {
        std::string out;
        for (size_t i = 0; i < open_.size(); ++i)
            out += open_[i]->is_object() ? (i ? "." : "") + keys_[i].substr(0, 80)
                                         : text("[", open_[i]->size(), "]");
        return out.empty() ? "the document" : out;
    }

    Json* put(Json value) {
        if (in_key_) fail(Code::bad_format, source_, ": ", path(), ": a map key is not text");
        if (++values_ > max_values) fail(Code::bad_format, source_, ": more than ", max_values, " values");
        if (open_.empty()) return &(root_ = std::move(value));
        Json& parent = *open_.back();
        if (parent.is_object()) return &(parent[keys_.back()] = std::move(value));
        parent.push_back(std::move(value));
        return &parent.back();
    }
    bool open(Json value, uint32_t count, uint64_t bytes_each) {
        if (count * bytes_each > document_.size())
            fail(Code::bad_format, source_, ": ", path(), ": ", count, " entries in a document of ",
                 document_.size(), " bytes");
        if (open_.size() >= max_depth)
            fail(Code::bad_format, source_, ": ", path().substr(0, 200), ": nested deeper than ", max_depth,
                 " levels");
        open_.push_back(put(std::move(value)));
        keys_.emplace_back();
        return true;
    }
    bool close() {
        open_.pop_back();
        keys_.pop_back();
        return true;
    }

    std::string_view document_;
    const std::string& source_;
    Json root_;
    std::vector<Json*>
        open_;  // containers around the current place; a parent does not move while one is open
    std::vector<std::string> keys_;  // their current keys
    bool in_key_ = false;
    size_t values_ = 0;
};

const Json& field(const Json& object, const char* key, Json::value_t type, const std::string& where) {
    const auto at = object.find(key);
    if (at == object.end()) fail(Code::bad_format, where, ".", key, ": is missing");
    if (at->type() != type)
        fail(Code::bad_format, where, ".", key, ": needs ", Json(type).type_name(), ", got ",
             at->type_name());
    return *at;
}

StoredTensor read_tensor(const Json& entry, const Bytes& file, size_t index) {
    const std::string where = text(file.name(), ": tensors[", index, "]");
    if (!entry.is_object()) fail(Code::bad_format, where, ": needs an object, got ", entry.type_name());
    StoredTensor out;
    out.name = field(entry, "name", Json::value_t::string, where).get<std::string>();
    const std::string what = text(where, " '", out.name.substr(0, 200), "'");
    const auto dtype = field(entry, "dtype", Json::value_t::string, what).get<std::string>();
    std::string allowed;
    bool known = false;
    for (DType type : {DType::f32, DType::f16, DType::bf16, DType::f64, DType::i8, DType::i16, DType::i32,
                       DType::i64, DType::u8, DType::boolean, DType::u16, DType::u32, DType::u64}) {
        if (dtype == dtype_name(type)) out.dtype = type, known = true;
        allowed += (allowed.empty() ? "" : ", ") + std::string(dtype_name(type));
    }
    if (!known)
        fail(Code::bad_format, what, ".dtype: '", dtype.substr(0, 80), "' is not known, allowed: ", allowed);
    const Json& shape = field(entry, "shape", Json::value_t::array, what);
    if (shape.size() > max_dimensions)
        fail(Code::bad_format, what, ".shape: more than ", max_dimensions, " dimensions");
    for (const Json& d : shape) {
        if (!d.is_number_unsigned() || d.get<uint64_t>() > uint64_t{INT64_MAX})
            fail(Code::bad_format, what, ".shape: ", d.dump().substr(0, 40),
                 " is not a whole number below 2^63");
        out.shape.push_back(d.get<int64_t>());
    }
    const Json& data = field(entry, "data", Json::value_t::binary, what);
    if (data.get_binary().subtype() != range_subtype)
        fail(Code::bad_format, what, ".data: needs bin, got ext");
    uint64_t range[2];
    POLYAD_CHECK(data.get_binary().size() == sizeof(range));
    std::copy_n(data.get_binary().data(), sizeof(range), reinterpret_cast<uint8_t*>(range));
    out.data = file.span().subspan(range[0], range[1]);
    out.owner = file;
    if (const int64_t wanted = checked_bytes(out.dtype, out.shape, what);
        wanted != static_cast<int64_t>(range[1]))
        fail(Code::bad_format, what, ".data at byte ", range[0], ": ", range[1], " bytes, shape ",
             shape_text(out.shape), " needs ", wanted);
    const uint64_t stored = field(entry, "crc32", Json::value_t::number_unsigned, what).get<uint64_t>();
    if (stored != crc32(out.data))
        fail(Code::bad_format, what, ".data at byte ", range[0],
             ": damaged, its CRC-32 is not the stored one");
    return out;
}

void read_version(const Json& root, Bundle& out, const std::string& source) {
    const Json& version = field(root, "version", Json::value_t::array, source);
    const auto small = [](const Json& v) { return v.is_number_unsigned() && v.get<uint64_t>() < 1'000'000; };
    if (version.size() != 2 || !small(version[0]) || !small(version[1]) || version[0] == 0)
        fail(Code::bad_format, source, ".version: needs [major, minor]");
    out.major = version[0].get<int>();
    out.minor = version[1].get<int>();
    if (out.major > Bundle::major_version)
        fail(Code::unsupported, source, ": bundle version ", out.major, ".", out.minor,
             " is newer than this build reads (", Bundle::major_version, ".x)");
}

}  // namespace

std::string encode_bundle(const Bundle& bundle) {
    std::string out;
    size_t size = 4096;
    for (const StoredTensor& tensor : bundle.tensors) size += tensor.data.size() + tensor.name.size() + 96;
    out.reserve(size);
    Sink sink{out};
    Packer packer(sink);
    size_t extra = 0;
    for (const auto& [key, value] : bundle.extra.items()) extra += !is_known(key);
    packer.pack_map(static_cast<uint32_t>(std::size(known_keys) + extra));
    pack_text(packer, "format", "format");
    pack_text(packer, format_name, "format");
    pack_text(packer, "version", "version");
    packer.pack_array(2);
    packer.pack_int(Bundle::major_version);
    packer.pack_int(std::max(bundle.minor, Bundle::minor_version));
    const auto section = [&](const char* key, const Json& value, const Json& empty) {
        pack_text(packer, key, key);
        pack_json(packer, value.is_null() ? empty : value, key, 2);
    };
    section("backbone", bundle.backbone, Json::object());
    section("config", bundle.config, Json::object());
    section("tasks", bundle.tasks, Json::array());
    section("metadata", bundle.metadata, Json::object());
    for (const auto& [key, value] : bundle.extra.items())
        if (!is_known(key)) section(key.c_str(), value, nullptr);
    std::set<std::string_view> names;
    for (const StoredTensor& tensor : bundle.tensors)
        if (!names.insert(tensor.name).second)
            fail(Code::invalid_argument, "bundle: two tensors are named '", tensor.name, "'");
    pack_text(packer, "tensors", "tensors");
    packer.pack_array(static_cast<uint32_t>(bundle.tensors.size()));
    for (const StoredTensor& tensor : bundle.tensors) pack_tensor(packer, tensor);
    return out;
}

Bundle decode_bundle(const Bytes& data) {
    const std::string& source = data.name();
    Builder builder(data.text(), source);
    size_t end = 0;
    if (data.size() == 0) fail(Code::bad_format, source, ": not a bundle: the document is empty");
    if (!msgpack::parse(data.text().data(), data.size(), end, builder))
        builder.refuse("a byte that is no msgpack", end);
    Json root = builder.take();
    if (!root.is_object()) fail(Code::bad_format, source, ": not a bundle: the document is no map");
    if (field(root, "format", Json::value_t::string, source) != format_name)
        fail(Code::bad_format, source, ".format: not a bundle, '", format_name, "' is expected");
    Bundle out;
    read_version(root, out, source);
    if (end != data.size())
        fail(Code::bad_format, source, ": ", data.size() - end, " bytes after the document, from byte ", end);
    out.backbone = field(root, "backbone", Json::value_t::object, source);
    out.config = field(root, "config", Json::value_t::object, source);
    out.tasks = field(root, "tasks", Json::value_t::array, source);
    out.metadata = field(root, "metadata", Json::value_t::object, source);
    std::set<std::string> names;
    for (const Json& entry : field(root, "tensors", Json::value_t::array, source)) {
        out.tensors.push_back(read_tensor(entry, data, out.tensors.size()));
        if (!names.insert(out.tensors.back().name).second)
            fail(Code::bad_format, source, ": tensors: '", out.tensors.back().name.substr(0, 200),
                 "' is there twice");
    }
    out.extra = Json::object();
    for (auto& [key, value] : root.items())
        if (!is_known(key)) out.extra[key] = std::move(value);
    return out;
}

}  // namespace polyad
