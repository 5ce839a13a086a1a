// SPDX-License-Identifier: Apache-2.0
// The fixtures' tiny encoder-decoders, given a tokenizer of single characters.
#pragma once

#include <unistd.h>

#include <fstream>
#include <map>

#include "tiny_skillsets.h"

namespace polyad::tiny {

inline std::filesystem::path encoder_decoder_fixture(const std::string& name) {
    return std::string(POLYAD_SHARED_DIR) + "/fixtures/models/" + name;
}

/// Ids 0 to 2 are special, `end` among them; then one id per printable character.
inline void write_character_tokenizer(const std::filesystem::path& folder, int end) {
    Json vocabulary = Json::object(), added = Json::array();
    for (int i = 0; i < 3; ++i) {
        const std::string special = text("<", i, ">");
        vocabulary[special] = i;
        added.push_back({{"id", i},
                         {"content", special},
                         {"single_word", false},
                         {"lstrip", false},
                         {"rstrip", false},
                         {"normalized", false},
                         {"special", true}});
    }
    int next = 3;
    for (char c = '!'; c <= '~'; ++c) vocabulary[std::string(1, c)] = next++;
    vocabulary["\u0120"] = next++;  // byte-level's space and line break
    vocabulary["\u010A"] = next++;
    const Json level = {
        {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
    const Json tokenizer = {{"version", "1.0"},
                            {"added_tokens", added},
                            {"normalizer", nullptr},
                            {"pre_tokenizer", level},
                            {"post_processor", nullptr},
                            {"decoder", level},
                            {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", Json::array()}}}};
    std::ofstream(folder / "tokenizer.json") << tokenizer.dump();
    std::ofstream(folder / "tokenizer_config.json") << Json{{"eos_token", text("<", end, ">")}}.dump();
}

/// A copy of a fixture with a tokenizer, its config changed by `patch` (a null value removes a key), opened.
inline std::shared_ptr<const Backbone> open_encoder_decoder(const std::string& name, Precision precision,
                                                            const Json& patch = Json::object(),
                                                            at::Device device = at::kCPU) {
    const auto folder = std::filesystem::temp_directory_path() / text("polyad_", name, "_", getpid());
    std::filesystem::create_directories(folder);
    std::filesystem::copy_file(encoder_decoder_fixture(name) / "model.safetensors",
                               folder / "model.safetensors",
                               std::filesystem::copy_options::overwrite_existing);
    Json config = Json::parse(std::ifstream(encoder_decoder_fixture(name) / "config.json"));
    config.merge_patch(patch);
    std::ofstream(folder / "config.json") << config.dump();
    write_character_tokenizer(folder, name == "bart" ? 2 : 1);
    struct Cleaner {
        const std::filesystem::path& folder;
        ~Cleaner() { std::filesystem::remove_all(folder); }
    } cleaner{folder};
    BackboneOptions options;
    options.precision = precision;
    options.device = device;
    return Backbone::open(folder, options);
}

/// "t5_v10", "t5_v11" or "bart", opened once.
inline std::shared_ptr<const Backbone> encoder_decoder(const std::string& name,
                                                       Precision precision = Precision::fp32) {
    static std::map<std::pair<std::string, Precision>, std::shared_ptr<const Backbone>> opened;
    auto& entry = opened[{name, precision}];
    if (!entry) entry = open_encoder_decoder(name, precision);
    return entry;
}

}  // namespace polyad::tiny
