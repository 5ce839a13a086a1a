// SPDX-License-Identifier: Apache-2.0
// Hugging Face `tokenizers` and `minijinja` (Rust) behind a tiny C ABI; see text/rust.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/config.h"

namespace polyad {

struct ChatMessage {
    std::string role, content;
};

/// Immutable, safe for concurrent use.
class Tokenizer {
  public:
    /// A Hugging Face tokenizer.json. The file's truncation and padding blocks are dropped (they are training
    /// leftovers; see fixtures/README). `config` is tokenizer_config.json (chat template, special tokens) or
    /// null.
    static std::shared_ptr<const Tokenizer> from_json(std::string_view tokenizer_json, const Json& config);
    /// A GGUF's tokenizer.ggml.* metadata as JSON, keys without that prefix: model, pre, tokens, merges,
    /// token_type, bos_token_id, eos_token_id, ..., plus "chat_template".
    static std::shared_ptr<const Tokenizer> from_gguf(const Json& metadata);

    virtual ~Tokenizer() = default;
    /// No BOS/EOS is added unless `add_special` asks for the tokenizer's own post-processing ([CLS] ...
    /// [SEP]). Special tokens typed in the text are recognised. Code::bad_data for invalid UTF-8 (with the
    /// offset).
    virtual std::vector<int32_t> encode(std::string_view text, bool add_special) const = 0;
    /// Ids without a token (a model's padded vocabulary) are left out; Code::invalid_argument for a negative
    /// id.
    virtual std::string decode(const std::vector<int32_t>& ids, bool skip_special) const = 0;
    virtual int64_t vocab_size() const = 0;
    virtual int32_t bos_id() const = 0;  ///< -1 when there is none
    virtual int32_t eos_id() const = 0;  ///< -1 when there is none
    virtual int32_t pad_id() const = 0;  ///< -1 when there is none
    /// -1 when unknown.
    virtual int32_t token_id(std::string_view token) const = 0;
    virtual bool has_chat_template() const = 0;
    /// Renders the model's own chat template. Code::unsupported when there is none or it does not parse,
    /// Code::invalid_argument when the template refuses the messages (raise_exception).
    virtual std::string apply_chat_template(const std::vector<ChatMessage>& messages,
                                            bool add_generation_prompt) const = 0;
};

/// Emits text as tokens arrive, never half a UTF-8 character.
class TextStream {
  public:
    explicit TextStream(std::shared_ptr<const Tokenizer> tokenizer, bool skip_special = true)
        : tokenizer_(std::move(tokenizer)), skip_special_(skip_special) {}
    /// The text that became certain with this token (may be empty).
    std::string push(int32_t id);
    /// What is left at the end (an incomplete character becomes U+FFFD).
    std::string finish();

  private:
    std::shared_ptr<const Tokenizer> tokenizer_;
    bool skip_special_;
    std::vector<int32_t> pending_;
    std::string emitted_;
};

}  // namespace polyad
