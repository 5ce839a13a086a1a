// SPDX-License-Identifier: Apache-2.0
// Products with packed weights, every format on every instruction set, against double sums over the weights
// dequantise() gives.
#include <gtest/gtest.h>

#include <numeric>

#include "base/random.h"
#include "kernels/op_table.h"
#include "tests/unit/kernel_check.h"

namespace polyad::kernels {
namespace {

struct Format {
    Quant quant;
    const char* name;
    int elements, bytes;
    std::vector<int> halves;  ///< byte offsets of the half-precision numbers of a block
};

const Format formats[] = {
    {Quant::q4_0, "q4_0", 32, 18, {0}},      {Quant::q4_1, "q4_1", 32, 20, {0, 2}},
    {Quant::q5_0, "q5_0", 32, 22, {0}},      {Quant::q5_1, "q5_1", 32, 24, {0, 2}},
    {Quant::q8_0, "q8_0", 32, 34, {0}},      {Quant::q2_k, "q2_k", 256, 84, {80, 82}},
    {Quant::q3_k, "q3_k", 256, 110, {108}},  {Quant::q4_k, "q4_k", 256, 144, {0, 2}},
    {Quant::q5_k, "q5_k", 256, 176, {0, 2}}, {Quant::q6_k, "q6_k", 256, 210, {208}},
    {Quant::iq4_nl, "iq4_nl", 32, 18, {0}},  {Quant::iq4_xs, "iq4_xs", 256, 136, {0}},
    {Quant::f16, "f16", 1, 2, {0}},          {Quant::bf16, "bf16", 1, 2, {}},
    {Quant::f32, "f32", 1, 4, {}},
};

/// Random blocks whose scales are small ordinary numbers.
std::vector<uint8_t> random_blocks(const Format& format, int64_t count, Generator& random) {
    std::vector<uint8_t> raw(static_cast<size_t>(count * format.bytes));
    for (uint8_t& byte : raw) byte = static_cast<uint8_t>(random.next_u32());
    for (int64_t b = 0; b < count; ++b) {
        uint8_t* block = raw.data() + b * format.bytes;
        for (const int at : format.halves)
            block[at + 1] = static_cast<uint8_t>((block[at + 1] & 0x83) | 0x2c);
        if (format.quant == Quant::bf16) block[1] = static_cast<uint8_t>((block[1] & 0x80) | 0x3f);
        if (format.quant == Quant::f32) block[3] = static_cast<uint8_t>((block[3] & 0x80) | 0x3f);
    }
    return raw;
}

class PackedKernel : public testing::TestWithParam<const OpTable*> {};

TEST_P(PackedKernel, EqualsPlainSums) {
    const OpTable& ops = *GetParam();
    Generator random(7);
    for (const Format& format : formats)
        for (const int64_t rows : {1, 7, 70})
            for (const int64_t tokens : {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 16}) {
                const int64_t columns = format.elements == 1 ? 45 : 3 * format.elements;
                const auto raw = random_blocks(format, rows * columns / format.elements, random);
                std::vector<float> w(static_cast<size_t>(rows * columns));
                ops_for("portable")->dequantise(format.quant, raw.data(), w.data(), rows * columns);
                std::vector<int32_t> source(static_cast<size_t>(rows));
                for (int64_t r = 0; r < rows; ++r)
                    source[static_cast<size_t>(r)] = static_cast<int32_t>(rows - 1 - r);
                for (const Float type : {Float::f32, Float::bf16}) {
                    const Buffer x = Buffer::random(type, tokens * columns, random);
                    Buffer y(type, tokens * rows);
                    const bool turned = tokens % 2 == 1;
                    ops.multiply_packed(format.quant, raw.data(), turned ? source.data() : nullptr, type,
                                        x.data(), tokens, rows, columns, y.data());
                    for (int64_t t = 0; t < tokens; ++t)
                        for (int64_t r = 0; r < rows; ++r) {
                            double want = 0, size = 0;
                            const int64_t from = turned ? rows - 1 - r : r;
                            for (int64_t k = 0; k < columns; ++k) {
                                const double part =
                                    x.get(t * columns + k) *
                                    static_cast<double>(w[static_cast<size_t>(from * columns + k)]);
                                want += part;
                                size += std::abs(part);
                            }
                            const double limit =
                                type == Float::f32 ? 1e-5 * size : 1e-5 * size + std::abs(want) / 200;
                            ASSERT_NEAR(y.get(t * rows + r), want, limit)
                                << format.name << " rows " << rows << " tokens " << tokens << " at " << t
                                << ", " << r;
                        }
                }
            }
}

TEST_P(PackedKernel, ATokenDoesNotSeeItsNeighbours) {
    const OpTable& ops = *GetParam();
    Generator random(9);
    for (const Format& format : formats) {
        const int64_t rows = 37, columns = 512;
        const auto raw = random_blocks(format, rows * columns / format.elements, random);
        const Buffer x = Buffer::random(Float::f32, 16 * columns, random);
        Buffer all(Float::f32, 16 * rows), one(Float::f32, rows);
        ops.multiply_packed(format.quant, raw.data(), nullptr, Float::f32, x.data(), 16, rows, columns,
                            all.data());
        for (int64_t t = 0; t < 16; ++t) {
            const auto* own = static_cast<const float*>(x.data()) + t * columns;
            ops.multiply_packed(format.quant, raw.data(), nullptr, Float::f32, own, 1, rows, columns,
                                one.data());
            for (int64_t r = 0; r < rows; ++r) ASSERT_EQ(one.get(r), all.get(t * rows + r)) << format.name;
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Sets, PackedKernel, testing::ValuesIn(available_sets()),
                         [](const auto& info) { return std::string(info.param->isa); });

}  // namespace
}  // namespace polyad::kernels
