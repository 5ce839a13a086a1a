// SPDX-License-Identifier: Apache-2.0
// safetensors: an 8-byte header length, a JSON header, tensor bytes without holes. One file, bytes in memory,
// or a folder with model.safetensors.index.json.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "io/tensor_file.h"

namespace polyad {

struct Safetensors {
    std::vector<StoredTensor> tensors;  ///< sorted by name; data lies inside the file's own bytes
    std::map<std::string, std::string> metadata;

    /// Null when there is none of that name.
    const StoredTensor* find(std::string_view name) const;
    /// Code::not_found, with the file's name.
    const StoredTensor& at(std::string_view name) const;

    std::string source;  ///< for messages
};

/// Code::bad_format names field, tensor and file for anything that is not exactly as the format wants it.
Safetensors parse_safetensors(const Bytes& file);
Safetensors open_safetensors(const std::filesystem::path& file);
/// model.safetensors, or every shard model.safetensors.index.json lists (each tensor where the index says it
/// is).
Safetensors open_safetensors_folder(const std::filesystem::path& folder);

/// A complete file: tensors in name order, header padded to 8 bytes. Plain dtypes only.
std::string encode_safetensors(const std::vector<StoredTensor>& tensors,
                               const std::map<std::string, std::string>& metadata = {});

}  // namespace polyad
