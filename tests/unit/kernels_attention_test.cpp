// SPDX-License-Identifier: Apache-2.0
// Ragged attention of every instruction set against plain softmax attention in double precision.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/random.h"
#include "kernels/op_table.h"
#include "tests/unit/kernel_check.h"

namespace polyad::kernels {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

struct Case {
    std::vector<int32_t> nq, nk;
    int32_t heads, heads_kv, head_dim, window = 0, causal = 1, tail = 1;
    bool bias = false;
};

const Case cases[] = {
    {{5, 17, 1}, {5, 17, 1}, 4, 4, 16},
    {{30, 0, 70}, {30, 0, 70}, 9, 3, 64},
    {{200, 3}, {200, 3}, 3, 1, 64},
    {{33}, {33}, 2, 2, 20},
    {{65, 4}, {65, 4}, 4, 2, 80},
    {{40}, {40}, 2, 1, 128},
    {{90}, {90}, 6, 2, 64, 20},
    {{90}, {90}, 2, 2, 16, 1},
    {{1, 1, 2}, {77, 1, 140}, 9, 3, 64},          // decoding
    {{1, 3}, {77, 9}, 4, 4, 20, 8},               // decoding in a window
    {{20, 70}, {100, 75}, 6, 2, 64},              // a prompt behind a cache
    {{12, 50}, {30, 131}, 4, 4, 64, 0, 0, 0},     // cross-attention
    {{40, 2}, {40, 2}, 3, 3, 64, 0, 1, 1, true},  // biased, blocked and direct
    {{25}, {61}, 2, 2, 16, 0, 0, 0, true},
    {{3}, {80}, 2, 2, 16, 0, 1, 1, true},
    {{30}, {30}, 80, 1, 16},          // more heads per key head than lanes
    {{21}, {21}, 3, 1, 7},            // an odd head
    {{20}, {50}, 2, 2, 16, 0, 1, 0},  // causal from position 0
    {{9}, {4}, 2, 2, 16},             // more queries than keys: the first see nothing
    {{30}, {4}, 2, 2, 16},
};

struct Problem {
    Problem(const Case& c, Float t, Generator& random, double spread = 1)
        : shape(c),
          type(t),
          queries(sum(c.nq)),
          keys(sum(c.nk)),
          q(Buffer::random(t, queries * c.heads * c.head_dim, random, spread)),
          k(Buffer::random(t, keys * stride(), random, spread)),
          v(Buffer::random(t, keys * stride(), random)),
          d_o(Buffer::random(t, q.n(), random)),
          o(Buffer::random(t, q.n(), random)),
          dq(o),
          dk(v),
          dv(v),
          lse(Float::f32, queries * c.heads),
          bias(Float::f32, 0) {
        for (const int32_t n : c.nq) begin.push_back(begin.back() + n);
        max_key = *std::max_element(c.nk.begin(), c.nk.end());
        if (c.bias) bias = Buffer::random(Float::f32, c.heads * (max_key + 1) * max_key, random);
    }
    static int64_t sum(const std::vector<int32_t>& n) {
        int64_t s = 0;
        for (const int32_t x : n) s += x;
        return s;
    }
    int64_t stride() const { return shape.heads_kv * shape.head_dim; }
    int64_t key_begin(size_t row) const {
        return sum({shape.nk.begin(), shape.nk.begin() + static_cast<int>(row)});
    }

    Attention args() {
        k_row.clear();
        v_row.clear();
        dk_row.clear();
        dv_row.clear();
        for (size_t b = 0; b < shape.nq.size(); ++b) {
            k_row.push_back(k.at(key_begin(b) * stride()));
            v_row.push_back(v.at(key_begin(b) * stride()));
            dk_row.push_back(dk.at(key_begin(b) * stride()));
            dv_row.push_back(dv.at(key_begin(b) * stride()));
        }
        return {type,
                static_cast<int32_t>(shape.nq.size()),
                shape.heads,
                shape.heads_kv,
                shape.head_dim,
                begin.data(),
                shape.nk.data(),
                k_row.data(),
                v_row.data(),
                stride(),
                scale(),
                shape.window,
                shape.causal,
                shape.bias ? bias.floats() : nullptr,
                max_key,
                (max_key + 1) * max_key,
                shape.tail,
                0,
                nullptr,
                nullptr,
                0,
                0};
    }

    /// The same keys and values in pages of `size` tokens that lie in no order: [a gap][keys][values].
    Attention paged(int32_t size) {
        const int64_t gap = 3, half = size * stride();
        page_begin.clear();
        page.clear();
        size_t pages = 0;
        for (const int32_t n : shape.nk) pages += static_cast<size_t>((n + size - 1) / size);
        storage.assign(pages, Buffer(type, gap + 2 * half));
        for (size_t b = 0, next = 0; b < shape.nk.size(); ++b) {
            page_begin.push_back(static_cast<int32_t>(page.size()));
            for (int32_t first = 0; first < shape.nk[b]; first += size) {
                Buffer& to = storage[pages - 1 - next++];
                for (int64_t i = 0; i < half; ++i) {
                    const int64_t from = (key_begin(b) + first) * stride() + i;
                    const bool there = first + i / stride() < shape.nk[b];
                    to.set(gap + i, there ? k.get(from) : std::nan(""));
                    to.set(gap + half + i, there ? v.get(from) : std::nan(""));
                }
                page.push_back(to.data());
            }
        }
        Attention out = args();
        out.k_row = out.v_row = nullptr;
        out.page_tokens = size;
        out.page_begin = page_begin.data();
        out.page = page.data();
        out.k_offset = gap;
        out.v_offset = gap + half;
        return out;
    }
    float scale() const { return 1 / std::sqrt(static_cast<float>(shape.head_dim)); }

    /// Calls body(row, head, query token, position, first key, last key) for every query and head.
    template <class Body>
    void each_query(Body body) const {
        for (size_t b = 0; b < shape.nq.size(); ++b)
            for (int64_t i = 0; i < shape.nq[b]; ++i)
                for (int64_t h = 0; h < shape.heads; ++h) {
                    const int64_t position = (shape.tail ? shape.nk[b] - shape.nq[b] : 0) + i;
                    const int64_t last =
                        shape.causal ? std::clamp<int64_t>(position + 1, 0, shape.nk[b]) : shape.nk[b];
                    const int64_t first = shape.causal && shape.window
                                              ? std::clamp<int64_t>(position - shape.window + 1, 0, last)
                                              : 0;
                    body(b, h, begin[b] + i, position, first, last);
                }
    }
    int64_t key_at(size_t b, int64_t h, int64_t j) const {
        return (key_begin(b) + j) * stride() + h / (shape.heads / shape.heads_kv) * shape.head_dim;
    }

    /// Reference: o, lse and, from d_o, the gradients.
    void reference() {
        const int64_t d = shape.head_dim;
        eo.assign(static_cast<size_t>(q.n()), 0);
        edq = eo;
        elog.assign(static_cast<size_t>(queries * shape.heads), -infinity);
        edk.assign(static_cast<size_t>(k.n()), 0);
        edv = edk;
        each_query([&](size_t b, int64_t h, int64_t t, int64_t position, int64_t first, int64_t last) {
            const int64_t at = (t * shape.heads + h) * d;
            std::vector<double> p;
            double top = -infinity, total = 0;
            for (int64_t j = first; j < last; ++j) {
                double s = 0;
                for (int64_t c = 0; c < d; ++c) s += q.get(at + c) * k.get(key_at(b, h, j) + c);
                s *= static_cast<double>(scale());
                if (shape.bias) s += bias.get(h * (max_key + 1) * max_key + position * max_key + j);
                p.push_back(s);
                top = std::max(top, s);
            }
            if (p.empty()) return;
            for (double& s : p) total += s = std::exp(s - top);
            elog[static_cast<size_t>(t * shape.heads + h)] = top + std::log(total);
            double delta = 0;
            for (int64_t j = first; j < last; ++j)
                for (int64_t c = 0; c < d; ++c) {
                    const double x = p[static_cast<size_t>(j - first)] / total * v.get(key_at(b, h, j) + c);
                    eo[static_cast<size_t>(at + c)] += x;
                    delta += x * d_o.get(at + c);
                }
            for (int64_t j = first; j < last; ++j) {
                const double weight = p[static_cast<size_t>(j - first)] / total;
                const int64_t key = key_at(b, h, j);
                double dp = 0;
                for (int64_t c = 0; c < d; ++c) dp += d_o.get(at + c) * v.get(key + c);
                const double ds = weight * (dp - delta) * static_cast<double>(scale());
                for (int64_t c = 0; c < d; ++c) {
                    edv[static_cast<size_t>(key + c)] += weight * d_o.get(at + c);
                    edq[static_cast<size_t>(at + c)] += ds * k.get(key + c);
                    edk[static_cast<size_t>(key + c)] += ds * q.get(at + c);
                }
            }
        });
    }

    Case shape;
    Float type;
    int64_t queries, keys;
    std::vector<int32_t> begin{0};
    int32_t max_key = 0;
    Buffer q, k, v, d_o, o, dq, dk, dv, lse, bias;
    std::vector<const void*> k_row, v_row;
    std::vector<void*> dk_row, dv_row;
    std::vector<Buffer> storage;
    std::vector<int32_t> page_begin;
    std::vector<const void*> page;
    std::vector<double> eo, elog, edq, edk, edv;
};

class AttentionKernels : public testing::TestWithParam<const OpTable*> {
  protected:
    const OpTable& op = *GetParam();
    Generator random{11};
};
INSTANTIATE_TEST_SUITE_P(Sets, AttentionKernels, testing::ValuesIn(available_sets()),
                         [](const auto& info) { return std::string(info.param->isa); });

TEST_P(AttentionKernels, ForwardAndBackward) {
    for (const Float type : {Float::f32, Float::bf16})
        for (const Case& c : cases) {
            SCOPED_TRACE(testing::Message() << name_of(type) << " case " << &c - cases);
            Problem p(c, type, random, 1.5);
            p.reference();
            const Attention args = p.args();
            op.attention(args, p.q.data(), p.o.data(), p.lse.floats());
            expect_near(p.o, p.eo, tolerance_of(type), "o");
            expect_near(p.lse, p.elog, 1e-5, "lse");
            Buffer without = p.o;
            op.attention(args, p.q.data(), without.data(), nullptr);
            EXPECT_EQ(without.values(), p.o.values()) << "lse changes o";
            op.attention_backward(args, p.q.data(), p.o.data(), p.d_o.data(), p.lse.floats(), p.dq.data(),
                                  p.dk_row.data(), p.dv_row.data());
            const double tolerance = type == Float::f32 ? 4e-5 : 2e-2;
            expect_near(p.dq, p.edq, tolerance, "dq");
            expect_near(p.dk, p.edk, tolerance, "dk");
            expect_near(p.dv, p.edv, tolerance, "dv");
        }
}

TEST_P(AttentionKernels, PagesAreTheSameAsOnePiece) {
    for (const Float type : {Float::f32, Float::bf16})
        for (const Case& c : cases) {
            SCOPED_TRACE(testing::Message() << name_of(type) << " case " << &c - cases);
            Problem p(c, type, random, 1.5);
            p.reference();
            for (const int32_t size : {4, 32, 256}) {
                SCOPED_TRACE(size);
                op.attention(p.paged(size), p.q.data(), p.o.data(), p.lse.floats());
                expect_near(p.o, p.eo, tolerance_of(type), "o");
                expect_near(p.lse, p.elog, 1e-5, "lse");
            }
            const auto one_page = p.o.values();  // 256 tokens hold every case's rows
            op.attention(p.args(), p.q.data(), p.o.data(), p.lse.floats());
            EXPECT_EQ(p.o.values(), one_page);
        }
}

TEST_P(AttentionKernels, GradientsAgreeWithDifferences) {
    Problem p({{6, 20}, {6, 20}, 4, 2, 16}, Float::f32, random);
    const auto loss = [&] {
        op.attention(p.args(), p.q.data(), p.o.data(), p.lse.floats());
        double sum = 0;
        for (int64_t i = 0; i < p.o.n(); ++i) sum += p.o.get(i) * p.d_o.get(i);
        return sum;
    };
    loss();
    op.attention_backward(p.args(), p.q.data(), p.o.data(), p.d_o.data(), p.lse.floats(), p.dq.data(),
                          p.dk_row.data(), p.dv_row.data());
    struct {
        Buffer &value, &gradient;
    } pairs[] = {{p.q, p.dq}, {p.k, p.dk}, {p.v, p.dv}};
    for (const auto& [value, gradient] : pairs)
        for (int64_t i = 0; i < value.n(); i += 13) {
            const double h = 2e-2, at = value.get(i);
            value.set(i, at + h);
            const double above = loss();
            value.set(i, at - h);
            const double difference = (above - loss()) / (2 * h);
            value.set(i, at);
            EXPECT_NEAR(gradient.get(i), difference, 3e-3) << i;
        }
}

TEST_P(AttentionKernels, FutureTokensNeverChangeARow) {
    for (const Float type : {Float::f32, Float::bf16}) {
        Problem p({{90}, {90}, 6, 2, 64}, type, random);
        op.attention(p.args(), p.q.data(), p.o.data(), nullptr);
        const auto before = p.o.values();
        for (int64_t i = 61 * p.stride(); i < p.k.n(); ++i) {
            p.k.set(i, 50);
            p.v.set(i, -50);
        }
        op.attention(p.args(), p.q.data(), p.o.data(), nullptr);
        for (int64_t i = 0; i < 61 * 6 * 64; ++i) ASSERT_EQ(p.o.get(i), before[static_cast<size_t>(i)]) << i;
        EXPECT_NE(p.o.values(), before);
    }
}

TEST_P(AttentionKernels, NanInNanOutOfThatRowOnly) {
    Problem p({{30, 30}, {30, 30}, 3, 1, 64}, Float::f32, random);
    p.k.set(5 * 64 + 3, std::nan(""));
    op.attention(p.args(), p.q.data(), p.o.data(), p.lse.floats());
    EXPECT_TRUE(std::isnan(p.o.get(29 * 3 * 64)));
    EXPECT_FALSE(std::isnan(p.o.get(4 * 3 * 64)));
    for (int64_t i = 30 * 3 * 64; i < p.o.n(); ++i) ASSERT_FALSE(std::isnan(p.o.get(i))) << i;
}

TEST_P(AttentionKernels, LargeScoresDoNotOverflow) {
    for (const Float type : {Float::f32, Float::bf16})
        for (const int32_t n : {4, 40}) {
            Problem p({{n}, {n}, 2, 2, 64}, type, random, 40);
            p.reference();
            op.attention(p.args(), p.q.data(), p.o.data(), p.lse.floats());
            expect_near(p.o, p.eo, type == Float::f32 ? 2e-3 : 2e-2, "o");
        }
}

}  // namespace
}  // namespace polyad::kernels
