// SPDX-License-Identifier: Apache-2.0
// Every GGUF block type, on every instruction set this CPU runs, bit for bit against the shared fixtures.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>

#include "io/gguf.h"
#include "io/safetensors.h"
#include "kernels/op_table.h"

namespace polyad {
namespace {

const std::filesystem::path folder = std::filesystem::path(POLYAD_SHARED_DIR) / "fixtures" / "gguf";
constexpr const char* isas[] = {"portable", "avx2", "avx512"};
constexpr DType weight_types[] = {DType::f16,  DType::bf16, DType::q8_0,   DType::q4_0,  DType::q4_1,
                                  DType::q5_0, DType::q5_1, DType::q2_k,   DType::q3_k,  DType::q4_k,
                                  DType::q5_k, DType::q6_k, DType::iq4_nl, DType::iq4_xs};

TEST(Dequant, BlocksAreBitwiseEqual) {
    if (!std::filesystem::exists(folder)) GTEST_SKIP() << folder << " is missing";
    const Safetensors blocks = open_safetensors(folder / "quant_blocks.safetensors");
    for (const char* isa : isas) {
        const kernels::OpTable* ops = kernels::ops_for(isa);
        if (!ops) continue;
        for (DType type : weight_types) {
            const StoredTensor& raw = blocks.at(std::string(dtype_name(type)) + ".raw");
            const StoredTensor& wanted = blocks.at(std::string(dtype_name(type)) + ".f32");
            std::vector<float> got(static_cast<size_t>(wanted.elements()));
            ops->dequantise(quant_of(type), raw.data.data(), got.data(), wanted.elements());
            EXPECT_EQ(std::memcmp(got.data(), wanted.data.data(), wanted.data.size()), 0)
                << isa << " " << dtype_name(type);
        }
    }
}

TEST(Dequant, WholeTensorsAreBitwiseEqual) {
    if (!std::filesystem::exists(folder)) GTEST_SKIP() << folder << " is missing";
    const Safetensors wanted = open_safetensors(folder / "dequantised.safetensors");
    const GgufFile file = GgufFile::parse(Bytes::map_file(folder / "tiny_llama.gguf"));
    EXPECT_EQ(file.tensors().size(), wanted.tensors.size());
    for (const StoredTensor& tensor : file.tensors()) {
        const StoredTensor& reference = wanted.at(tensor.name);
        EXPECT_EQ(tensor.shape, reference.shape) << tensor.name;
        EXPECT_EQ(to_float(tensor), to_float(reference)) << tensor.name;
    }
}

TEST(Dequant, LongTensorsSplitOverThreadsGiveTheSame) {
    // Above the size from which threads share the work: repeating one block must repeat its values.
    constexpr int64_t blocks = 3000, n = blocks * 256;
    std::vector<uint8_t> raw(static_cast<size_t>(blocks) * 144);
    for (size_t i = 0; i < raw.size(); ++i) raw[i] = static_cast<uint8_t>(i % 144 * 37 + 11) & 0x3f;
    std::vector<float> one(256), all(n);
    kernels::ops().dequantise(kernels::Quant::q4_k, raw.data(), one.data(), 256);
    kernels::ops().dequantise(kernels::Quant::q4_k, raw.data(), all.data(), n);
    for (int64_t i = 0; i < n; ++i)
        ASSERT_EQ(all[static_cast<size_t>(i)], one[static_cast<size_t>(i % 256)]) << i;
}

TEST(Dequant, Bf16RoundsToNearestEven) {
    const float values[] = {1.0f,
                            1.00390625f,
                            1.01171875f,
                            -0.0f,
                            3.4e38f,
                            std::numeric_limits<float>::infinity(),
                            std::numeric_limits<float>::quiet_NaN()};
    const uint16_t wanted[] = {0x3f80, 0x3f80, 0x3f82, 0x8000, 0x7f80, 0x7f80, 0x7fc0};
    for (const char* isa : isas) {
        const kernels::OpTable* ops = kernels::ops_for(isa);
        if (!ops) continue;
        uint16_t got[7];
        ops->dequantise_bf16(kernels::Quant::f32, values, got, 7);
        for (int i = 0; i < 7; ++i) EXPECT_EQ(got[i], wanted[i]) << isa << " " << values[i];
    }
}

}  // namespace
}  // namespace polyad
