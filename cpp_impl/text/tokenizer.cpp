// SPDX-License-Identifier: Apache-2.0
#include "text/tokenizer.h"

#include <limits>
#include <optional>

#include "base/error.h"
#include "text/chat_template.h"
#include "text/gguf_vocabulary.h"
#include "text/rust_text.h"

namespace polyad {

namespace {

class RustTokenizer final : public Tokenizer {
  public:
    RustTokenizer(std::string_view json, std::string_view what) {
        RustString error;
        const int status = polyad_text_tokenizer_create(json.data(), json.size(), &handle_, error.out());
        check_rust(status, error, Code::bad_format, what);
    }
    ~RustTokenizer() override { polyad_text_tokenizer_free(handle_); }

    void set_special(int32_t bos, int32_t eos, int32_t pad) { bos_ = bos, eos_ = eos, pad_ = pad; }
    void set_chat_template(std::string_view source, Json variables) {
        if (!source.empty()) chat_.emplace(source, std::move(variables));
    }

    std::vector<int32_t> encode(std::string_view text, bool add_special) const override {
        const size_t at = find_invalid_utf8(text);
        if (at != std::string_view::npos) fail(Code::bad_data, "the text is not valid UTF-8 at byte ", at);
        struct Ids {
            polyad_text_ids value{nullptr, 0};
            ~Ids() { polyad_text_ids_free(value); }
        } ids;
        RustString error;
        const int status =
            polyad_text_encode(handle_, text.data(), text.size(), add_special, &ids.value, error.out());
        check_rust(status, error, Code::bad_data, "the text cannot be encoded");
        if (ids.value.size == 0) return {};
        return {ids.value.data, ids.value.data + ids.value.size};
    }

    std::string decode(const std::vector<int32_t>& ids, bool skip_special) const override {
        for (size_t i = 0; i < ids.size(); ++i)
            if (ids[i] < 0) fail(Code::invalid_argument, "ids[", i, "] = ", ids[i], " is negative");
        RustString out, error;
        const int status =
            polyad_text_decode(handle_, ids.data(), ids.size(), skip_special, out.out(), error.out());
        check_rust(status, error, Code::invalid_argument, "the ids cannot be decoded");
        return std::string(out.view());
    }

    int64_t vocab_size() const override { return static_cast<int64_t>(polyad_text_vocab_size(handle_)); }
    int32_t bos_id() const override { return bos_; }
    int32_t eos_id() const override { return eos_; }
    int32_t pad_id() const override { return pad_; }
    int32_t token_id(std::string_view token) const override {
        return static_cast<int32_t>(polyad_text_token_id(handle_, token.data(), token.size()));
    }
    bool has_chat_template() const override { return chat_.has_value(); }
    std::string apply_chat_template(const std::vector<ChatMessage>& messages,
                                    bool add_generation_prompt) const override {
        if (!chat_) fail(Code::unsupported, "the model has no chat template");
        return chat_->render(messages, add_generation_prompt);
    }

  private:
    polyad_text_tokenizer* handle_ = nullptr;
    int32_t bos_ = -1, eos_ = -1, pad_ = -1;
    std::optional<ChatTemplate> chat_;
};

/// A special token in tokenizer_config.json: a string, or {"content": "<s>", ...}. Empty when absent.
std::string special_token(const Json& config, const std::string& key) {
    const auto it = config.find(key);
    if (it == config.end() || it->is_null()) return {};
    if (it->is_string()) return it->get<std::string>();
    if (it->is_object() && it->contains("content") && it->at("content").is_string())
        return it->at("content").get<std::string>();
    fail(Code::bad_format, "tokenizer_config.json: '", key,
         "' is neither a string nor an object with 'content'");
}

/// A string, or a list of {"name", "template"} of which "default" is the one for chats. Empty when absent.
std::string chat_template_of(const Json& config) {
    const auto it = config.find("chat_template");
    if (it == config.end() || it->is_null()) return {};
    if (it->is_string()) return it->get<std::string>();
    if (!it->is_array())
        fail(Code::bad_format, "tokenizer_config.json: 'chat_template' is neither a string nor a list");
    for (const Json& named : *it) {
        const bool valid = named.is_object() && named.contains("name") && named.at("name").is_string() &&
                           named.contains("template") && named.at("template").is_string();
        if (!valid)
            fail(Code::bad_format,
                 "tokenizer_config.json: an entry of 'chat_template' lacks 'name' or 'template'");
        if (named.at("name") == "default") return named.at("template").get<std::string>();
    }
    return {};
}

}  // namespace

std::shared_ptr<const Tokenizer> Tokenizer::from_json(std::string_view tokenizer_json, const Json& config) {
    if (!config.is_null() && !config.is_object())
        fail(Code::bad_format, "tokenizer_config.json is not an object");
    auto result = std::make_shared<RustTokenizer>(tokenizer_json, "tokenizer.json");
    if (config.is_null()) return result;
    Json variables = Json::object();
    for (const char* key :
         {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"}) {
        std::string token = special_token(config, key);
        if (!token.empty()) variables[key] = std::move(token);
    }
    const auto id_of = [&](const char* key) {
        return variables.contains(key) ? result->token_id(variables.at(key).get_ref<const std::string&>())
                                       : -1;
    };
    result->set_special(id_of("bos_token"), id_of("eos_token"), id_of("pad_token"));
    result->set_chat_template(chat_template_of(config), std::move(variables));
    return result;
}

std::shared_ptr<const Tokenizer> Tokenizer::from_gguf(const Json& metadata) {
    GgufVocabulary vocabulary = read_gguf_vocabulary(metadata);
    auto result = std::make_shared<RustTokenizer>(vocabulary.tokenizer.dump(), "tokenizer.ggml.* metadata");
    result->set_special(vocabulary.bos, vocabulary.eos, vocabulary.pad);
    result->set_chat_template(vocabulary.chat_template, std::move(vocabulary.special));
    return result;
}

}  // namespace polyad
