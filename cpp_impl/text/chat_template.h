// SPDX-License-Identifier: Apache-2.0
// A model's own chat template, rendered as Hugging Face does.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/config.h"
#include "text/tokenizer.h"

struct polyad_text_template;

namespace polyad {

class ChatTemplate {
  public:
    /// Never throws for a template that does not parse: a model is usable without it, so render() reports it.
    /// `variables` holds the special tokens' texts: bos_token, eos_token, ...
    ChatTemplate(std::string_view source, Json variables);
    ~ChatTemplate();
    ChatTemplate(const ChatTemplate&) = delete;
    ChatTemplate& operator=(const ChatTemplate&) = delete;

    std::string render(const std::vector<ChatMessage>& messages, bool add_generation_prompt) const;

  private:
    polyad_text_template* template_ = nullptr;
    std::string error_;
    Json variables_;
};

}  // namespace polyad
