// SPDX-License-Identifier: Apache-2.0
#include "text/gguf_vocabulary.h"

#include <algorithm>
#include <limits>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "text/pre_tokenizer.h"

namespace polyad {

namespace {

constexpr const char* kPrefix = "tokenizer.ggml.";
/// llama.cpp's token types.
enum TokenType : int64_t {
    kNormal = 1,
    kUnknown = 2,
    kControl = 3,
    kUserDefined = 4,
    kUnused = 5,
    kByte = 6
};
/// Longest SentencePiece token whose merges are looked for: bounds the work a hostile file can ask for.
constexpr size_t kMaxPieceBytes = 1024;

class Metadata {
  public:
    explicit Metadata(const Json& metadata) : metadata_(metadata) {
        if (!metadata.is_object()) fail(Code::bad_format, "the file holds no tokenizer.ggml.* metadata");
    }

    const Json* find(const char* key) const {
        const auto it = metadata_.find(key);
        return it == metadata_.end() || it->is_null() ? nullptr : &*it;
    }
    const Json& array(const char* key) const {
        const Json* value = find(key);
        if (!value) fail(Code::bad_format, kPrefix, key, " is missing");
        if (!value->is_array()) fail(Code::bad_format, kPrefix, key, " is not an array");
        return *value;
    }
    std::string string(const char* key, const char* shown) const {
        const Json* value = find(key);
        if (!value) return {};
        if (!value->is_string()) fail(Code::bad_format, shown, " is not a string");
        return text_of(*value, shown);
    }
    bool boolean(const char* key, bool fallback) const {
        const Json* value = find(key);
        if (!value) return fallback;
        if (!value->is_boolean()) fail(Code::bad_format, kPrefix, key, " is not a boolean");
        return value->get<bool>();
    }
    static const std::string& text_of(const Json& value, const std::string& where) {
        if (!value.is_string()) fail(Code::bad_format, where, " is not a string");
        const auto& result = value.get_ref<const std::string&>();
        const size_t at = find_invalid_utf8(result);
        if (at != std::string::npos) fail(Code::bad_format, where, " is not valid UTF-8 at byte ", at);
        return result;
    }

  private:
    const Json& metadata_;
};

std::string item(const char* key, size_t i) {
    return text(kPrefix, key, "[", i, "]");
}

struct Vocabulary {
    std::vector<std::string_view> tokens;  ///< views into the metadata
    std::vector<int64_t> types;
    std::unordered_map<std::string_view, int32_t> ids;

    bool normal(size_t i) const { return types[i] == kNormal; }
    Json as_json() const {
        Json::object_t object;
        for (size_t i = 0; i < tokens.size(); ++i) object.emplace(std::string(tokens[i]), i);
        return object;
    }
};

Vocabulary read_tokens(const Metadata& metadata) {
    Vocabulary result;
    const Json& tokens = metadata.array("tokens");
    if (tokens.empty()) fail(Code::bad_format, kPrefix, "tokens is empty");
    if (tokens.size() > static_cast<size_t>(std::numeric_limits<int32_t>::max()))
        fail(Code::bad_format, kPrefix, "tokens has ", tokens.size(), " entries");
    result.tokens.reserve(tokens.size());
    result.ids.reserve(tokens.size());
    for (size_t i = 0; i < tokens.size(); ++i) {
        const std::string& token = Metadata::text_of(tokens[i], item("tokens", i));
        const auto [it, is_new] = result.ids.emplace(token, static_cast<int32_t>(i));
        if (!is_new)
            fail(Code::bad_format, item("tokens", i), " '", token, "' is already token ", it->second);
        result.tokens.push_back(token);
    }
    result.types.assign(tokens.size(), kNormal);
    if (metadata.find("token_type")) {
        const Json& types = metadata.array("token_type");
        if (types.size() != tokens.size())
            fail(Code::bad_format, kPrefix, "token_type has ", types.size(), " entries for ", tokens.size(),
                 " tokens");
        for (size_t i = 0; i < types.size(); ++i) {
            if (!types[i].is_number_integer())
                fail(Code::bad_format, item("token_type", i), " is not an integer");
            result.types[i] = types[i].get<int64_t>();
        }
    }
    return result;
}

int32_t special_id(const Metadata& metadata, const char* key, size_t vocab_size) {
    const Json* value = metadata.find(key);
    if (!value) return -1;
    if (!value->is_number_integer()) fail(Code::bad_format, kPrefix, key, " is not an integer");
    // A u64 above the signed range reads as negative here and is refused all the same.
    const auto id = value->get<int64_t>();
    if (id < 0 || static_cast<uint64_t>(id) >= vocab_size)
        fail(Code::bad_format, kPrefix, key, " = ", value->dump(), " is outside the ", vocab_size, " tokens");
    return static_cast<int32_t>(id);
}

/// "left right" by rank.
Json read_merges(const Metadata& metadata, const Vocabulary& vocabulary) {
    const Json& merges = metadata.array("merges");
    Json::array_t result;
    result.reserve(merges.size());
    std::unordered_map<std::string_view, size_t> seen;
    seen.reserve(merges.size());
    std::string joined;
    for (size_t i = 0; i < merges.size(); ++i) {
        const std::string where = item("merges", i);
        const std::string& merge = Metadata::text_of(merges[i], where);
        const size_t space = merge.find(' ');
        if (space == std::string::npos || space == 0 || space + 1 == merge.size() ||
            merge.find(' ', space + 1) != std::string::npos)
            fail(Code::bad_format, where, " '", merge, "' is not two tokens with a space between them");
        const std::string_view left = std::string_view(merge).substr(0, space);
        const std::string_view right = std::string_view(merge).substr(space + 1);
        joined.assign(left).append(right);
        for (const std::string_view part : {left, right, std::string_view(joined)})
            if (!vocabulary.ids.contains(part))
                fail(Code::bad_format, where, " '", merge, "' needs '", part, "', which is not a token");
        const auto [it, is_new] = seen.emplace(merge, i);
        if (!is_new) fail(Code::bad_format, where, " '", merge, "' repeats ", item("merges", it->second));
        result.push_back(Json::array({std::string(left), std::string(right)}));
    }
    return result;
}

size_t characters(std::string_view s) {
    return static_cast<size_t>(std::count_if(s.begin(), s.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

/// SentencePiece joins the pair whose joint token scores best; as ranked merges: every way to cut a token
/// into two tokens, by score. Ties as in Hugging Face's converter, so that ids agree with it.
Json merges_by_score(const Metadata& metadata, const Vocabulary& vocabulary) {
    const Json& scores = metadata.array("scores");
    if (scores.size() != vocabulary.tokens.size())
        fail(Code::bad_format, kPrefix, "scores has ", scores.size(), " entries for ",
             vocabulary.tokens.size(), " tokens");
    struct Merge {
        std::string_view left, right;
        double score;
        int32_t left_id, right_id;
        size_t left_length, right_length;
    };
    std::vector<Merge> merges;
    for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
        if (!scores[i].is_number()) fail(Code::bad_format, item("scores", i), " is not a number");
        const auto score = scores[i].get<double>();
        if (!(score == score)) fail(Code::bad_format, item("scores", i), " is NaN");
        if (!vocabulary.normal(i)) continue;
        const std::string_view token = vocabulary.tokens[i];
        if (token.size() > kMaxPieceBytes)
            fail(Code::bad_format, item("tokens", i), " is ", token.size(), " bytes long, more than ",
                 kMaxPieceBytes);
        const size_t begin = merges.size();
        for (size_t cut = 1; cut < token.size(); ++cut) {
            if ((token[cut] & 0xC0) == 0x80) continue;
            const auto left = vocabulary.ids.find(token.substr(0, cut));
            const auto right = vocabulary.ids.find(token.substr(cut));
            if (left == vocabulary.ids.end() || right == vocabulary.ids.end()) continue;
            if (!vocabulary.normal(left->second) || !vocabulary.normal(right->second)) continue;
            merges.push_back({left->first, right->first, score, left->second, right->second,
                              characters(left->first), characters(right->first)});
        }
        std::sort(merges.begin() + static_cast<ptrdiff_t>(begin), merges.end(),
                  [](const Merge& a, const Merge& b) {
                      return std::pair(a.left_id, a.right_id) < std::pair(b.left_id, b.right_id);
                  });
    }
    std::stable_sort(merges.begin(), merges.end(), [](const Merge& a, const Merge& b) {
        return std::tuple(a.score, a.left_length, a.right_length) >
               std::tuple(b.score, b.left_length, b.right_length);
    });
    Json::array_t result;
    result.reserve(merges.size());
    for (const Merge& merge : merges)
        result.push_back(Json::array({std::string(merge.left), std::string(merge.right)}));
    return result;
}

Json bpe_model(const Vocabulary& vocabulary, Json merges) {
    Json model = {{"type", "BPE"},
                  {"dropout", nullptr},
                  {"unk_token", nullptr},
                  {"fuse_unk", false},
                  {"byte_fallback", false},
                  {"ignore_merges", false},
                  {"continuing_subword_prefix", nullptr},
                  {"end_of_word_suffix", nullptr}};
    model["vocab"] = vocabulary.as_json();
    model["merges"] = std::move(merges);
    return model;
}

/// Tokens that are cut out of the text before anything else.
Json added_tokens(const Vocabulary& vocabulary) {
    Json result = Json::array();
    for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
        const bool special = vocabulary.types[i] == kControl;
        if ((!special && vocabulary.types[i] != kUserDefined) || vocabulary.tokens[i].empty()) continue;
        result.push_back({{"id", i},
                          {"content", std::string(vocabulary.tokens[i])},
                          {"single_word", false},
                          {"lstrip", false},
                          {"rstrip", false},
                          {"normalized", false},
                          {"special", special}});
    }
    return result;
}

/// [BOS] A [EOS], for encode(add_special).
Json post_processor(const Vocabulary& vocabulary, int32_t bos, int32_t eos) {
    if (bos < 0 && eos < 0) return nullptr;
    Json special = Json::object();
    const auto around = [&](const char* sequence, int type) {
        Json pieces = Json::array();
        const auto add = [&](int32_t id) {
            if (id < 0) return;
            const std::string token(vocabulary.tokens[id]);
            special[token] = {{"id", token}, {"ids", {id}}, {"tokens", {token}}};
            pieces.push_back({{"SpecialToken", {{"id", token}, {"type_id", type}}}});
        };
        add(bos);
        pieces.push_back({{"Sequence", {{"id", sequence}, {"type_id", type}}}});
        add(eos);
        return pieces;
    };
    Json single = around("A", 0), pair = single;
    for (Json& piece : around("B", 1)) pair.push_back(std::move(piece));
    return {{"type", "TemplateProcessing"},
            {"single", std::move(single)},
            {"pair", std::move(pair)},
            {"special_tokens", std::move(special)}};
}

void fill_sentencepiece(const Metadata& metadata, const Vocabulary& vocabulary, int32_t unknown,
                        Json& tokenizer) {
    const std::string underscore = "\xE2\x96\x81";  // U+2581 stands for a space
    const bool prefix = metadata.boolean("add_space_prefix", true);
    Json normalizers = Json::array(), decoders = Json::array();
    if (prefix) normalizers.push_back({{"type", "Prepend"}, {"prepend", underscore}});
    normalizers.push_back({{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", underscore}});
    decoders.push_back({{"type", "Replace"}, {"pattern", {{"String", underscore}}}, {"content", " "}});
    decoders.push_back({{"type", "ByteFallback"}});
    decoders.push_back({{"type", "Fuse"}});
    if (prefix) decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
    tokenizer["normalizer"] = {{"type", "Sequence"}, {"normalizers", std::move(normalizers)}};
    tokenizer["decoder"] = {{"type", "Sequence"}, {"decoders", std::move(decoders)}};
    Json model = bpe_model(vocabulary, merges_by_score(metadata, vocabulary));
    model["byte_fallback"] = true;
    model["fuse_unk"] = true;
    if (unknown >= 0) model["unk_token"] = std::string(vocabulary.tokens[unknown]);
    tokenizer["model"] = std::move(model);
}

}  // namespace

GgufVocabulary read_gguf_vocabulary(const Json& json) {
    const Metadata metadata(json);
    const std::string model = metadata.string("model", "tokenizer.ggml.model");
    if (model.empty()) fail(Code::bad_format, "tokenizer.ggml.model is missing");
    if (model != "gpt2" && model != "llama")
        fail(Code::unsupported, "tokenizer.ggml.model '", model,
             "' is not supported; known: gpt2 (byte-level BPE), llama (SentencePiece BPE)");
    PreTokenizer pre;
    if (model == "gpt2") {
        const std::string name = metadata.string("pre", "tokenizer.ggml.pre");
        if (name.empty())
            fail(Code::unsupported, "tokenizer.ggml.pre is missing: how the text is cut is unknown");
        pre = pre_tokenizer_named(name);
    } else {
        pre.adds_bos = true;
    }

    const Vocabulary vocabulary = read_tokens(metadata);
    const size_t size = vocabulary.tokens.size();
    GgufVocabulary result;
    const auto special = [&](const char* key, const char* variable) {
        const int32_t id = special_id(metadata, key, size);
        if (id >= 0) result.special[variable] = std::string(vocabulary.tokens[id]);
        return id;
    };
    result.bos = special("bos_token_id", "bos_token");
    result.eos = special("eos_token_id", "eos_token");
    result.pad = special("padding_token_id", "pad_token");
    const int32_t unknown = special("unknown_token_id", "unk_token");
    special("seperator_token_id", "sep_token");  // the format's own spelling
    special("cls_token_id", "cls_token");
    special("mask_token_id", "mask_token");
    const bool add_bos = metadata.boolean("add_bos_token", pre.adds_bos && result.bos >= 0);
    const bool add_eos = metadata.boolean("add_eos_token", false);
    if (add_bos && result.bos < 0)
        fail(Code::bad_format, "tokenizer.ggml.add_bos_token is set without a tokenizer.ggml.bos_token_id");
    if (add_eos && result.eos < 0)
        fail(Code::bad_format, "tokenizer.ggml.add_eos_token is set without a tokenizer.ggml.eos_token_id");
    result.chat_template = metadata.string("chat_template", "tokenizer.chat_template");

    Json& tokenizer = result.tokenizer;
    tokenizer = {{"version", "1.0"}, {"truncation", nullptr}, {"padding", nullptr}};
    tokenizer["added_tokens"] = added_tokens(vocabulary);
    tokenizer["post_processor"] =
        post_processor(vocabulary, add_bos ? result.bos : -1, add_eos ? result.eos : -1);
    if (model == "llama") {
        tokenizer["pre_tokenizer"] = nullptr;
        fill_sentencepiece(metadata, vocabulary, unknown, tokenizer);
    } else {
        tokenizer["normalizer"] = pre.normalizer;
        tokenizer["pre_tokenizer"] = pre.pre_tokenizer;
        tokenizer["decoder"] = {
            {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
        Json bpe = bpe_model(vocabulary, read_merges(metadata, vocabulary));
        bpe["ignore_merges"] = pre.ignore_merges;
        tokenizer["model"] = std::move(bpe);
    }
    return result;
}

}  // namespace polyad
