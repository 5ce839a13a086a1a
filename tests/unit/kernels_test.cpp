// SPDX-License-Identifier: Apache-2.0
// Element-wise kernels, output head and optimiser of every instruction set against double-precision formulas.
#include <gtest/gtest.h>
#if defined(_OPENMP)
#include <omp.h>
#endif

#include <cmath>
#include <limits>

#include "base/random.h"
#include "kernels/op_table.h"
#include "tests/unit/kernel_check.h"

namespace polyad::kernels {
namespace {

constexpr Float types[] = {Float::f32, Float::bf16};
constexpr double infinity = std::numeric_limits<double>::infinity();

class Kernels : public testing::TestWithParam<const OpTable*> {
  protected:
    const OpTable& op = *GetParam();
    Generator random{20261123};
};
INSTANTIATE_TEST_SUITE_P(Sets, Kernels, testing::ValuesIn(available_sets()),
                         [](const auto& info) { return std::string(info.param->isa); });

TEST(KernelSets, PortableIsAlwaysThereAndNamesAreKept) {
    ASSERT_NE(ops_for("portable"), nullptr);
    EXPECT_EQ(ops_for("vax"), nullptr);
    EXPECT_EQ(ops_for(""), nullptr);
    EXPECT_NE(ops_for(ops().isa), nullptr);
}

TEST_P(Kernels, ConversionRoundsToNearestEvenBitForBit) {
    std::vector<float> in;
    for (uint32_t upper = 0; upper < 65536; ++upper)
        for (const uint32_t lower : {0x0000u, 0x0001u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu})
            in.push_back(from_bits(upper << 16 | lower));
    in.push_back(1.0f);  // an odd tail
    std::vector<uint16_t> out(in.size());
    op.to_bf16(in.data(), out.data(), static_cast<int64_t>(in.size()));
    for (size_t i = 0; i < in.size(); ++i)
        ASSERT_EQ(out[i], reference_bf16(in[i])) << std::hex << to_bits(in[i]);
    std::vector<float> back(out.size());
    op.from_bf16(out.data(), back.data(), static_cast<int64_t>(out.size()));
    for (size_t i = 0; i < out.size(); ++i) ASSERT_EQ(to_bits(back[i]) >> 16, out[i]) << i;
    op.to_bf16(nullptr, nullptr, 0);
}

TEST_P(Kernels, RmsNormAndItsGradients) {
    for (const Float type : types)
        for (const int64_t width : {1, 3, 16, 20, 64, 100, 576})
            for (const int64_t n : {0, 1, 5, 130}) {
                SCOPED_TRACE(testing::Message() << name_of(type) << " " << n << "x" << width);
                const double eps = 1e-5;
                const auto x = Buffer::random(type, n * width, random),
                           dy = Buffer::random(type, n * width, random);
                auto w = Buffer::random(Float::f32, width, random);
                const auto delta = Buffer::random(type, n * width, random);
                Buffer y(type, n * width), rstd(Float::f32, n), sum = x, y2(type, n * width),
                                                                rstd2(Float::f32, n);
                op.rms_norm(type, x.data(), w.floats(), 1e-5f, y.data(), rstd.floats(), n, width);
                op.add_rms_norm(type, sum.data(), delta.data(), w.floats(), 1e-5f, y2.data(), nullptr, n,
                                width);
                Buffer added = x;
                op.add(type, added.data(), delta.data(), n * width);
                op.rms_norm(type, added.data(), w.floats(), 1e-5f, y.data(), nullptr, n, width);
                EXPECT_EQ(sum.values(), added.values());
                EXPECT_EQ(y2.values(), y.values());
                op.rms_norm(type, x.data(), w.floats(), 1e-5f, y.data(), rstd.floats(), n, width);

                std::vector<double> ey, er, edx, edw(static_cast<size_t>(width), 0.5), edx_added;
                Buffer dx = Buffer::random(type, n * width, random);
                for (int64_t t = 0; t < n; ++t) {
                    double square = 0, dot = 0;
                    for (int64_t i = 0; i < width; ++i) square += std::pow(x.get(t * width + i), 2);
                    const double r = 1 / std::sqrt(square / static_cast<double>(width) + eps);
                    er.push_back(r);
                    for (int64_t i = 0; i < width; ++i)
                        dot += dy.get(t * width + i) * w.get(i) * x.get(t * width + i);
                    for (int64_t i = 0; i < width; ++i) {
                        const double v = x.get(t * width + i), g = dy.get(t * width + i);
                        ey.push_back(v * r * w.get(i));
                        edx.push_back(r * w.get(i) * g - v * r * r * r * dot / static_cast<double>(width));
                        edx_added.push_back(edx.back() + dx.get(t * width + i));
                        edw[static_cast<size_t>(i)] += g * v * r;
                    }
                }
                expect_near(y, ey, tolerance_of(type), "y");
                expect_near(rstd, er, 4e-6, "rstd");
                Buffer dw(Float::f32, std::vector<double>(static_cast<size_t>(width), 0.5));
                op.rms_norm_backward(type, dy.data(), x.data(), w.floats(), rstd.floats(), dx.data(), nullptr,
                                     1, n, width);
                expect_near(dx, edx_added, tolerance_of(type), "dx, added");
                op.rms_norm_backward(type, dy.data(), x.data(), w.floats(), rstd.floats(), dx.data(),
                                     dw.floats(), 0, n, width);
                expect_near(dx, edx, tolerance_of(type), "dx");
                expect_near(dw, edw, 1e-5, "dw");
            }
}

TEST_P(Kernels, RmsNormGradientAgreesWithDifferences) {
    const int64_t width = 24;
    auto x = Buffer::random(Float::f32, width, random), dy = Buffer::random(Float::f32, width, random);
    auto w = Buffer::random(Float::f32, width, random);
    Buffer y(Float::f32, width), rstd(Float::f32, 1), dx(Float::f32, width);
    const auto loss = [&] {
        op.rms_norm(Float::f32, x.data(), w.floats(), 1e-5f, y.data(), rstd.floats(), 1, width);
        double sum = 0;
        for (int64_t i = 0; i < width; ++i) sum += y.get(i) * dy.get(i);
        return sum;
    };
    loss();
    op.rms_norm_backward(Float::f32, dy.data(), x.data(), w.floats(), rstd.floats(), dx.data(), nullptr, 0, 1,
                         width);
    for (int64_t i = 0; i < width; ++i) {
        const double h = 1e-2, at = x.get(i);
        x.set(i, at + h);
        const double above = loss();
        x.set(i, at - h);
        const double difference = (above - loss()) / (2 * h);
        x.set(i, at);
        EXPECT_NEAR(dx.get(i), difference, 2e-3) << i;
    }
}

TEST_P(Kernels, RopeRotatesHalvesAndBack) {
    for (const Float type : types)
        for (const int32_t head_dim : {4, 16, 20, 64, 80, 128})
            for (const int32_t rotary : {head_dim, head_dim / 2}) {
                SCOPED_TRACE(testing::Message() << name_of(type) << " " << head_dim << "/" << rotary);
                const int32_t heads = 3, n = 7, half = rotary / 2;
                const int64_t stride = heads * head_dim + 5;
                const auto cos = Buffer::random(Float::f32, 20 * half, random);
                Buffer c(Float::f32, 20 * half), s(Float::f32, 20 * half);
                for (int64_t i = 0; i < 20 * half; ++i) {
                    c.set(i, std::cos(cos.get(i)));
                    s.set(i, std::sin(cos.get(i)));
                }
                const std::vector<int32_t> position{0, 5, 19, 3, 3, 1, 0};
                const auto x = Buffer::random(type, n * stride, random);
                Buffer y = x;
                std::vector<double> expected = x.values();
                for (int64_t t = 0; t < n; ++t)
                    for (int64_t h = 0; h < heads; ++h)
                        for (int64_t i = 0; i < half; ++i) {
                            const int64_t at = t * stride + h * head_dim + i,
                                          p = position[static_cast<size_t>(t)];
                            const double a = x.get(at), b = x.get(at + half);
                            expected[static_cast<size_t>(at)] =
                                a * c.get(p * half + i) - b * s.get(p * half + i);
                            expected[static_cast<size_t>(at + half)] =
                                b * c.get(p * half + i) + a * s.get(p * half + i);
                        }
                op.rope(type, y.data(), stride, c.floats(), s.floats(), position.data(), n, heads, head_dim,
                        rotary, 0);
                expect_near(y, expected, tolerance_of(type), "rotated");
                op.rope(type, y.data(), stride, c.floats(), s.floats(), position.data(), n, heads, head_dim,
                        rotary, 1);
                expect_near(y, x.values(), tolerance_of(type), "and back");
            }
}

TEST_P(Kernels, SwigluAndItsGradients) {
    for (const Float type : types)
        for (const int64_t n : {0, 1, 15, 16, 17, 1536, 40001}) {
            SCOPED_TRACE(testing::Message() << name_of(type) << " " << n);
            const auto gate = Buffer::random(type, n, random, 3), up = Buffer::random(type, n, random);
            const auto dy = Buffer::random(type, n, random);
            Buffer y(type, n), dgate(type, n), dup(type, n);
            op.swiglu(type, gate.data(), up.data(), y.data(), n);
            op.swiglu_backward(type, dy.data(), gate.data(), up.data(), dgate.data(), dup.data(), n);
            std::vector<double> ey, eg, eu;
            for (int64_t i = 0; i < n; ++i) {
                const double g = gate.get(i), s = 1 / (1 + std::exp(-g));
                ey.push_back(g * s * up.get(i));
                eg.push_back(dy.get(i) * up.get(i) * s * (1 + g * (1 - s)));
                eu.push_back(dy.get(i) * g * s);
            }
            const double tolerance = type == Float::f32 ? 1e-6 : 5e-3;
            expect_near(y, ey, tolerance, "y");
            expect_near(dgate, eg, tolerance, "dgate");
            expect_near(dup, eu, tolerance, "dup");
        }
}

TEST_P(Kernels, RowsAreGatheredSummedAndMultiplied) {
    // Tokens 0 to 4 go to 2, 0, 1, 3 and 1 places.
    const std::vector<int32_t> token = {4, 0, 3, 2, 3, 0, 3}, begin = {0, 2, 2, 3, 6, 7},
                               member = {1, 5, 3, 2, 4, 6, 0};
    const int64_t tokens = 5, places = 7;
    for (const Float type : types)
        for (const int64_t width : {1, 15, 16, 33, 576, 1536}) {
            SCOPED_TRACE(testing::Message() << name_of(type) << " " << width);
            const auto x = Buffer::random(type, tokens * width, random);
            const auto y = Buffer::random(type, places * width, random);
            auto w = Buffer::random(Float::f32, places, random);
            auto dots = Buffer::random(Float::f32, places, random);
            Buffer gathered(type, places * width), plain(type, places * width), sums(type, tokens * width);
            auto onto = Buffer::random(type, tokens * width, random);
            std::vector<double> eg(static_cast<size_t>(places * width)),
                ep = eg, ed, es(static_cast<size_t>(tokens * width), 0.0), eo;
            for (int64_t i = 0; i < tokens * width; ++i) eo.push_back(onto.get(i));
            for (int64_t m = 0; m < places; ++m) {
                double dot = dots.get(m);
                for (int64_t i = 0; i < width; ++i) {
                    const int64_t from = token[static_cast<size_t>(m)] * width + i, at = m * width + i;
                    ep[static_cast<size_t>(at)] = x.get(from);
                    eg[static_cast<size_t>(at)] = w.get(m) * x.get(from);
                    es[static_cast<size_t>(from)] += y.get(at);
                    eo[static_cast<size_t>(from)] += w.get(m) * y.get(at);
                    dot += x.get(from) * y.get(at);
                }
                ed.push_back(dot);
            }
            op.gather_rows(type, x.data(), token.data(), w.floats(), places, width, gathered.data());
            op.gather_rows(type, x.data(), token.data(), nullptr, places, width, plain.data());
            op.sum_rows(type, y.data(), begin.data(), member.data(), nullptr, 0, tokens, width, sums.data());
            op.sum_rows(type, y.data(), begin.data(), member.data(), w.floats(), 1, tokens, width,
                        onto.data());
            op.row_dots(type, x.data(), token.data(), y.data(), places, width, dots.floats());
            const double tolerance = type == Float::f32 ? 1e-6 : 5e-3;
            expect_near(gathered, eg, tolerance, "gathered");
            expect_near(plain, ep, 0, "plain");
            expect_near(sums, es, tolerance, "sums");
            expect_near(onto, eo, tolerance, "onto");
            expect_near(dots, ed, 1e-5, "dots");
        }
}

TEST_P(Kernels, SpansArePooledBehindTheirAttention) {
    for (const Float type : types)
        for (const int64_t n : {1, 2, 15, 16, 33, 70})
            for (const int64_t d : {1, 6, 16, 33, 64, 200}) {
                SCOPED_TRACE(testing::Message() << name_of(type) << " " << n << " x " << d);
                const auto x = Buffer::random(type, n * d, random),
                           dg = Buffer::random(Float::f32, d, random);
                Buffer attention(Float::f32, n * n), g(Float::f32, d), dx(type, n * d);
                op.attend_span(type, x.data(), n, d, attention.floats(), g.floats());
                op.attend_span_backward(type, x.data(), n, d, attention.floats(),
                                        static_cast<const float*>(dg.data()), dx.data());
                const auto at = [](int64_t row, int64_t width, int64_t column) {
                    return static_cast<size_t>(row * width + column);
                };
                std::vector<double> a(static_cast<size_t>(n * n)), eg(static_cast<size_t>(d), 0.0), e,
                    ds = a, ex(static_cast<size_t>(n * d), 0.0);
                const double scale = 1 / std::sqrt(static_cast<double>(d)), each = 1 / static_cast<double>(n);
                for (int64_t i = 0; i < n; ++i) {
                    double dot = 0, total = 0;
                    for (int64_t c = 0; c < d; ++c) dot += x.get(i * d + c) * dg.get(c) * each;
                    e.push_back(dot);
                    for (int64_t j = 0; j < n; ++j) {
                        double score = 0;
                        for (int64_t c = 0; c < d; ++c) score += x.get(i * d + c) * x.get(j * d + c);
                        total += a[at(i, n, j)] = std::exp(score * scale);
                    }
                    for (int64_t j = 0; j < n; ++j) a[at(i, n, j)] /= total;
                }
                for (int64_t i = 0; i < n; ++i) {
                    double mean = 0;
                    for (int64_t j = 0; j < n; ++j) mean += a[at(i, n, j)] * e[static_cast<size_t>(j)];
                    for (int64_t j = 0; j < n; ++j)
                        ds[at(i, n, j)] = a[at(i, n, j)] * (e[static_cast<size_t>(j)] - mean) * scale;
                }
                for (int64_t j = 0; j < n; ++j) {
                    double share = 1;
                    for (int64_t i = 0; i < n; ++i) share += a[at(i, n, j)];
                    for (int64_t c = 0; c < d; ++c) {
                        eg[static_cast<size_t>(c)] += share * x.get(j * d + c) * each;
                        double sum = share * dg.get(c) * each;
                        for (int64_t i = 0; i < n; ++i)
                            sum += (ds[at(i, n, j)] + ds[at(j, n, i)]) * x.get(i * d + c);
                        ex[at(j, d, c)] = sum;
                    }
                }
                expect_near(attention, a, 1e-5, "attention");
                expect_near(g, eg, 1e-5, "g");
                expect_near(dx, ex, type == Float::f32 ? 1e-5 : 2e-2, "dx");
            }
}

TEST_P(Kernels, SigmoidIsAccurateOverTheWholeRange) {
    // silu(x) / x, so exp is seen through it over [-100, 100].
    std::vector<double> in;
    for (double x = -100; x <= 100; x += 0.0137) in.push_back(x);
    const Buffer gate(Float::f32, in), up(Float::f32, std::vector<double>(in.size(), 1));
    Buffer y(Float::f32, gate.n());
    op.swiglu(Float::f32, gate.data(), up.data(), y.data(), gate.n());
    for (int64_t i = 0; i < gate.n(); ++i) {
        const double g = gate.get(i), expected = g / (1 + std::exp(-g));
        // Below -88 the exponent is bounded: right to 1e-36.
        ASSERT_NEAR(y.get(i), expected, 4e-7 * std::abs(expected) + 1e-35) << g;
    }
}

TEST_P(Kernels, NanAndInfinityPassThrough) {
    const double nan = std::nan("");
    for (const Float type : types) {
        std::vector<double> values(37, 1.0);
        values[5] = nan;
        values[33] = nan;
        const Buffer x(type, values), ones(type, std::vector<double>(37, 1.0));
        Buffer y(type, 37), w(Float::f32, std::vector<double>(37, 1.0)), rstd(Float::f32, 1);
        op.swiglu(type, x.data(), ones.data(), y.data(), 37);
        for (int64_t i = 0; i < 37; ++i) EXPECT_EQ(std::isnan(y.get(i)), i == 5 || i == 33) << i;
        op.rms_norm(type, x.data(), w.floats(), 1e-5f, y.data(), rstd.floats(), 1, 37);
        for (int64_t i = 0; i < 37; ++i) EXPECT_TRUE(std::isnan(y.get(i))) << i;
        y = ones;
        op.add(type, y.data(), x.data(), 37);
        EXPECT_TRUE(std::isnan(y.get(5)));
        EXPECT_EQ(y.get(6), 2.0);
    }
    std::vector<double> logits(50, 0.0);
    logits[7] = nan;
    Buffer x(Float::f32, logits), nll(Float::f32, 1);
    const int32_t target = 3;
    op.cross_entropy(x.floats(), &target, 0, nll.floats(), 1, 1, 50);
    EXPECT_TRUE(std::isnan(nll.get(0)));
    EXPECT_TRUE(std::isnan(x.get(20)));
}

TEST_P(Kernels, CrossEntropyAndItsGradient) {
    for (const int64_t vocab : {1, 2, 15, 16, 50, 1000, 49152})
        for (const float eps : {0.0f, 0.1f}) {
            SCOPED_TRACE(testing::Message() << vocab << " eps " << eps);
            const int64_t n = vocab > 10000 ? 2 : 5;
            auto logits = Buffer::random(Float::f32, n * vocab, random, 4);
            logits.set(0, 300);  // far outside what exp can hold without a shift
            std::vector<int32_t> target;
            for (int64_t t = 0; t < n; ++t) target.push_back(static_cast<int32_t>((t * 7) % vocab));
            target[1] = -1;
            std::vector<double> loss, gradient;
            for (int64_t t = 0; t < n; ++t) {
                double top = -infinity, sum = 0, mean = 0;
                for (int64_t v = 0; v < vocab; ++v) top = std::max(top, logits.get(t * vocab + v));
                for (int64_t v = 0; v < vocab; ++v) {
                    sum += std::exp(logits.get(t * vocab + v) - top);
                    mean += logits.get(t * vocab + v) / static_cast<double>(vocab);
                }
                const double lse = top + std::log(sum), e = static_cast<double>(eps);
                const int32_t y = target[static_cast<size_t>(t)];
                loss.push_back(y < 0 ? 0 : (1 - e) * (lse - logits.get(t * vocab + y)) + e * (lse - mean));
                for (int64_t v = 0; v < vocab; ++v)
                    gradient.push_back(y < 0 ? 0
                                             : std::exp(logits.get(t * vocab + v) - lse) -
                                                   (v == y) * (1 - e) - e / static_cast<double>(vocab));
            }
            Buffer nll(Float::f32, n);
            const auto before = logits.values();
            op.cross_entropy(logits.floats(), target.data(), eps, nll.floats(), 0, n, vocab);
            EXPECT_EQ(logits.values(), before) << "logits changed without being asked for the gradient";
            expect_near(nll, loss, 2e-6, "nll");
            op.cross_entropy(logits.floats(), target.data(), eps, nll.floats(), 1, n, vocab);
            expect_near(nll, loss, 2e-6, "nll");
            expect_near(logits, gradient, 2e-6, "gradient");
        }
    Buffer logits(Float::f32, 8), nll(Float::f32, 1);
    const int32_t outside = 8;
    op.cross_entropy(logits.floats(), &outside, 0, nll.floats(), 1, 1, 8);
    EXPECT_TRUE(std::isnan(nll.get(0))) << "a target outside the vocabulary must show";
    logits = Buffer(Float::f32, {0, -infinity, 0, 0, -infinity, 0, 0, 0});
    const int32_t target = 2;
    op.cross_entropy(logits.floats(), &target, 0, nll.floats(), 1, 1, 8);
    EXPECT_NEAR(nll.get(0), std::log(6.0), 1e-6);
    EXPECT_EQ(logits.get(1), 0);
}

TEST_P(Kernels, AdamWTakesTheTextbookStep) {
    const double b1 = 0.9, b2 = 0.99, eps = 1e-8, scale = 0.5;
    std::vector<Buffer> p, g, m, v;
    std::vector<std::vector<double>> ep, em, ev;
    std::vector<AdamwTensor> tensors;
    const std::vector<int64_t> sizes{1, 17, 0, 4096, 1000, 40000};
    for (size_t k = 0; k < sizes.size(); ++k) {
        const int64_t n = sizes[k];
        for (auto* list : {&p, &g, &m, &v}) list->push_back(Buffer::random(Float::f32, n, random));
        for (auto* list : {&ep, &em, &ev}) list->emplace_back();
        // Each tensor has options of its own.
        const double lr = 1e-2 * static_cast<double>(k + 1), decay = k % 2 ? 0.1 : 0.0, c1 = 0.271,
                     c2 = 0.03 * static_cast<double>(k + 1);
        for (int64_t i = 0; i < n; ++i) {
            v[k].set(i, v[k].get(i) * v[k].get(i));
            const double gradient = g[k].get(i) * scale;
            em[k].push_back(b1 * m[k].get(i) + (1 - b1) * gradient);
            ev[k].push_back(b2 * v[k].get(i) + (1 - b2) * gradient * gradient);
            ep[k].push_back(p[k].get(i) * (1 - lr * decay) -
                            lr * (em[k].back() / c1) / (std::sqrt(ev[k].back() / c2) + eps));
        }
        tensors.push_back({nullptr, nullptr, nullptr, nullptr, n, static_cast<float>(lr),
                           static_cast<float>(decay), static_cast<float>(c1), static_cast<float>(c2)});
    }
    for (size_t k = 0; k < sizes.size(); ++k) {
        tensors[k].p = p[k].floats();
        tensors[k].g = g[k].floats();
        tensors[k].m = m[k].floats();
        tensors[k].v = v[k].floats();
    }
    op.adamw(tensors.data(), static_cast<int64_t>(tensors.size()), 0.9f, 0.99f, 1e-8f, 0.5f);
    for (size_t k = 0; k < sizes.size(); ++k) {
        expect_near(p[k], ep[k], 2e-6, "p");
        expect_near(m[k], em[k], 2e-6, "m");
        expect_near(v[k], ev[k], 2e-6, "v");
    }
    op.adamw(nullptr, 0, 0.9f, 0.99f, 1e-8f, 0.5f);
}

TEST_P(Kernels, SumOfSquaresDoesNotDependOnThreads) {
    std::vector<Buffer> x;
    std::vector<const float*> data;
    std::vector<int64_t> sizes;
    double expected = 0;
    for (const int64_t n : {0, 1, 15, 4096, 4097, 200003}) {
        x.push_back(Buffer::random(Float::f32, n, random));
        sizes.push_back(n);
        for (int64_t i = 0; i < n; ++i) expected += x.back().get(i) * x.back().get(i);
    }
    for (Buffer& one : x) data.push_back(one.floats());
    const auto count = static_cast<int64_t>(sizes.size());
    const double got = op.sum_squares(data.data(), sizes.data(), count);
    EXPECT_NEAR(got, expected, 1e-12 * expected);
    EXPECT_EQ(op.sum_squares(nullptr, nullptr, 0), 0.0);
#if defined(_OPENMP)
    const int before = omp_get_max_threads();
    for (const int threads : {1, 2, 5}) {
        omp_set_num_threads(threads);
        EXPECT_EQ(op.sum_squares(data.data(), sizes.data(), count), got) << threads;
    }
    omp_set_num_threads(before);
#endif
}

}  // namespace
}  // namespace polyad::kernels
