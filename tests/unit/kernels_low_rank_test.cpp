// SPDX-License-Identifier: Apache-2.0
// The routed low-rank kernels of every instruction set against plain sums in double precision.
#include <gtest/gtest.h>

#include <algorithm>

#include "base/random.h"
#include "kernels/op_table.h"
#include "tests/unit/kernel_check.h"

namespace polyad::kernels {
namespace {

struct Shape {
    std::vector<int32_t> lengths, groups;
    int32_t group_count;
    int64_t d_in, d_out, rank;
};

const Shape shapes[] = {
    {{5, 0, 7, 1}, {0, 1, 1, 2}, 3, 64, 32, 1},
    {{3, 4}, {0, -1}, 1, 20, 17, 3},
    {{9, 9, 9}, {1, 1, 1}, 2, 576, 192, 8},  // neighbours of one group
    {{1, 1, 1, 1}, {0, 2, 0, 2}, 3, 100, 33, 8},
    {{130}, {0}, 1, 130, 200, 16},
    {{31, 2}, {1, 0}, 2, 48, 70, 33},
    {{4, 50}, {-1, 0}, 1, 192, 576, 128},
    {{6}, {-1}, 1, 16, 16, 4},
    {{0, 0}, {0, 0}, 1, 16, 16, 2},
    {{}, {}, 1, 16, 16, 2},
    {{70}, {0}, 1, 7, 5, 5},
};

class LowRankKernels : public testing::TestWithParam<const OpTable*> {
  protected:
    /// Plain sums: everything in double from the stored (rounded) inputs.
    struct Problem {
        Shape shape;
        Float type;
        std::vector<int32_t> begin{0};
        std::vector<int32_t> group_of_token;
        int64_t n;
        Buffer x, a, b, y, dy;
        static constexpr double scale = 1.7;

        Problem(const Shape& s, Float t, Generator& random)
            : shape(s),
              type(t),
              n(total(s)),
              x(Buffer::random(t, n * s.d_in, random)),
              a(Buffer::random(t, s.group_count * s.rank * s.d_in, random)),
              b(Buffer::random(t, s.group_count * s.rank * s.d_out, random)),
              y(Buffer::random(t, n * s.d_out, random)),
              dy(Buffer::random(t, n * s.d_out, random)) {
            for (size_t row = 0; row < s.lengths.size(); ++row) {
                begin.push_back(begin.back() + s.lengths[row]);
                for (int32_t i = 0; i < s.lengths[row]; ++i) group_of_token.push_back(s.groups[row]);
            }
        }
        static int64_t total(const Shape& s) {
            int64_t n = 0;
            for (const int32_t length : s.lengths) n += length;
            return n;
        }
        Rows rows() const { return {begin.data(), static_cast<int32_t>(shape.lengths.size())}; }
        double at_a(int64_t g, int64_t r, int64_t i) const {
            return a.get((g * shape.rank + r) * shape.d_in + i);
        }
        double at_b(int64_t g, int64_t o, int64_t r) const {
            return b.get((g * shape.d_out + o) * shape.rank + r);
        }
    };

    template <class Body>
    void for_all(Body body) {
        for (const Float type : {Float::f32, Float::bf16})
            for (const Shape& shape : shapes) {
                SCOPED_TRACE(testing::Message()
                             << name_of(type) << " rank " << shape.rank << " " << shape.d_in << "->"
                             << shape.d_out << " tokens " << Problem::total(shape));
                Problem problem(shape, type, random);
                body(problem);
            }
    }

    const OpTable& op = *GetParam();
    Generator random{7};
};
INSTANTIATE_TEST_SUITE_P(Sets, LowRankKernels, testing::ValuesIn(available_sets()),
                         [](const auto& info) { return std::string(info.param->isa); });

TEST_P(LowRankKernels, Down) {
    for_all([&](Problem& p) {
        const auto& s = p.shape;
        std::vector<double> expected;
        for (int64_t t = 0; t < p.n; ++t)
            for (int64_t r = 0; r < s.rank; ++r) {
                const int32_t g = p.group_of_token[static_cast<size_t>(t)];
                double sum = 0;
                for (int64_t i = 0; g >= 0 && i < s.d_in; ++i)
                    sum += p.x.get(t * s.d_in + i) * p.at_a(g, r, i);
                expected.push_back(sum);
            }
        auto u = Buffer::random(Float::f32, p.n * s.rank, random);
        op.low_rank_down(p.type, p.x.data(), p.a.data(), s.groups.data(), p.rows(), s.d_in, s.rank,
                         u.floats());
        expect_near(u, expected, 4e-6, "u");  // inputs are exact in float32: no rounding of operands
    });
}

TEST_P(LowRankKernels, Up) {
    for_all([&](Problem& p) {
        const auto& s = p.shape;
        auto v = Buffer::random(Float::f32, p.n * s.rank, random);
        std::vector<double> expected = p.y.values();
        for (int64_t t = 0; t < p.n; ++t)
            for (int64_t o = 0; o < s.d_out; ++o) {
                const int32_t g = p.group_of_token[static_cast<size_t>(t)];
                for (int64_t r = 0; g >= 0 && r < s.rank; ++r)
                    expected[static_cast<size_t>(t * s.d_out + o)] +=
                        Problem::scale * v.get(t * s.rank + r) * p.at_b(g, o, r);
            }
        const auto before = p.y.values();
        op.low_rank_up(p.type, v.floats(), p.b.data(), s.groups.data(), p.rows(), s.d_out, s.rank,
                       static_cast<float>(Problem::scale), p.y.data());
        expect_near(p.y, expected, tolerance_of(p.type), "y");
        for (int64_t t = 0; t < p.n; ++t)
            for (int64_t o = 0; p.group_of_token[static_cast<size_t>(t)] < 0 && o < s.d_out; ++o)
                EXPECT_EQ(p.y.get(t * s.d_out + o), before[static_cast<size_t>(t * s.d_out + o)]);
    });
}

/// Every row's own pair, B transposed; ranks may differ, so the last group has one less where it can.
struct OwnPairs {
    template <class Problem>
    explicit OwnPairs(Problem& p) : transposed(p.type, p.b.n()) {
        const auto& s = p.shape;
        for (int64_t g = 0; g < s.group_count; ++g)
            for (int64_t o = 0; o < s.d_out; ++o)
                for (int64_t r = 0; r < s.rank; ++r)
                    transposed.set((g * s.rank + r) * s.d_out + o, p.at_b(g, o, r));
        for (const int32_t g : s.groups)
            of_row.push_back(g < 0 ? RowFactors{nullptr, nullptr, 0, 0}
                                   : RowFactors{p.a.at(g * s.rank * s.d_in),
                                                transposed.at(g * s.rank * s.d_out), rank_of(s, g),
                                                static_cast<float>(Problem::scale)});
    }
    template <class Shape>
    static int32_t rank_of(const Shape& s, int32_t g) {
        return static_cast<int32_t>(g > 0 && g == s.group_count - 1 && s.rank > 1 ? s.rank - 1 : s.rank);
    }
    Buffer transposed;
    std::vector<RowFactors> of_row;
};

TEST_P(LowRankKernels, RowsWithPairsOfTheirOwn) {
    for_all([&](Problem& p) {
        const auto& s = p.shape;
        OwnPairs pairs(p);
        std::vector<double> expected = p.y.values();
        for (int64_t t = 0; t < p.n; ++t) {
            const int32_t g = p.group_of_token[static_cast<size_t>(t)];
            for (int64_t r = 0; g >= 0 && r < OwnPairs::rank_of(s, g); ++r) {
                double u = 0;
                for (int64_t i = 0; i < s.d_in; ++i) u += p.x.get(t * s.d_in + i) * p.at_a(g, r, i);
                for (int64_t o = 0; o < s.d_out; ++o)
                    expected[static_cast<size_t>(t * s.d_out + o)] += Problem::scale * u * p.at_b(g, o, r);
            }
        }
        const Buffer before = p.y;
        op.low_rank_rows(p.type, p.x.data(), pairs.of_row.data(), p.rows(), s.d_in, s.d_out, p.y.data());
        expect_near(p.y, expected, tolerance_of(p.type), "y");
        for (int64_t t = 0; t < p.n; ++t)
            for (int64_t o = 0; p.group_of_token[static_cast<size_t>(t)] < 0 && o < s.d_out; ++o)
                EXPECT_EQ(p.y.get(t * s.d_out + o), before.get(t * s.d_out + o));

        // Each row alone, and in float32 each token alone, gives the same bits.
        for (size_t row = 0; row < s.lengths.size(); ++row) {
            const int32_t begin = p.begin[row], n = s.lengths[row],
                          step = p.type == Float::f32 ? 1 : std::max(n, 1);
            for (int32_t t = 0; t < n; t += step) {
                const int32_t alone[] = {0, step};
                Buffer y(p.type, step * s.d_out);
                for (int64_t i = 0; i < y.n(); ++i) y.set(i, before.get((begin + t) * s.d_out + i));
                op.low_rank_rows(p.type, p.x.at((begin + t) * s.d_in), &pairs.of_row[row], {alone, 1}, s.d_in,
                                 s.d_out, y.data());
                for (int64_t i = 0; i < y.n(); ++i)
                    ASSERT_EQ(y.get(i), p.y.get((begin + t) * s.d_out + i)) << row << " " << t << " " << i;
            }
        }
    });
}

TEST_P(LowRankKernels, UpBackward) {
    for_all([&](Problem& p) {
        const auto& s = p.shape;
        auto v = Buffer::random(Float::f32, p.n * s.rank, random);
        auto db = Buffer::random(Float::f32, p.b.n(), random);
        auto dv = Buffer::random(Float::f32, p.n * s.rank, random);
        std::vector<double> edv(static_cast<size_t>(p.n * s.rank), 0), edb = db.values();
        for (int64_t t = 0; t < p.n; ++t) {
            const int32_t g = p.group_of_token[static_cast<size_t>(t)];
            for (int64_t o = 0; g >= 0 && o < s.d_out; ++o)
                for (int64_t r = 0; r < s.rank; ++r) {
                    const double d = Problem::scale * p.dy.get(t * s.d_out + o);
                    edv[static_cast<size_t>(t * s.rank + r)] += d * p.at_b(g, o, r);
                    edb[static_cast<size_t>((g * s.d_out + o) * s.rank + r)] += d * v.get(t * s.rank + r);
                }
        }
        const Buffer start = db;
        op.low_rank_up_backward(p.type, p.dy.data(), v.floats(), p.b.data(), s.groups.data(), p.rows(),
                                s.d_out, s.rank, static_cast<float>(Problem::scale), dv.floats(),
                                db.floats());
        expect_near(dv, edv, 4e-6, "dv");
        expect_near(db, edb, tolerance_of(p.type), "db");
        Buffer only = start;
        op.low_rank_up_backward(p.type, p.dy.data(), v.floats(), p.b.data(), s.groups.data(), p.rows(),
                                s.d_out, s.rank, static_cast<float>(Problem::scale), nullptr, only.floats());
        EXPECT_EQ(only.values(), db.values());
    });
}

TEST_P(LowRankKernels, DownBackward) {
    for_all([&](Problem& p) {
        const auto& s = p.shape;
        auto du = Buffer::random(Float::f32, p.n * s.rank, random);
        auto dx = Buffer::random(p.type, p.n * s.d_in, random);
        auto da = Buffer::random(Float::f32, p.a.n(), random);
        std::vector<double> edx = dx.values(), eda = da.values();
        for (int64_t t = 0; t < p.n; ++t) {
            const int32_t g = p.group_of_token[static_cast<size_t>(t)];
            for (int64_t i = 0; g >= 0 && i < s.d_in; ++i)
                for (int64_t r = 0; r < s.rank; ++r) {
                    edx[static_cast<size_t>(t * s.d_in + i)] += du.get(t * s.rank + r) * p.at_a(g, r, i);
                    eda[static_cast<size_t>((g * s.rank + r) * s.d_in + i)] +=
                        du.get(t * s.rank + r) * p.x.get(t * s.d_in + i);
                }
        }
        op.low_rank_down_backward(p.type, du.floats(), p.x.data(), p.a.data(), s.groups.data(), p.rows(),
                                  s.d_in, s.rank, dx.data(), da.floats());
        expect_near(dx, edx, tolerance_of(p.type), "dx");
        expect_near(da, eda, tolerance_of(p.type), "da");
        const auto before = da.values();
        op.low_rank_down_backward(p.type, du.floats(), p.x.data(), p.a.data(), s.groups.data(), p.rows(),
                                  s.d_in, s.rank, nullptr, da.floats());
        EXPECT_TRUE(p.n == 0 || s.groups[0] < 0 || before != da.values());
    });
}

TEST_P(LowRankKernels, ARowDoesNotDependOnItsNeighbours) {
    for (const Float type : {Float::f32, Float::bf16}) {
        const Shape together{{7, 50, 3}, {1, 0, 1}, 2, 96, 80, 8};
        Problem p(together, type, random);
        Buffer u(Float::f32, p.n * 8), y = p.y;
        op.low_rank_down(type, p.x.data(), p.a.data(), together.groups.data(), p.rows(), 96, 8, u.floats());
        op.low_rank_up(type, u.floats(), p.b.data(), together.groups.data(), p.rows(), 80, 8, 0.5f, y.data());
        for (size_t row = 0; row < 3; ++row) {
            const int32_t begin = p.begin[row], n = together.lengths[row], alone[] = {0, n};
            Buffer u1(Float::f32, n * 8), y1(type, n * 80);
            for (int64_t i = 0; i < n * 80; ++i) y1.set(i, p.y.get(begin * 80 + i));
            op.low_rank_down(type, p.x.at(begin * 96), p.a.data(), &together.groups[row], {alone, 1}, 96, 8,
                             u1.floats());
            op.low_rank_up(type, u1.floats(), p.b.data(), &together.groups[row], {alone, 1}, 80, 8, 0.5f,
                           y1.data());
            for (int64_t i = 0; i < n * 80; ++i)
                ASSERT_EQ(y1.get(i), y.get(begin * 80 + i)) << row << " " << i;
        }
    }
}

TEST_P(LowRankKernels, ZeroFactorsLeaveTheOutputBitForBit) {
    for (const Float type : {Float::f32, Float::bf16}) {
        Problem p({{40}, {0}, 1, 64, 64, 8}, type, random);
        auto v = Buffer::random(Float::f32, p.n * 8, random);
        const Buffer zero(type, 64 * 8);
        const auto before = p.y.values();
        const int32_t group = 0;
        op.low_rank_up(type, v.floats(), zero.data(), &group, p.rows(), 64, 8, 2.0f, p.y.data());
        EXPECT_EQ(p.y.values(), before);
    }
}

}  // namespace
}  // namespace polyad::kernels
