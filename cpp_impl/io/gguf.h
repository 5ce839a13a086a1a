// SPDX-License-Identifier: Apache-2.0
// GGUF version 2 and 3, little endian. Metadata stays in the file's bytes until it is asked for; tensors are
// mapped in place. Every length is checked against the bytes that are there before anything is allocated.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/config.h"
#include "io/tensor_file.h"

namespace polyad {

enum class GgufType : uint32_t {
    u8 = 0,
    i8 = 1,
    u16 = 2,
    i16 = 3,
    u32 = 4,
    i32 = 5,
    f32 = 6,
    boolean = 7,
    string = 8,
    array = 9,
    u64 = 10,
    i64 = 11,
    f64 = 12,
};
const char* gguf_type_name(GgufType type);

/// One metadata entry. `data` holds the value, or an array's elements, exactly as stored (already
/// bounds-checked).
struct GgufValue {
    std::string key;
    GgufType type = GgufType::u8;
    GgufType element = GgufType::u8;  ///< element type of an array, else `type`
    uint64_t count = 1;               ///< array length, else 1
    std::span<const std::byte> data;

    /// Code::bad_format names the key (and element) when text is not UTF-8.
    Json to_json() const;
};

class GgufFile {
  public:
    static GgufFile parse(const Bytes& file);

    uint32_t version() const { return version_; }
    /// In file order.
    const std::vector<GgufValue>& metadata() const { return metadata_; }
    const GgufValue* find(std::string_view key) const;
    /// In file order, under their GGUF names.
    const std::vector<StoredTensor>& tensors() const { return tensors_; }
    const StoredTensor* find_tensor(std::string_view name) const;
    const std::string& name() const { return name_; }

    // Typed metadata; Code::bad_format names key and type found. nullopt when absent.
    std::optional<std::string> string(std::string_view key) const;
    std::optional<int64_t> integer(std::string_view key) const;
    std::optional<double> number(std::string_view key) const;
    std::optional<bool> boolean(std::string_view key) const;

    /// general.architecture ("llama", "qwen2", ...); Code::bad_format when absent.
    std::string architecture() const;
    /// What Tokenizer::from_gguf wants: tokenizer.ggml.* without the prefix, plus "chat_template". Null when
    /// the file holds no tokenizer.
    Json tokenizer_metadata() const;

  private:
    uint32_t version_ = 0;
    std::vector<GgufValue> metadata_;
    std::vector<StoredTensor> tensors_;
    std::string name_;
};

}  // namespace polyad
