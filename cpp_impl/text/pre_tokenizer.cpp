// SPDX-License-Identifier: Apache-2.0
#include "text/pre_tokenizer.h"

#include "base/error.h"

namespace polyad {

namespace {

/// `use_regex` splits by the GPT-2 pattern, built into the ByteLevel pre-tokenizer.
Json byte_level(bool use_regex) {
    return {
        {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", use_regex}};
}

Json split(const std::string& pattern) {
    return {
        {"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}};
}

Json sequence(Json first, Json second) {
    return {{"type", "Sequence"}, {"pretokenizers", Json::array({std::move(first), std::move(second)})}};
}

/// Llama 3 and Qwen 2 differ in how many numerals make one piece.
std::string contraction_pattern(const char* numerals) {
    return std::string(R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|)") + numerals +
           R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
}

}  // namespace

PreTokenizer pre_tokenizer_named(const std::string& pre) {
    PreTokenizer result;
    if (pre == "gpt-2" || pre == "phi-2") {
        result.pre_tokenizer = byte_level(true);
    } else if (pre == "smollm" || pre == "starcoder" || pre == "refact") {
        // Numerals are cut out first, so the GPT-2 pattern's lookahead sees the end of the text before each.
        result.pre_tokenizer = sequence({{"type", "Digits"}, {"individual_digits", true}}, byte_level(true));
    } else if (pre == "llama-bpe" || pre == "llama3" || pre == "llama-v3") {
        result.pre_tokenizer = sequence(split(contraction_pattern(R"(\p{N}{1,3})")), byte_level(false));
        result.ignore_merges = true;
        result.adds_bos = true;
    } else if (pre == "qwen2" || pre == "deepseek-r1-qwen") {
        result.pre_tokenizer = sequence(split(contraction_pattern(R"(\p{N})")), byte_level(false));
        result.normalizer = {{"type", "NFC"}};
    } else {
        fail(Code::unsupported, "tokenizer.ggml.pre '", pre,
             "' is not supported; known: deepseek-r1-qwen, gpt-2, llama-bpe, llama-v3, llama3, phi-2, qwen2, "
             "refact, smollm, starcoder");
    }
    return result;
}

}  // namespace polyad
