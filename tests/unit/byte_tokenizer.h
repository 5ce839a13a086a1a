// SPDX-License-Identifier: Apache-2.0
// A tokenizer small enough to check by eye: one id per byte, 256 = begin, 257 = end.
#pragma once

#include "base/error.h"
#include "text/tokenizer.h"

namespace polyad {

class ByteTokenizer : public Tokenizer {
  public:
    explicit ByteTokenizer(bool chat = false) : chat_(chat) {}
    std::vector<int32_t> encode(std::string_view source, bool add_special) const override {
        if (const size_t at = find_invalid_utf8(source); at != std::string_view::npos)
            fail(Code::bad_data, "not UTF-8 at offset ", at);
        std::vector<int32_t> out;
        if (add_special) out.push_back(256);
        for (const char c : source) out.push_back(static_cast<unsigned char>(c));
        return out;
    }
    std::string decode(const std::vector<int32_t>& ids, bool skip_special) const override {
        std::string out;
        for (const int32_t id : ids)
            if (id < 256)
                out += static_cast<char>(id);
            else if (!skip_special)
                out += id == 256 ? "<s>" : "</s>";
        return out;
    }
    int64_t vocab_size() const override { return 258; }
    int32_t bos_id() const override { return 256; }
    int32_t eos_id() const override { return 257; }
    int32_t pad_id() const override { return -1; }
    int32_t token_id(std::string_view) const override { return -1; }
    bool has_chat_template() const override { return chat_; }
    std::string apply_chat_template(const std::vector<ChatMessage>& messages,
                                    bool add_generation_prompt) const override {
        std::string out;
        for (const ChatMessage& message : messages) out += "[" + message.role + "]" + message.content + "[/]";
        return out + (add_generation_prompt ? "[assistant]" : "");
    }

  private:
    bool chat_;
};

}  // namespace polyad
