// SPDX-License-Identifier: Apache-2.0
// Turns an example into token ids: prompt template, truncation, answer, end token.
//
// Styles (I = instruction, X = input, demonstrations D1.. = the task's first positive examples; parts that
// are empty vanish with their blank line):
//   plain    "I\n\nInput: D1\nOutput:\nD1's output\n\nInput: X\nOutput:\n", with the tokenizer's own special
//   tokens chat     one user message, rendered by the model's chat template with its generation prompt; the
//   message is
//            "I\n\nX", or with demonstrations the plain text without its last line break
//   custom   the text given, {instruction} and {input} replaced (demonstrations go before {input}), with the
//            tokenizer's own special tokens
// The answer is encoded on its own and followed by the tokenizer's end token, so a prompt's ids never depend
// on its answer: training and generation see the same ones.
//
// Truncation. A prompt has at most max_tokens - max_answer_tokens tokens. One that is longer loses, in this
// order and no more than needed: its demonstrations from the first on; then the beginning of its input; then
// the beginning of its instruction. Whole characters go, and what the template writes around them stays, so
// chat markers survive. If the template alone is too long: Code::context_overflow.
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
    int truncated = 0;                    ///< prompt tokens cut off
};

class PromptEncoder {
  public:
    /// `tokenizer` may be null (a backbone without one): then only format() works, the rest is
    /// Code::unsupported.
    PromptEncoder(std::shared_ptr<const Tokenizer> tokenizer, PromptFormat format);
    const PromptFormat& format() const { return format_; }
    /// The whole text, before truncation.
    std::string prompt_text(const Task& task, std::string_view input) const;
    /// `truncated` receives the number of tokens the cut prompt is shorter.
    std::vector<int32_t> prompt(const Task& task, std::string_view input, int* truncated = nullptr) const;
    /// The answer's ids with the end token. Code::context_overflow when they exceed max_answer_tokens.
    std::vector<int32_t> answer(std::string_view text) const;
    EncodedExample encode(const Task& task, std::string_view input, std::string_view answer) const;

  private:
    /// A prompt's variable parts, as far as truncation left them.
    struct Parts {
        std::string_view instruction, input;
        size_t first_demonstration = 0, end_demonstration = 0;
    };
    Parts parts_of(const Task& task, std::string_view input) const;
    std::string render(const Task& task, const Parts& parts) const;
    std::vector<int32_t> encode_prompt(const Task& task, const Parts& parts) const;
    const Tokenizer& tokenizer() const;

    std::shared_ptr<const Tokenizer> tokenizer_;
    PromptFormat format_;
    enum class Style { plain, chat, custom } style_;
};

/// Lays rows end to end; targets are set on the positions that predict answer tokens, -1 elsewhere. A row's
/// last answer token is only ever predicted, so it is a target but not an input. For an encoder-decoder,
/// `decoder_start` >= 0: prompts are the source, and the decoder reads that token and then the answer.
Batch pack(const std::vector<const EncodedExample*>& rows, int32_t decoder_start = -1);

}  // namespace polyad
