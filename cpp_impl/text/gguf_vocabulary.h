// SPDX-License-Identifier: Apache-2.0
// A GGUF's tokenizer metadata rewritten as the tokenizer.json it was converted from.
#pragma once

#include "base/config.h"

namespace polyad {

struct GgufVocabulary {
    Json tokenizer;                 ///< a tokenizer.json
    Json special = Json::object();  ///< "bos_token", "eos_token", ... -> text, for the chat template
    int32_t bos = -1, eos = -1, pad = -1;
    std::string chat_template;  ///< empty when there is none
};

/// Code::bad_format names the key that is wrong, Code::unsupported the model or pre-tokenizer that is not
/// known.
GgufVocabulary read_gguf_vocabulary(const Json& metadata);

}  // namespace polyad
