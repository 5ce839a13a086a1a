// SPDX-License-Identifier: Apache-2.0
// Mixed factors and their gradients, every instruction set against plain sums in double precision.
#include <gtest/gtest.h>

#include "base/random.h"
#include "kernels/op_table.h"
#include "tests/unit/kernel_check.h"

namespace polyad::kernels {
namespace {

struct Shape {
    int64_t groups, skills, rows, columns, splits = 1;
    int32_t split_rows = 0;
    int64_t unused_columns = 0;  ///< of each row of out
    int64_t chosen = 0;          ///< above 0: groups read skills of their own
};

const Shape shapes[] = {
    {1, 1, 8, 64},
    {3, 4, 8, 576},
    {8, 11, 3, 1536},
    {5, 3, 192, 8},
    {2, 6, 70, 3, 1, 0, 5},  // half of a pair of twice the rank
    {4, 4, 8, 96, 8, 0},     // splits of the input
    {4, 5, 96, 8, 8, 1},     // and of the output
    {3, 2, 48, 5, 3, 1, 4},
    {1, 7, 1, 2500},
    {6, 9, 8, 80, 1, 0, 0, 1},  // a private skill per group
    {4, 9, 40, 8, 1, 0, 8, 3},
    {9, 5, 1030, 2},
};

class Mix {
  public:
    Mix(const Shape& s, Float type, Generator& random)
        : s_(s),
          chosen_(s.chosen ? s.chosen : s.skills),
          row_(s.columns + s.unused_columns),
          group_(row_ * s.rows + 3),
          bank(Buffer::random(Float::f32, s.skills * s.rows * s.columns, random)),
          weights(Buffer::random(Float::f32, s.groups * s.splits * chosen_, random)),
          out(Buffer::random(type, s.groups * group_, random)),
          dout(Buffer::random(Float::f32, out.n(), random)),
          dbank(Buffer::random(Float::f32, bank.n(), random)),
          dweights(Buffer::random(Float::f32, weights.n(), random)) {
        for (int64_t i = 0; i < s.groups * s.chosen; ++i)
            skill_.push_back(static_cast<int32_t>(random.next_u32() % static_cast<uint32_t>(s.skills)));
    }
    FactorMix args() const {
        return {s_.groups, s_.skills, s_.rows,       s_.columns, skill_.empty() ? nullptr : skill_.data(),
                chosen_,   s_.splits, s_.split_rows, group_,     row_};
    }
    /// Calls body(weight, bank element, out element) for every term.
    template <class Body>
    void each(Body body) const {
        for (int64_t g = 0; g < s_.groups; ++g)
            for (int64_t i = 0; i < s_.rows; ++i)
                for (int64_t c = 0; c < s_.columns; ++c)
                    for (int64_t k = 0; k < chosen_; ++k) {
                        const int64_t split =
                            s_.split_rows ? i / (s_.rows / s_.splits) : c / (s_.columns / s_.splits);
                        const int64_t skill =
                            skill_.empty() ? k : skill_[static_cast<size_t>(g * chosen_ + k)];
                        body(static_cast<size_t>((g * s_.splits + split) * chosen_ + k),
                             static_cast<size_t>((skill * s_.rows + i) * s_.columns + c),
                             static_cast<size_t>(g * group_ + i * row_ + c));
                    }
    }
    bool inside(size_t element) const {
        const int64_t at = static_cast<int64_t>(element) % group_;
        return at < s_.rows * row_ && at % row_ < s_.columns;
    }

  private:
    const Shape& s_;
    int64_t chosen_, row_, group_;
    std::vector<int32_t> skill_;

  public:
    Buffer bank, weights, out, dout, dbank, dweights;
};

class MixFactors : public testing::TestWithParam<const OpTable*> {};
INSTANTIATE_TEST_SUITE_P(Sets, MixFactors, testing::ValuesIn(available_sets()),
                         [](const auto& info) { return std::string(info.param->isa); });

TEST_P(MixFactors, ForwardAndBackward) {
    const OpTable& op = *GetParam();
    Generator random{3};
    for (const Float type : {Float::f32, Float::bf16})
        for (const Shape& shape : shapes)
            for (const int add : {0, 1}) {
                SCOPED_TRACE(testing::Message()
                             << name_of(type) << " shape " << &shape - shapes << " add " << add);
                Mix mix(shape, type, random);
                std::vector<double> expected = mix.out.values(),
                                    ebank(static_cast<size_t>(mix.bank.n()), 0.0);
                std::vector<double> eweights = mix.dweights.values();
                for (size_t i = 0; i < expected.size(); ++i)
                    if (!add && mix.inside(i)) expected[i] = 0;  // everything else stays
                mix.each([&](size_t w, size_t b, size_t o) {
                    const double weight = mix.weights.get(static_cast<int64_t>(w));
                    const double value = mix.bank.get(static_cast<int64_t>(b));
                    const double gradient = mix.dout.get(static_cast<int64_t>(o));
                    expected[o] += weight * value;
                    ebank[b] += weight * gradient;
                    eweights[w] += value * gradient;
                });
                op.mix_factors(type, mix.args(), mix.bank.floats(), mix.weights.floats(), add,
                               mix.out.data());
                expect_near(mix.out, expected, tolerance_of(type), "out");
                op.mix_factors_backward(mix.args(), mix.bank.floats(), mix.weights.floats(),
                                        mix.dout.floats(), mix.dbank.floats(), mix.dweights.floats());
                expect_near(mix.dbank, ebank, 1e-5, "dbank");
                expect_near(mix.dweights, eweights, 1e-5, "dweights");
                const Buffer once = mix.dbank;
                op.mix_factors_backward(mix.args(), mix.bank.floats(), mix.weights.floats(),
                                        mix.dout.floats(), mix.dbank.floats(), nullptr);
                EXPECT_EQ(once.values(), mix.dbank.values()) << "dweights changes dbank";
            }
}

}  // namespace
}  // namespace polyad::kernels
