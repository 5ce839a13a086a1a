// SPDX-License-Identifier: Apache-2.0
#include "io/safetensors.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "base/error.h"
#include "io/model_files.h"
#include "io/model_layout.h"

namespace polyad {
namespace {

const std::filesystem::path fixtures = std::filesystem::path(POLYAD_SHARED_DIR) / "fixtures";

Safetensors parse(const std::string& bytes) {
    return parse_safetensors(Bytes::copy_of(bytes, "test"));
}

TEST(Safetensors, WriterAndReaderAgree) {
    const float values[] = {1, 2, 3, 4, 5, 6};
    StoredTensor bytes = float_tensor("z", {6}, values);
    bytes.name = "a.bytes";
    bytes.dtype = DType::u8;
    bytes.shape = {24};
    const std::string file = encode_safetensors(
        {float_tensor("b", {2, 3}, values), bytes, float_tensor("scalar", {}, {values, 1})},
        {{"case", "{\"x\": 1}"}});
    const Safetensors back = parse(file);
    ASSERT_EQ(back.tensors.size(), 3u);
    EXPECT_EQ(back.metadata.at("case"), "{\"x\": 1}");
    EXPECT_EQ(to_float(back.at("b")), std::vector<float>(values, values + 6));
    EXPECT_EQ(back.at("b").shape, (std::vector<int64_t>{2, 3}));
    EXPECT_EQ(to_int64(back.at("a.bytes")).size(), 24u);
    EXPECT_EQ(back.find("missing"), nullptr);
    EXPECT_THROW(back.at("missing"), Error);
    EXPECT_THROW(to_int64(back.at("b")), Error);
    EXPECT_EQ(encode_safetensors(back.tensors, back.metadata), file);
}

TEST(Safetensors, EveryFamilyOpensAndFitsItsLayout) {
    if (!std::filesystem::exists(fixtures)) GTEST_SKIP() << fixtures << " is missing";
    for (const char* name : {"llama", "llama_rope3", "llama_bf16_sharded", "qwen2", "qwen3", "mistral",
                             "t5_v10", "t5_v11", "bart", "bert"}) {
        const ModelFiles model = open_model_files(fixtures / "models" / name);
        EXPECT_EQ(model.name, name);
        // The layout names every tensor of the file: nothing in it goes unused.
        size_t named = 0;
        for (const TensorSpec& spec : model_layout(model.config))
            named += model.tensors.find(spec.name) != nullptr;
        EXPECT_EQ(named, model.tensors.tensors().size()) << name;
        EXPECT_EQ(model.fingerprint().size(), 32u);
        EXPECT_EQ(model.fingerprint(), open_model_files(fixtures / "models" / name).fingerprint());
    }
}

TEST(Safetensors, FingerprintIgnoresShardingButNotWeights) {
    if (!std::filesystem::exists(fixtures)) GTEST_SKIP() << fixtures << " is missing";
    ModelFiles model = open_model_files(fixtures / "models" / "llama_bf16_sharded");
    const std::string sharded = model.fingerprint();
    std::vector<StoredTensor> tensors;
    for (const auto& [name, tensor] : model.tensors.tensors()) tensors.push_back(tensor);
    std::string file = encode_safetensors(tensors);
    model.tensors = TensorStore::from_safetensors(parse(file), model.config.family);
    EXPECT_EQ(model.fingerprint(), sharded);
    file.back() ^= 1;
    model.tensors = TensorStore::from_safetensors(parse(file), model.config.family);
    EXPECT_NE(model.fingerprint(), sharded);
}

TEST(Safetensors, ConfigReadsWhatTheFamiliesSay) {
    if (!std::filesystem::exists(fixtures)) GTEST_SKIP() << fixtures << " is missing";
    const auto config = [](const char* name) { return open_model_files(fixtures / "models" / name).config; };
    EXPECT_EQ(config("llama_rope3").rope_scaling.kind, RopeScaling::Kind::llama3);
    EXPECT_EQ(config("llama_rope3").rope_scaling.original_context, 64);
    EXPECT_TRUE(config("llama").tied);
    EXPECT_TRUE(config("llama_bf16_sharded").output_bias);
    EXPECT_TRUE(config("qwen2").qkv_bias);
    EXPECT_EQ(config("qwen2").window(1), 0);
    EXPECT_EQ(config("qwen3").head_dim, 24);
    EXPECT_EQ(config("mistral").window(0), 6);
    EXPECT_EQ(config("mistral").head_dim, 8);
    EXPECT_TRUE(config("t5_v10").tied);
    EXPECT_TRUE(config("t5_v10").scale_decoder_output);
    EXPECT_EQ(config("t5_v10").decoder_layers, 3);
    EXPECT_EQ(config("t5_v11").activation, Activation::gelu_tanh);
    EXPECT_FALSE(config("t5_v11").tied);
    EXPECT_EQ(config("bart").decoder_heads, 8);
    EXPECT_EQ(config("bart").norm_eps, 1e-5);
    EXPECT_EQ(config("bert").norm_eps, 0.002);
}

TEST(Safetensors, AbsentAndNullKeysMeanDifferentThings) {
    const auto with = [](const char* type, const char* more) {
        return parse_hf_config(
            text("{\"model_type\": \"", type,
                 "\", \"vocab_size\": 9, \"hidden_size\": 4096, "
                 "\"num_hidden_layers\": 2, \"num_attention_heads\": 32, \"intermediate_size\": 7",
                 more, "}"),
            "config.json");
    };
    EXPECT_EQ(with("llama", "").kv_heads, 32);
    EXPECT_EQ(with("mistral", "").kv_heads, 8);
    EXPECT_EQ(with("mistral", ", \"num_key_value_heads\": null").kv_heads, 32);
    EXPECT_EQ(with("mistral", "").window(0), 4096);
    EXPECT_EQ(with("mistral", ", \"sliding_window\": null").window(0), 0);
    EXPECT_EQ(with("qwen3", "").head_dim, 128);
    EXPECT_EQ(with("qwen2", ", \"use_sliding_window\": true, \"max_window_layers\": 1").window(0), 0);
    EXPECT_EQ(with("qwen2", ", \"use_sliding_window\": true, \"max_window_layers\": 1").window(1), 4096);
    EXPECT_EQ(with("llama", ", \"eos_token_id\": [3, 5, 5, 700]").eos_ids, (std::vector<int64_t>{3, 5}));
    EXPECT_EQ(
        with("llama", ", \"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 500}").rope_theta,
        500.0);
    EXPECT_THROW(with("llama", ", \"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 2}"), Error);
    EXPECT_THROW(with("gpt9", ""), Error);
}

TEST(Safetensors, IndexMustNotLeaveItsFolder) {
    const auto folder = std::filesystem::temp_directory_path() / "polyad-index-test";
    std::filesystem::create_directories(folder);
    write_file_atomically(folder / "model.safetensors.index.json",
                          std::string_view("{\"weight_map\": {\"x\": \"../secret\"}}"));
    EXPECT_THROW(open_safetensors_folder(folder), Error);
    std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace polyad
