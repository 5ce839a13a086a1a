// SPDX-License-Identifier: Apache-2.0
// The bundle: one msgpack document, layout in docs/bundle.md. This layer knows bytes and names, not methods.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/config.h"
#include "io/tensor_file.h"

namespace polyad {

struct Bundle {
    static constexpr int major_version = 1, minor_version = 0;
    int major = major_version, minor = minor_version;
    Json backbone;                      ///< {"name", "family", "fingerprint", "width", "layers"}
    Json config;                        ///< method configuration with every default filled in
    Json tasks;                         ///< list of {"name", "category", "instruction", "labels"}
    Json metadata;                      ///< training data, licence, anything the host adds
    Json extra;                         ///< top-level keys this version does not know, kept as they were
    std::vector<StoredTensor> tensors;  ///< float32, row-major
};

/// Writes a complete document.
std::string encode_bundle(const Bundle& bundle);
/// Refuses a damaged, truncated or hostile document with field and offset, a newer major version by name;
/// never allocates more than the input could justify.
Bundle decode_bundle(const Bytes& data);

}  // namespace polyad
