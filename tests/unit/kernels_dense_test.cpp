// SPDX-License-Identifier: Apache-2.0
// Products of many tokens with dense weights, of the sets that have them, against double precision.
#include <gtest/gtest.h>
#if defined(_OPENMP)
#include <omp.h>
#endif

#include <tuple>

#include "base/random.h"
#include "kernels/op_table.h"
#include "tests/unit/kernel_check.h"

namespace polyad::kernels {
namespace {

using Shape = std::tuple<int64_t, int64_t>;  // rows, columns of W
const Shape shapes[] = {{32, 32}, {64, 32}, {32, 96}, {192, 576}, {96, 1536}, {1568, 64}, {64, 4128}};

class KernelsDense : public testing::TestWithParam<std::tuple<const OpTable*, Shape>> {
  protected:
    void SetUp() override {
        if (!op.multiply_dense) GTEST_SKIP() << "the " << op.isa << " set leaves these to a library";
    }
    void multiply(const Buffer& x, int64_t n, bool backward, bool add, Buffer& y) const {
        const DenseWeights weights{static_cast<const uint16_t*>(w.data()), rows, columns, backward};
        op.multiply_dense(static_cast<const uint16_t*>(x.data()), n, weights, add,
                          static_cast<uint16_t*>(y.data()));
    }

    const OpTable& op = *std::get<0>(GetParam());
    const int64_t rows = std::get<0>(std::get<1>(GetParam())), columns = std::get<1>(std::get<1>(GetParam()));
    Generator random{20261128};
    const Buffer w = Buffer::random(Float::bf16, rows* columns, random);
};
std::string name_of_case(const testing::TestParamInfo<KernelsDense::ParamType>& info) {
    const auto [rows, columns] = std::get<1>(info.param);
    return std::string(std::get<0>(info.param)->isa) + "_" + std::to_string(rows) + "x" +
           std::to_string(columns);
}
INSTANTIATE_TEST_SUITE_P(Sets, KernelsDense,
                         testing::Combine(testing::ValuesIn(available_sets()), testing::ValuesIn(shapes)),
                         name_of_case);

TEST_P(KernelsDense, BothWaysAndAddedToWhatIsThere) {
    for (const bool backward : {false, true})
        for (const bool add : {false, true})
            for (const int64_t n : {0, 1, 15, 16, 17, 32, 33, 100}) {
                SCOPED_TRACE(testing::Message() << n << (backward ? " backward" : " forward") << add);
                const int64_t depth = backward ? rows : columns, outputs = backward ? columns : rows;
                const auto x = Buffer::random(Float::bf16, n * depth, random);
                auto y = Buffer::random(Float::bf16, n * outputs, random);
                std::vector<double> expected;
                for (int64_t t = 0; t < n; ++t)
                    for (int64_t o = 0; o < outputs; ++o) {
                        double sum = add ? y.get(t * outputs + o) : 0;
                        for (int64_t i = 0; i < depth; ++i)
                            sum += x.get(t * depth + i) *
                                   (backward ? w.get(i * columns + o) : w.get(o * columns + i));
                        expected.push_back(sum);
                    }
                multiply(x, n, backward, add, y);
                expect_near(y, expected, 4e-3, "y");  // one rounding to bf16
            }
}

TEST_P(KernelsDense, NeitherThreadsNorNeighboursChangeAToken) {
    for (const bool backward : {false, true}) {
        const int64_t n = 75, depth = backward ? rows : columns, outputs = backward ? columns : rows;
        auto x = Buffer::random(Float::bf16, n * depth, random);
        Buffer all(Float::bf16, n * outputs);
        multiply(x, n, backward, false, all);
#if defined(_OPENMP)
        const int before = omp_get_max_threads();
        for (const int threads : {1, 3, 7, 40}) {
            omp_set_num_threads(threads);
            Buffer y(Float::bf16, n * outputs);
            multiply(x, n, backward, false, y);
            EXPECT_EQ(y.values(), all.values()) << threads << " threads";
        }
        omp_set_num_threads(before);
#endif
        for (int64_t i = 0; i < depth; ++i) x.set(40 * depth + i, std::nan(""));
        Buffer y(Float::bf16, n * outputs);
        multiply(x, n, backward, false, y);
        for (int64_t i = 0; i < n * outputs; ++i) {
            if (i / outputs == 40)
                ASSERT_TRUE(std::isnan(y.get(i)));
            else
                ASSERT_EQ(y.get(i), all.get(i)) << i;
        }
    }
}

}  // namespace
}  // namespace polyad::kernels
