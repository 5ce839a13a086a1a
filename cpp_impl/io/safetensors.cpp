// SPDX-License-Identifier: Apache-2.0
#include "io/safetensors.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <optional>

#include "base/error.h"
#include "io/file_json.h"

namespace polyad {
namespace {

constexpr uint64_t max_header = 100'000'000;  // the reference reader's own limit
constexpr size_t max_dimensions = 16;

constexpr DType plain_types[] = {DType::f32, DType::f16,     DType::bf16, DType::f64, DType::i8,
                                 DType::i16, DType::i32,     DType::i64,  DType::u8,  DType::u16,
                                 DType::u32, DType::boolean, DType::u64};

DType parse_dtype(const Json& value, const std::string& what) {
    std::string allowed;
    for (DType type : plain_types) {
        if (value.is_string() && value.get_ref<const std::string&>() == dtype_name(type)) return type;
        allowed += (allowed.empty() ? "" : ", ") + std::string(dtype_name(type));
    }
    fail(value.is_string() ? Code::unsupported : Code::bad_format, what, ": dtype ",
         value.dump().substr(0, 40), " is not known, allowed: ", allowed);
}

int64_t whole_number(const Json& value, const std::string& what) {
    const bool fits = value.is_number_unsigned() && value.get<uint64_t>() <= static_cast<uint64_t>(INT64_MAX);
    if (!fits)
        fail(Code::bad_format, what, ": ", value.dump().substr(0, 40), " is not a whole number below 2^63");
    return value.get<int64_t>();
}

struct Entry {
    StoredTensor tensor;
    int64_t begin = 0, end = 0;
};

Entry parse_entry(const std::string& name, const Json& value, int64_t data_size, const std::string& source) {
    const std::string what = text(source, ": tensor '", name, "'");
    if (!value.is_object()) fail(Code::bad_format, what, ": needs an object, got ", value.type_name());
    for (const auto& [key, ignored] : value.items())
        if (key != "dtype" && key != "shape" && key != "data_offsets")
            fail(Code::bad_format, what, ": unknown key '", key, "', allowed: dtype, shape, data_offsets");
    for (const char* key : {"dtype", "shape", "data_offsets"})
        if (!value.contains(key)) fail(Code::bad_format, what, ": ", key, " is missing");
    Entry entry;
    entry.tensor.name = name;
    entry.tensor.dtype = parse_dtype(value["dtype"], what);
    const Json& shape = value["shape"];
    if (!shape.is_array() || shape.size() > max_dimensions)
        fail(Code::bad_format, what, ": shape needs a list of at most ", max_dimensions, " whole numbers");
    for (const Json& d : shape) entry.tensor.shape.push_back(whole_number(d, what + ": shape"));
    const Json& offsets = value["data_offsets"];
    if (!offsets.is_array() || offsets.size() != 2)
        fail(Code::bad_format, what, ": data_offsets needs a list of two whole numbers");
    entry.begin = whole_number(offsets[0], what + ": data_offsets");
    entry.end = whole_number(offsets[1], what + ": data_offsets");
    if (entry.begin > entry.end || entry.end > data_size)
        fail(Code::bad_format, what, ": data_offsets [", entry.begin, ", ", entry.end, "] lie outside the ",
             data_size, " bytes of data");
    const int64_t wanted = checked_bytes(entry.tensor.dtype, entry.tensor.shape, what);
    if (wanted != entry.end - entry.begin)
        fail(Code::bad_format, what, ": shape ", shape_text(entry.tensor.shape), " of ",
             dtype_name(entry.tensor.dtype), " needs ", wanted, " bytes, data_offsets hold ",
             entry.end - entry.begin);
    return entry;
}

void parse_metadata(const Json& value, Safetensors& out) {
    if (!value.is_object()) fail(Code::bad_format, out.source, ": __metadata__ needs an object of strings");
    for (const auto& [key, item] : value.items()) {
        if (!item.is_string())
            fail(Code::bad_format, out.source, ": __metadata__ '", key, "' is not a string");
        out.metadata[key] = item.get<std::string>();
    }
}

}  // namespace

const StoredTensor* Safetensors::find(std::string_view name) const {
    auto at = std::lower_bound(tensors.begin(), tensors.end(), name,
                               [](const StoredTensor& t, std::string_view n) { return t.name < n; });
    return at != tensors.end() && at->name == name ? &*at : nullptr;
}

const StoredTensor& Safetensors::at(std::string_view name) const {
    if (const StoredTensor* tensor = find(name)) return *tensor;
    fail(Code::not_found, source, ": no tensor '", name, "'");
}

Safetensors parse_safetensors(const Bytes& file) {
    Safetensors out;
    out.source = file.name();
    if (file.size() < 8)
        fail(Code::bad_format, out.source, ": ", file.size(), " bytes, too short for safetensors");
    uint64_t header_size;
    std::memcpy(&header_size, file.data(), 8);
    if (header_size > file.size() - 8 || header_size > max_header)
        fail(Code::bad_format, out.source, ": header length ", header_size, " at byte 0, only ",
             file.size() - 8, " bytes follow (limit ", max_header, ")");
    const std::span<const std::byte> data = file.span().subspan(8 + header_size);
    const Json header = parse_file_json(file.text().substr(8, header_size), out.source + ": header");

    std::vector<Entry> entries;
    for (const auto& [name, value] : header.items()) {
        if (name == "__metadata__")
            parse_metadata(value, out);
        else
            entries.push_back(parse_entry(name, value, static_cast<int64_t>(data.size()), out.source));
    }
    // The format has no holes and no overlaps: sorted by position the ranges must tile the data exactly.
    std::vector<size_t> order(entries.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
        return std::tie(entries[a].begin, entries[a].end) < std::tie(entries[b].begin, entries[b].end);
    });
    int64_t position = 0;
    for (size_t i : order) {
        if (entries[i].begin != position)
            fail(Code::bad_format, out.source, ": tensor '", entries[i].tensor.name, "' begins at data byte ",
                 entries[i].begin, ", expected ", position, " (overlap or hole)");
        position = entries[i].end;
    }
    if (position != static_cast<int64_t>(data.size()))
        fail(Code::bad_format, out.source, ": ", static_cast<int64_t>(data.size()) - position,
             " bytes after the last tensor");
    for (Entry& entry : entries) {  // a JSON object iterates in name order, which find() relies on
        entry.tensor.data =
            data.subspan(static_cast<size_t>(entry.begin), static_cast<size_t>(entry.end - entry.begin));
        entry.tensor.owner = file;
        out.tensors.push_back(std::move(entry.tensor));
    }
    return out;
}

Safetensors open_safetensors(const std::filesystem::path& file) {
    return parse_safetensors(Bytes::map_file(file));
}

Safetensors open_safetensors_folder(const std::filesystem::path& folder) {
    const auto single = folder / "model.safetensors", index = folder / "model.safetensors.index.json";
    if (std::filesystem::exists(single)) return open_safetensors(single);
    if (!std::filesystem::exists(index))
        fail(Code::not_found, "'", folder.string(),
             "' holds neither model.safetensors nor model.safetensors.index.json");
    const Bytes bytes = Bytes::map_file(index);
    const Json json = parse_file_json(bytes.text(), bytes.name());
    if (!json.contains("weight_map") || !json["weight_map"].is_object())
        fail(Code::bad_format, bytes.name(), ": weight_map needs an object of tensor names and file names");
    Safetensors out;
    out.source = folder.string();
    std::map<std::string, Safetensors> shards;
    for (const auto& [name, value] : json["weight_map"].items()) {
        if (!value.is_string())
            fail(Code::bad_format, bytes.name(), ": weight_map '", name, "' is not a file name");
        const auto shard_name = value.get<std::string>();
        // A plain name: an index must not lead out of its folder.
        if (shard_name.empty() || shard_name == "." || shard_name == ".." ||
            shard_name.find_first_of(std::string("/\\\0", 3)) != std::string::npos)
            fail(Code::bad_format, bytes.name(), ": weight_map '", name, "': '", shard_name,
                 "' is not a file name");
        auto shard = shards.find(shard_name);
        if (shard == shards.end())
            shard = shards.emplace(shard_name, open_safetensors(folder / shard_name)).first;
        const StoredTensor* tensor = shard->second.find(name);
        if (!tensor)
            fail(Code::bad_format, bytes.name(), ": tensor '", name, "' is not in ", shard_name,
                 ", where the index puts it");
        out.tensors.push_back(*tensor);
    }
    return out;
}

std::string encode_safetensors(const std::vector<StoredTensor>& tensors,
                               const std::map<std::string, std::string>& metadata) {
    std::vector<const StoredTensor*> order;
    for (const StoredTensor& tensor : tensors) order.push_back(&tensor);
    std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) { return a->name < b->name; });
    Json header = Json::object();
    if (!metadata.empty()) header["__metadata__"] = metadata;
    size_t size = 0;
    for (const StoredTensor* tensor : order) {
        if (block_elements(tensor->dtype) != 1)
            fail(Code::unsupported, "safetensors cannot hold '", tensor->name, "' as ",
                 dtype_name(tensor->dtype));
        if (header.contains(tensor->name))
            fail(Code::invalid_argument, "two tensors are named '", tensor->name, "'");
        POLYAD_CHECK(checked_bytes(tensor->dtype, tensor->shape, tensor->name) ==
                     static_cast<int64_t>(tensor->data.size()));
        const size_t end = size + tensor->data.size();
        header[tensor->name] = {
            {"dtype", dtype_name(tensor->dtype)}, {"shape", tensor->shape}, {"data_offsets", {size, end}}};
        size = end;
    }
    std::string head = header.dump();
    head.resize((head.size() + 7) / 8 * 8, ' ');
    const uint64_t length = head.size();
    std::string out(8, '\0');
    std::memcpy(out.data(), &length, 8);
    out.reserve(8 + head.size() + size);
    out += head;
    for (const StoredTensor* tensor : order)
        out.append(reinterpret_cast<const char*>(tensor->data.data()), tensor->data.size());
    return out;
}

}  // namespace polyad
