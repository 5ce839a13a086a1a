// SPDX-License-Identifier: Apache-2.0
// Products with quantised weights laid out in panels, every format on every instruction set, against double
// sums over the weights dequantise() gives.
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
};

/// Random blocks whose scales are small ordinary numbers.
std::vector<uint8_t> random_blocks(const Format& format, int64_t count, Generator& random) {
    std::vector<uint8_t> raw(static_cast<size_t>(count * format.bytes));
    for (uint8_t& byte : raw) byte = static_cast<uint8_t>(random.next_u32());
    for (int64_t b = 0; b < count; ++b)
        for (const int at : format.halves) {
            uint8_t& upper = raw[static_cast<size_t>(b * format.bytes + at + 1)];
            upper = static_cast<uint8_t>((upper & 0x83) | 0x2c);
        }
    return raw;
}

/// A matrix in panels of one set, and the numbers it stands for.
struct Panels {
    Panels(const OpTable& ops, const Format& format, int64_t rows, int64_t columns, bool turned,
           Generator& random)
        : raw(random_blocks(format, rows * columns / format.elements, random)),
          plain(static_cast<size_t>(rows * columns)),
          memory(static_cast<size_t>(ops.panel_bytes(format.quant, rows, columns)) + 1, 0xee) {
        ops_for("portable")->dequantise(format.quant, raw.data(), plain.data(), rows * columns);
        std::vector<int32_t> source(static_cast<size_t>(rows));
        std::iota(source.rbegin(), source.rend(), 0);
        if (turned)
            for (int64_t r = 0; r < rows / 2; ++r)
                std::swap_ranges(plain.begin() + r * columns, plain.begin() + (r + 1) * columns,
                                 plain.begin() + (rows - 1 - r) * columns);
        // One byte off: a file's or an allocator's alignment must not matter.
        ops.make_panels(format.quant, raw.data(), turned ? source.data() : nullptr, rows, columns,
                        memory.data() + 1);
        branch.quant = format.quant;
        branch.panels = memory.data() + 1;
        branch.rows = rows;
    }
    std::vector<uint8_t> raw;
    std::vector<float> plain;
    std::vector<uint8_t> memory;
    PanelBranch branch{};
};

constexpr int32_t single[] = {0, 1}, sixteen[] = {0, 16};

class PackedKernel : public testing::TestWithParam<const OpTable*> {};

/// What a bf16 activation may lose as a 16-bit integer: half a step of its group's largest, times the
/// weights.
double lost(Float type, const Buffer& x, int64_t at, const float* w, int64_t columns) {
    if (type == Float::f32) return 0;
    double bound = 0;
    for (int64_t g = 0; g < columns; g += 32) {
        double top = 0, weights = 0;
        for (int64_t k = g; k < g + 32; ++k) {
            top = std::max(top, std::abs(x.get(at + k)));
            weights += std::abs(static_cast<double>(w[k]));
        }
        bound += top / 65534 * weights;
    }
    return bound;
}

TEST_P(PackedKernel, EqualsPlainSums) {
    const OpTable& ops = *GetParam();
    Generator random(7);
    for (const Format& format : formats)
        for (const int64_t rows : {1, 7, 70})
            for (const int64_t tokens : {0, 1, 2, 3, 4, 5, 7, 8, 9, 16}) {
                const int64_t columns = 3 * format.elements;
                Panels w(ops, format, rows, columns, tokens % 2 == 1, random);
                for (const Float type : {Float::f32, Float::bf16})
                    for (const Float out : {Float::f32, type}) {
                        const Buffer x = Buffer::random(type, tokens * columns, random);
                        const Buffer bias = Buffer::random(type, rows, random);
                        Buffer y(out, tokens * rows);
                        w.branch.bias = bias.data();
                        w.branch.y_type = out;
                        w.branch.y = y.data();
                        const int32_t begin[] = {0, static_cast<int32_t>(tokens)};
                        ops.multiply_panels(type, x.data(), {begin, 1}, columns, &w.branch, 1);
                        for (int64_t t = 0; t < tokens; ++t)
                            for (int64_t r = 0; r < rows; ++r) {
                                const float* row = w.plain.data() + r * columns;
                                double want = bias.get(r), size = std::abs(want);
                                for (int64_t k = 0; k < columns; ++k) {
                                    const double part = x.get(t * columns + k) * static_cast<double>(row[k]);
                                    want += part;
                                    size += std::abs(part);
                                }
                                const double limit = 1e-5 * size + lost(type, x, t * columns, row, columns) +
                                                     (out == Float::bf16 ? std::abs(want) / 200 : 0);
                                ASSERT_NEAR(y.get(t * rows + r), want, limit)
                                    << format.name << " rows " << rows << " tokens " << tokens << " at " << t
                                    << ", " << r;
                            }
                        ASSERT_TRUE(y.guards_intact())
                            << format.name << " rows " << rows << " tokens " << tokens;
                    }
            }
}

TEST_P(PackedKernel, ATokenDoesNotSeeItsNeighbours) {
    const OpTable& ops = *GetParam();
    Generator random(9);
    for (const Format& format : formats)
        for (const Float type : {Float::f32, Float::bf16}) {
            const int64_t rows = 37, columns = 512;
            Panels w(ops, format, rows, columns, false, random);
            const Buffer x = Buffer::random(type, 16 * columns, random);
            Buffer all(Float::f32, 16 * rows), one(Float::f32, rows);
            w.branch.y = all.data();
            ops.multiply_panels(type, x.data(), {sixteen, 1}, columns, &w.branch, 1);
            w.branch.y = one.data();
            for (int64_t t = 0; t < 16; ++t) {
                const auto* own =
                    static_cast<const uint8_t*>(x.data()) + t * columns * (type == Float::f32 ? 4 : 2);
                ops.multiply_panels(type, own, {single, 1}, columns, &w.branch, 1);
                for (int64_t r = 0; r < rows; ++r)
                    ASSERT_EQ(to_bits(static_cast<float>(all.get(t * rows + r))),
                              to_bits(static_cast<float>(one.get(r))))
                        << format.name << " token " << t << " row " << r;
            }
        }
}

TEST_P(PackedKernel, BranchesTakeTheirRowsPairs) {
    const OpTable& ops = *GetParam();
    Generator random(11);
    const int64_t columns = 96;
    const std::vector<int32_t> begin{0, 1, 1, 3, 4, 5};  // an empty row, one of two tokens
    const int rows = 5;
    const int64_t tokens = begin.back(), outputs[] = {40, 7, 16};
    for (const Float type : {Float::f32, Float::bf16})
        for (const int32_t rank : {1, 4, 8, 35}) {
            const Buffer x = Buffer::random(type, tokens * columns, random);
            std::vector<Panels> w;
            std::vector<Buffer> a, b, y;
            std::vector<std::vector<RowFactors>> of_row(3);
            for (size_t i = 0; i < 3; ++i) {
                w.emplace_back(ops, formats[i], outputs[i], columns, false, random);
                y.emplace_back(type, tokens * outputs[i]);
                for (int row = 0; row < rows; ++row) {
                    a.push_back(Buffer::random(type, (rank + row) * columns, random, 0.1));
                    b.push_back(Buffer::random(type, (rank + row) * outputs[i], random, 0.1));
                }
            }
            for (size_t i = 1; i < 3; ++i)  // the first branch has none, row 3 none anywhere
                for (size_t row = 0; row < rows; ++row)
                    of_row[i].push_back({row == 3 ? nullptr : a[i * rows + row].data(),
                                         b[i * rows + row].data(), rank + static_cast<int32_t>(row), 0.5f});
            std::vector<PanelBranch> branches;
            for (size_t i = 0; i < 3; ++i) {
                branches.push_back(w[i].branch);
                branches[i].y_type = type;
                branches[i].y = y[i].data();
                branches[i].of_row = i ? of_row[i].data() : nullptr;
            }
            ops.multiply_panels(type, x.data(), {begin.data(), rows}, columns, branches.data(), 3);
            for (size_t i = 0; i < 3; ++i) {
                for (size_t row = 0; row < rows; ++row)
                    for (int64_t t = begin[row]; t < begin[row + 1]; ++t)
                        for (int64_t r = 0; r < outputs[i]; ++r) {
                            const float* weights = w[i].plain.data() + r * columns;
                            double want = 0, size = 1e5 * lost(type, x, t * columns, weights, columns);
                            for (int64_t k = 0; k < columns; ++k) {
                                const double part = x.get(t * columns + k) * static_cast<double>(weights[k]);
                                want += part;
                                size += std::abs(part);
                            }
                            const Buffer &down = a[i * rows + row], &up = b[i * rows + row];
                            for (int64_t q = 0; i && row != 3 && q < rank + static_cast<int64_t>(row); ++q) {
                                double u = 0;
                                for (int64_t k = 0; k < columns; ++k)
                                    u += x.get(t * columns + k) * down.get(q * columns + k);
                                const double part = 0.5 * u * up.get(q * outputs[i] + r);
                                want += part;
                                size += std::abs(part);
                            }
                            ASSERT_NEAR(y[i].get(t * outputs[i] + r), want,
                                        2e-5 * size + (type == Float::bf16 ? std::abs(want) / 200 : 0))
                                << "branch " << i << " rank " << rank << " token " << t << " row " << r;
                        }
                ASSERT_TRUE(y[i].guards_intact());
            }
        }
}

/// The reference of devices that read ggml's blocks as they are.
TEST_P(PackedKernel, BlocksThemselvesGiveTheSame) {
    const OpTable& ops = *GetParam();
    Generator random(17);
    const int64_t rows = 5, columns = 256, tokens = 3;
    const std::vector<int32_t> source{4, 2, 0, 1, 3};
    for (const Format& format : formats)
        for (const Float type : {Float::f32, Float::bf16}) {
            const auto raw = random_blocks(format, rows * columns / format.elements, random);
            std::vector<float> w(static_cast<size_t>(rows * columns));
            ops.dequantise(format.quant, raw.data(), w.data(), rows * columns);
            const Buffer x = Buffer::random(type, tokens * columns, random);
            Buffer y(type, tokens * rows);
            ops.multiply_packed(format.quant, raw.data(), source.data(), type, x.data(), tokens, rows,
                                columns, y.data());
            std::vector<double> want;
            for (int64_t t = 0; t < tokens; ++t)
                for (int64_t r = 0; r < rows; ++r) {
                    double total = 0;
                    for (int64_t k = 0; k < columns; ++k)
                        total += x.get(t * columns + k) *
                                 static_cast<double>(
                                     w[static_cast<size_t>(source[static_cast<size_t>(r)] * columns + k)]);
                    want.push_back(total);
                }
            expect_near(y, want, type == Float::f32 ? 1e-5 : 1.0 / 200, format.name);
        }
}

TEST_P(PackedKernel, NotANumberStaysOne) {
    const OpTable& ops = *GetParam();
    Generator random(13);
    for (const Float type : {Float::f32, Float::bf16}) {
        Panels w(ops, formats[0], 16, 64, false, random);
        Buffer x = Buffer::random(type, 64, random);
        Buffer y(Float::f32, 16);
        x.set(40, std::nan(""));
        w.branch.y = y.data();
        ops.multiply_panels(type, x.data(), {single, 1}, 64, &w.branch, 1);
        for (int64_t r = 0; r < 16; ++r) EXPECT_TRUE(std::isnan(y.get(r))) << r;
    }
}

INSTANTIATE_TEST_SUITE_P(Sets, PackedKernel, testing::ValuesIn(available_sets()),
                         [](const auto& one) { return std::string(one.param->isa); });

}  // namespace
}  // namespace polyad::kernels
