// SPDX-License-Identifier: Apache-2.0
// A llama of one layer with random weights and one token per word, written as a Hugging Face folder: a
// backbone that needs no download and answers in microseconds.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

namespace planted {

using Json = nlohmann::json;

struct ModelShape {
    int width = 32, inner = 64, heads = 4, input_words = 24, label_words = 12;
    int vocab() const { return 3 + input_words + label_words; }
    std::string input_word(int i) const { return "w" + std::to_string(i); }
    std::string label_word(int i) const { return "y" + std::to_string(i); }
    /// Token id of a label.
    int label_id(int i) const { return 3 + input_words + i; }
};

inline void write_model(const std::filesystem::path& folder, const ModelShape& shape, uint64_t seed) {
    std::filesystem::create_directories(folder);
    const auto write = [&](const char* name, const std::string& bytes) {
        std::ofstream file(folder / name, std::ios::binary);
        if (!(file << bytes)) throw std::runtime_error("cannot write " + (folder / name).string());
    };
    Json vocab = {{"<unk>", 0}, {"<s>", 1}, {"</s>", 2}};
    for (int i = 0; i < shape.input_words; ++i) vocab[shape.input_word(i)] = 3 + i;
    for (int i = 0; i < shape.label_words; ++i) vocab[shape.label_word(i)] = shape.label_id(i);
    Json special = Json::array();
    for (int id = 0; id < 3; ++id)
        special.push_back({{"id", id},
                           {"content", id == 0   ? "<unk>"
                                       : id == 1 ? "<s>"
                                                 : "</s>"},
                           {"single_word", false},
                           {"lstrip", false},
                           {"rstrip", false},
                           {"normalized", false},
                           {"special", true}});
    write("tokenizer.json", Json{{"version", "1.0"},
                                 {"truncation", nullptr},
                                 {"padding", nullptr},
                                 {"added_tokens", special},
                                 {"normalizer", nullptr},
                                 {"pre_tokenizer", {{"type", "WhitespaceSplit"}}},
                                 {"post_processor", nullptr},
                                 {"decoder", nullptr},
                                 {"model", {{"type", "WordLevel"}, {"vocab", vocab}, {"unk_token", "<unk>"}}}}
                                .dump());
    write("tokenizer_config.json",
          Json{{"bos_token", "<s>"}, {"eos_token", "</s>"}, {"unk_token", "<unk>"}}.dump());
    write("config.json", Json{{"architectures", {"LlamaForCausalLM"}},
                              {"model_type", "llama"},
                              {"hidden_size", shape.width},
                              {"intermediate_size", shape.inner},
                              {"num_attention_heads", shape.heads},
                              {"num_key_value_heads", shape.heads},
                              {"num_hidden_layers", 1},
                              {"head_dim", shape.width / shape.heads},
                              {"hidden_act", "silu"},
                              {"rms_norm_eps", 1e-5},
                              {"rope_theta", 10000.0},
                              {"max_position_embeddings", 64},
                              {"vocab_size", shape.vocab()},
                              {"bos_token_id", 1},
                              {"eos_token_id", 2},
                              {"tie_word_embeddings", false}}
                             .dump());

    std::mt19937_64 random(seed);
    std::normal_distribution<float> normal;
    Json header = Json::object();
    std::string data;
    // Feature 0 says "a label was the last word" and nothing else touches it: the end token follows by
    // itself, so that skills have only the labels to learn.
    const auto tensor = [&](const std::string& name, std::vector<int> dims, float deviation, float mean,
                            const std::function<float(int, int, float)>& change = {}) {
        const int columns = dims.back();
        size_t count = 1;
        for (const int d : dims) count *= static_cast<size_t>(d);
        const size_t begin = data.size();
        data.resize(begin + count * sizeof(float));
        for (size_t i = 0; i < count; ++i) {
            float value = mean + deviation * normal(random);
            const int at = static_cast<int>(i);
            if (change) value = change(at / columns, at % columns, value);
            std::memcpy(data.data() + begin + i * sizeof(float), &value, sizeof value);
        }
        header[name] = {{"dtype", "F32"}, {"shape", dims}, {"data_offsets", {begin, data.size()}}};
    };
    const auto keeps_feature = [](int row, int, float value) { return row == 0 ? 0.0f : value; };
    const auto embedding = [&](int row, int column, float value) {
        return column > 0 ? value : row >= shape.label_id(0) ? 15.0f : 0.0f;
    };
    const auto head = [](int row, int column, float value) {
        if (row == 2) return column == 0 ? 4.0f : 0.0f;
        return column == 0 ? 0.0f : value;
    };
    const float in = 1.5f / std::sqrt(static_cast<float>(shape.width));
    const std::string layer = "model.layers.0.";
    tensor("model.embed_tokens.weight", {shape.vocab(), shape.width}, 1.0f, 0.0f, embedding);
    tensor("lm_head.weight", {shape.vocab(), shape.width}, in, 0.0f, head);
    tensor("model.norm.weight", {shape.width}, 0.0f, 1.0f);
    tensor(layer + "input_layernorm.weight", {shape.width}, 0.0f, 1.0f);
    tensor(layer + "post_attention_layernorm.weight", {shape.width}, 0.0f, 1.0f);
    for (const char* name : {"q_proj", "k_proj", "v_proj"})
        tensor(layer + "self_attn." + name + ".weight", {shape.width, shape.width}, in, 0.0f);
    tensor(layer + "self_attn.o_proj.weight", {shape.width, shape.width}, in, 0.0f, keeps_feature);
    tensor(layer + "mlp.gate_proj.weight", {shape.inner, shape.width}, in, 0.0f);
    tensor(layer + "mlp.up_proj.weight", {shape.inner, shape.width}, in, 0.0f);
    tensor(layer + "mlp.down_proj.weight", {shape.width, shape.inner},
           0.3f / std::sqrt(static_cast<float>(shape.inner)), 0.0f, keeps_feature);
    const std::string text = header.dump();
    std::string file(8, '\0');
    const auto size = static_cast<uint64_t>(text.size());
    for (int i = 0; i < 8; ++i) file[static_cast<size_t>(i)] = static_cast<char>(size >> (8 * i) & 0xFF);
    write("model.safetensors", file + text + data);
}

}  // namespace planted
