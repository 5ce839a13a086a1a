// SPDX-License-Identifier: Apache-2.0
// Turns an example into token ids: prompt template, truncation from the left of the prompt, answer, end
// token.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "backbone/batch.h"
#include "base/config.h"
#include "data/dataset.h"
#include "text/tokenizer.h"

namespace polyad {

struct PromptFormat {
    /// "auto" (chat when the tokenizer has a chat template, else plain) | "chat" | "plain" | a custom text
    /// with {instruction} and {input}.
    std::string style = "auto";
    std::string system;         ///< system message of the chat style; empty = the template's own default
    int positive_examples = 0;  ///< demonstrations put before the input
    int max_tokens = 1024;      ///< prompt + answer
    int max_answer_tokens = 128;
    static PromptFormat from_json(const Json& object);
    Json to_json() const;
};

/// One row, ready to be packed.
struct EncodedExample {
    std::vector<int32_t> prompt, answer;  ///< the answer ends with the end token
    int truncated = 0;                    ///< prompt tokens cut off on the left
};

class PromptEncoder {
  public:
    PromptEncoder(std::shared_ptr<const Tokenizer> tokenizer, PromptFormat format);
    const PromptFormat& format() const { return format_; }
    std::string prompt_text(const Task& task, std::string_view input) const;
    std::vector<int32_t> prompt(const Task& task, std::string_view input, int* truncated = nullptr) const;
    /// Code::context_overflow when the answer alone exceeds max_answer_tokens or leaves no room for a prompt.
    EncodedExample encode(const Task& task, std::string_view input, std::string_view answer) const;

  private:
    std::shared_ptr<const Tokenizer> tokenizer_;
    PromptFormat format_;
};

/// Lays rows end to end; targets are set on the positions that predict answer tokens, -1 elsewhere.
Batch pack(const std::vector<const EncodedExample*>& rows);

}  // namespace polyad
