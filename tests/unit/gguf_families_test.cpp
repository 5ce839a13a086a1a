// SPDX-License-Identifier: Apache-2.0
// Each decoder family as llama.cpp's converter writes it to GGUF, against the Hugging Face folder it came
// from.
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <numbers>

#include "backbone/backbone.h"
#include "io/gguf_names.h"
#include "io/gguf_writer.h"
#include "io/model_files.h"

namespace polyad {
namespace {

/// Rows of q and k as the converter leaves them for its "llama" architecture: rotary pairs side by side.
std::vector<float> interleaved(const std::vector<float>& values, int64_t heads, int64_t columns) {
    const int64_t rows = static_cast<int64_t>(values.size()) / columns, each = rows / heads, half = each / 2;
    std::vector<float> out(values.size());
    for (int64_t head = 0; head < heads; ++head)
        for (int64_t i = 0; i < half; ++i)
            for (int64_t part = 0; part < 2; ++part)
                std::copy_n(values.begin() + (head * each + part * half + i) * columns, columns,
                            out.begin() + (head * each + 2 * i + part) * columns);
    return out;
}

/// The converter's rope_freqs.weight for llama3 scaling: what each frequency is divided by.
std::vector<float> llama3_factors(const ModelConfig& c) {
    const RopeScaling& s = c.rope_scaling;
    const double original = static_cast<double>(s.original_context);
    const double longest = original / s.low_freq_factor, shortest = original / s.high_freq_factor;
    std::vector<float> out;
    for (int64_t i = 0; i < c.rotary_dim; i += 2) {
        const double wavelength =
            2 * std::numbers::pi *
            std::pow(c.rope_theta, static_cast<double>(i) / static_cast<double>(c.rotary_dim));
        const double smooth =
            (original / wavelength - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
        out.push_back(static_cast<float>(wavelength < shortest  ? 1.0
                                         : wavelength > longest ? s.factor
                                                                : 1 / ((1 - smooth) / s.factor + smooth)));
    }
    return out;
}

std::string converted(const ModelFiles& files) {
    const ModelConfig& c = files.config;
    // Mistral has no architecture of its own there.
    const std::string name = c.family == Family::mistral ? "llama" : family_name(c.family);
    const auto number = [](int64_t value) { return static_cast<uint32_t>(value); };
    GgufWriter out;
    out.add("general.architecture", std::string_view(name));
    out.add(name + ".embedding_length", number(c.width));
    out.add(name + ".block_count", number(c.layers));
    out.add(name + ".context_length", number(c.context));
    out.add(name + ".feed_forward_length", number(c.ffn));
    out.add(name + ".attention.head_count", number(c.heads));
    out.add(name + ".attention.head_count_kv", number(c.kv_heads));
    out.add(name + ".attention.key_length", number(c.head_dim));
    out.add(name + ".attention.value_length", number(c.head_dim));
    out.add(name + ".attention.layer_norm_rms_epsilon", static_cast<float>(c.norm_eps));
    out.add(name + ".rope.freq_base", static_cast<float>(c.rope_theta));
    if (c.sliding_window > 0) out.add(name + ".attention.sliding_window", number(c.sliding_window));
    if (c.rope_scaling.kind == RopeScaling::Kind::llama3) {
        const std::vector<float> factors = llama3_factors(c);
        out.add(float_tensor("rope_freqs.weight", {static_cast<int64_t>(factors.size())}, factors));
    }
    for (const auto& [path, tensor] : files.tensors.tensors()) {
        const std::string there = gguf_name(path);
        if (there.empty()) continue;
        std::vector<float> values = to_float(tensor);
        const bool q = there.find("attn_q.") != std::string::npos,
                   k = there.find("attn_k.") != std::string::npos;
        if (name == "llama" && (q || k))
            values =
                interleaved(values, q ? c.heads : c.kv_heads, tensor.shape.size() > 1 ? tensor.shape[1] : 1);
        out.add(float_tensor(there, tensor.shape, values));
    }
    return out.encode();
}

class GgufFamilies : public testing::TestWithParam<const char*> {};

TEST_P(GgufFamilies, ComputeWhatTheFolderComputes) {
    const auto folder = std::filesystem::path(POLYAD_SHARED_DIR) / "fixtures" / "models" / GetParam();
    if (!std::filesystem::exists(folder)) GTEST_SKIP() << folder << " is missing";
    at::NoGradGuard no_grad;
    const ModelFiles files = open_model_files(folder);
    const std::string gguf = converted(files);
    const auto expected = Backbone::open(folder, {Precision::fp32, WeightStorage::automatic});
    const auto actual =
        Backbone::open(Bytes::lent(std::as_bytes(std::span(gguf.data(), gguf.size())), "memory"),
                       {Precision::fp32, WeightStorage::automatic});
    EXPECT_EQ(actual->info().parameters, expected->info().parameters);

    // Long enough for a sliding window to matter and for scaled rotary frequencies to show.
    Batch batch;
    for (int32_t i = 0; i < 96; ++i)
        batch.tokens.push_back((i * 37 + 5) % static_cast<int32_t>(files.config.vocab));
    batch.row_begin = {0, 96};
    const at::Tensor there = actual->logits(actual->hidden(batch));
    const at::Tensor here = expected->logits(expected->hidden(batch));
    EXPECT_LE(there.sub(here).abs().max().item<double>(), 2e-5 * (1 + here.abs().max().item<double>()));
    EXPECT_TRUE(there.argmax(1).equal(here.argmax(1)));
}

INSTANTIATE_TEST_SUITE_P(Fixtures, GgufFamilies,
                         testing::Values("llama", "llama_bf16_sharded", "llama_rope3", "qwen2", "qwen3",
                                         "mistral"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace polyad
