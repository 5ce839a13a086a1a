// SPDX-License-Identifier: Apache-2.0
// The pre-tokenizers that byte-level BPE models in GGUF files refer to by name.
#pragma once

#include <string>

#include "base/config.h"

namespace polyad {

struct PreTokenizer {
    Json pre_tokenizer;          ///< as in tokenizer.json
    Json normalizer;             ///< null when there is none
    bool ignore_merges = false;  ///< a piece that is a token is that token, whatever the merges say
    bool adds_bos = false;       ///< what holds when the file does not say
};

/// Code::unsupported lists the names that are known.
PreTokenizer pre_tokenizer_named(const std::string& pre);

}  // namespace polyad
