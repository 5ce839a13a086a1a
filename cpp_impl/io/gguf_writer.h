// SPDX-License-Identifier: Apache-2.0
// Writes GGUF version 3, little endian, as io/gguf.h and llama.cpp read it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "io/tensor_file.h"

namespace polyad {

class GgufWriter {
  public:
    /// Metadata in file order; a key may come once (Code::invalid_argument).
    void add(std::string_view key, std::string_view value);
    void add(std::string_view key, uint32_t value);
    void add(std::string_view key, float value);
    /// A float32 tensor, shape outermost first (written as ne[], innermost first). 1 to 4 dimensions.
    void add(StoredTensor tensor);

    /// The whole file: tensors in the order they were added, each on a 32-byte boundary.
    std::string encode() const;

  private:
    void key(std::string_view name, uint32_t type);

    std::vector<std::string> keys_;
    std::string metadata_;
    std::vector<StoredTensor> tensors_;
};

}  // namespace polyad
