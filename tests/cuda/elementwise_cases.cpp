// SPDX-License-Identifier: Apache-2.0
// Conversions, norms, rotation, activations, cache, quantised weights, optimiser: device against CPU
// reference.
#include <memory>

#include "kernels/cuda/quant_blocks.h"
#include "tests/cuda/device.h"

namespace polyad::kernels {
namespace {

TEST_F(CudaKernels, ElementwiseOfAnySizeAndAlignment) {
    for (const Float type : both_types)
        for (const int64_t n : {1, 7, 8, 31, 1000, 4099, 70000})
            for (const int shift : {0, 1}) {
                const std::string what = std::string(name_of(type)) + " n " + std::to_string(n);
                Array gate(type, n, shift), up(type, n, shift), y(type, n, shift), dy(type, n, shift);
                Array dgate(type, n, shift), dup(type, n, shift), sum(type, n, shift);
                gate.random(random, 2), up.random(random), dy.random(random), sum.random(random);
                on_both(what, [&](const OpTable& op, Side s) {
                    op.swiglu(type, gate.at(s), up.at(s), y.at(s), n);
                    op.swiglu_backward(type, dy.at(s), gate.at(s), up.at(s), dgate.at(s), dup.at(s), n);
                    op.add(type, sum.at(s), gate.at(s), n);
                });
                const double tolerance = type == Float::f32 ? 1e-5 : 8e-3;
                y.expect_same(tolerance, "swiglu " + what);
                dgate.expect_same(tolerance, "swiglu_backward gate " + what);
                dup.expect_same(tolerance, "swiglu_backward up " + what);
                sum.expect_same(tolerance, "add " + what);
            }
    for (const int64_t n : {1, 7, 8, 33, 5000})
        for (const int shift : {0, 1}) {
            Array wide(Float::f32, n, shift), narrow(Float::bf16, n, shift), back(Float::f32, n, shift);
            wide.random(random, 100);
            if (n > 7) wide.set(3, INFINITY), wide.set(5, NAN), wide.push();
            on_both("conversion", [&](const OpTable& op, Side s) {
                op.to_bf16(wide.floats(s), static_cast<uint16_t*>(narrow.at(s)), n);
                op.from_bf16(static_cast<const uint16_t*>(narrow.at(s)), back.floats(s), n);
            });
            narrow.expect_same(0, "to_bf16");
            back.expect_same(0, "from_bf16");
        }
}

TEST_F(CudaKernels, Norms) {
    for (const Float type : both_types)
        for (const int64_t n : {1, 5, 130})
            for (const int64_t width : {7, 64, 576, 1000, 2048})
                for (const bool with_gain : {false, true}) {
                    const std::string what =
                        std::string(name_of(type)) + " " + std::to_string(n) + " x " + std::to_string(width);
                    const int shift = n == 5 ? 1 : 0;
                    Array x(type, n * width, shift), y(type, n * width), residual(type, n * width, shift);
                    Array dy(type, n * width), dx(type, n * width), w(Float::f32, width), rstd(Float::f32, n);
                    Array rstd2(Float::f32, n), y2(type, n * width), dw(Float::f32, width);
                    x.random(random), residual.random(random, 3), dy.random(random), dx.random(random);
                    w.random(random), dw.random(random);
                    on_both(what, [&](const OpTable& op, Side s) {
                        op.rms_norm(type, x.at(s), w.floats(s), 1e-5f, y.at(s), rstd.floats(s), n, width);
                        op.add_rms_norm(type, residual.at(s), x.at(s), w.floats(s), 1e-5f, y2.at(s),
                                        rstd2.floats(s), n, width);
                        op.rms_norm_backward(type, dy.at(s), x.at(s), w.floats(s), rstd.floats(s), dx.at(s),
                                             with_gain ? dw.floats(s) : nullptr, with_gain, n, width);
                    });
                    const double tolerance = tolerance_of(type);
                    y.expect_same(tolerance, "rms_norm " + what);
                    rstd.expect_same(1e-5, "rstd " + what);
                    residual.expect_same(tolerance, "residual " + what);
                    y2.expect_same(tolerance, "add_rms_norm " + what);
                    rstd2.expect_same(1e-5, "rstd of the sum " + what);
                    dx.expect_same(tolerance, "rms_norm_backward " + what);
                    dw.expect_same(1e-4, "gain " + what);
                }
}

TEST_F(CudaKernels, RotatesAndAppends) {
    struct Case {
        int heads, head_dim, rotary;
    };
    for (const Float type : both_types)
        for (const Case& c : {Case{3, 16, 16}, Case{9, 64, 64}, Case{2, 20, 12}, Case{1, 128, 128}})
            for (const int inverse : {0, 1}) {
                const int64_t n = 37, stride = c.heads * c.head_dim + 8, half = c.rotary / 2;
                Array x(type, n * stride), cos(Float::f32, 100 * half), sin(Float::f32, 100 * half);
                x.random(random), cos.random(random), sin.random(random);
                std::vector<int32_t> position;
                for (int i = 0; i < n; ++i) position.push_back(static_cast<int32_t>(random() % 100));
                on_both("rope", [&](const OpTable& op, Side s) {
                    op.rope(type, x.at(s), stride, cos.floats(s), sin.floats(s), position.data(), n, c.heads,
                            c.head_dim, c.rotary, inverse);
                });
                x.expect_same(tolerance_of(type), "rope");
            }
    for (const Float type : both_types)
        for (const int page_tokens : {0, 4})
            for (const int64_t width : {24, 5}) {
                const std::vector<int32_t> begin{0, 3, 3, 4, 13}, past{2, 0, 7, 5}, page_begin{0, 2, 3, 5};
                Array fresh(type, 13 * width), cache(type, 10 * 20 * width);
                fresh.random(random), cache.random(random);
                on_both("append", [&](const OpTable& op, Side s) {
                    std::vector<void*> row, page;
                    for (int b = 0; b < 4; ++b) row.push_back(cache.at(s, b * 20 * width));
                    for (int p = 0; p < 10; ++p) page.push_back(cache.at(s, (p * 7 % 10) * 20 * width));
                    op.append(type, fresh.at(s), {begin.data(), 4},
                              {row.data(), page_tokens, page_begin.data(), page.data(), 3 * width},
                              past.data(), width);
                });
                cache.expect_same(0, "append, pages of " + std::to_string(page_tokens));
            }
}

constexpr Quant formats[] = {Quant::f32,  Quant::f16,  Quant::bf16, Quant::q4_0,   Quant::q4_1,
                             Quant::q5_0, Quant::q5_1, Quant::q8_0, Quant::q2_k,   Quant::q3_k,
                             Quant::q4_k, Quant::q5_k, Quant::q6_k, Quant::iq4_nl, Quant::iq4_xs};

/// Random blocks whose half-precision fields are moderate numbers.
std::vector<uint8_t> random_blocks(Quant quant, int64_t n, std::mt19937_64& random) {
    const BlockSize shape = cuda::block_shape(quant);
    std::vector<uint8_t> out(static_cast<size_t>(n * shape.bytes / shape.elements));
    for (uint8_t& byte : out) byte = static_cast<uint8_t>(random());
    const auto moderate = [&](size_t at) {  // 2^-7 to 2, either sign
        out[at + 1] = static_cast<uint8_t>((out[at + 1] & 0x80) | (32 + out[at + 1] % 28));
    };
    if (quant == Quant::f32 || quant == Quant::bf16) {
        const size_t step = quant == Quant::f32 ? 4 : 2;
        for (size_t i = 0; i < out.size(); i += step)
            out[i + step - 1] = static_cast<uint8_t>((out[i + step - 1] & 0x80) | 0x3f);
        return out;
    }
    for (size_t i = 0; i < out.size(); i += static_cast<size_t>(quant == Quant::f16 ? 2 : shape.bytes)) {
        switch (quant) {
            case Quant::q2_k:
                moderate(i + 80), moderate(i + 82);
                break;
            case Quant::q3_k:
                moderate(i + 108);
                break;
            case Quant::q6_k:
                moderate(i + 208);
                break;
            case Quant::q4_1:
            case Quant::q5_1:
            case Quant::q4_k:
            case Quant::q5_k:
                moderate(i), moderate(i + 2);
                break;
            default:
                moderate(i);
        }
    }
    return out;
}

TEST_F(CudaKernels, QuantisedWeights) {
    const CudaLibrary& library = *device_library();
    for (const Quant quant : formats) {
        const std::string what = "format " + std::to_string(static_cast<int>(quant));
        const int64_t rows = 67, columns = 768, n = rows * columns;
        const std::vector<uint8_t> blocks = random_blocks(quant, n, random);
        void* packed = library.allocate(blocks.size());
        library.copy(packed, blocks.data(), blocks.size());
        Array wide(Float::f32, n), narrow(Float::bf16, n);
        on_both(what, [&](const OpTable& op, Side s) {
            const void* src = s == Side::host ? blocks.data() : packed;
            op.dequantise(quant, src, wide.floats(s), n);
            op.dequantise_bf16(quant, src, static_cast<uint16_t*>(narrow.at(s)), n);
        });
        wide.expect_same(0, "dequantise " + what);
        narrow.expect_same(0, "dequantise_bf16 " + what);
        std::vector<int32_t> order;
        for (int r = 0; r < rows; ++r) order.push_back(static_cast<int32_t>((r * 29) % rows));
        for (const Float type : both_types)
            for (const int64_t tokens : {1, 3, 11}) {
                Array x(type, tokens * columns), y(type, tokens * rows);
                x.random(random);
                on_both(what, [&](const OpTable& op, Side s) {
                    op.multiply_packed(quant, s == Side::host ? blocks.data() : packed,
                                       tokens == 3 ? order.data() : nullptr, type, x.at(s), tokens, rows,
                                       columns, y.at(s));
                });
                y.expect_same(tolerance_of(type), "multiply_packed " + what);
            }
        library.release(packed);
    }
    EXPECT_EQ(library.take_error(), nullptr);
}

TEST_F(CudaKernels, UploadsWriteWhatWasAskedFor) {
    const CudaLibrary& library = *device_library();
    for (const int64_t bytes : {1, 15, 16, 17, 959, 960, 961, 3840, 3841, 7683, 262144, 300001}) {
        std::vector<uint8_t> from(static_cast<size_t>(bytes)), got(from.size() + 64);
        std::vector<uint8_t> wanted(got.size(), 0xa5);
        for (uint8_t& byte : from) byte = static_cast<uint8_t>(random());
        std::copy(from.begin(), from.end(), wanted.begin());
        void* const to = library.allocate(got.size());
        const std::vector<uint8_t> guard(got.size(), 0xa5);
        library.copy(to, guard.data(), guard.size());
        library.ops->upload(to, from.data(), bytes);
        std::fill(from.begin(), from.end(), uint8_t{0});  // may change at once
        library.copy(got.data(), to, got.size());
        EXPECT_EQ(got, wanted) << bytes << " bytes";
        if (bytes < 1000) {
            library.ops->upload(static_cast<uint8_t*>(to) + 4, from.data(), bytes);
            const char* error = library.take_error();
            ASSERT_NE(error, nullptr);
            EXPECT_NE(std::string(error).find("multiple of 16"), std::string::npos) << error;
        }
        library.release(to);
    }
    EXPECT_EQ(library.take_error(), nullptr);
}

TEST_F(CudaKernels, OptimiserSteps) {
    const CudaLibrary& library = *device_library();
    std::vector<std::unique_ptr<Array>> p, g, m, v;
    std::vector<AdamwTensor> many;
    std::vector<const float*> gradients;
    std::vector<int64_t> sizes{1, 0, 4096, 5000, 33};
    double expected = 0;
    for (const int64_t n : sizes) {
        for (auto* list : {&p, &g, &m, &v}) {
            list->push_back(std::make_unique<Array>(Float::f32, n));
            list->back()->random(random);
        }
        for (int64_t i = 0; i < n; ++i) v.back()->set(i, std::abs(v.back()->get(i)));
        v.back()->push();
        many.push_back({p.back()->floats(Side::device), g.back()->floats(Side::device),
                        m.back()->floats(Side::device), v.back()->floats(Side::device), n, 1e-2f, 0.1f,
                        0.271f, 0.02f});
        gradients.push_back(g.back()->floats(Side::device));
        const float* const host = g.back()->floats(Side::host);
        expected += ops_for("portable")->sum_squares(&host, &n, 1);
    }
    const auto count = static_cast<int64_t>(sizes.size());
    const double sum = library.ops->sum_squares(gradients.data(), sizes.data(), count);
    EXPECT_NEAR(sum, expected, 1e-9 * expected);
    EXPECT_EQ(library.ops->sum_squares(gradients.data(), sizes.data(), count), sum);
    library.ops->adamw(many.data(), count, 0.9f, 0.99f, 1e-8f, 0.5f);
    for (size_t i = 0; i < sizes.size(); ++i) {
        AdamwTensor host = many[i];
        host.p = p[i]->floats(Side::host);
        host.g = g[i]->floats(Side::host);
        host.m = m[i]->floats(Side::host);
        host.v = v[i]->floats(Side::host);
        ops_for("portable")->adamw(&host, 1, 0.9f, 0.99f, 1e-8f, 0.5f);
        p[i]->expect_same(1e-6, "adamw p");
        m[i]->expect_same(1e-6, "adamw m");
        v[i]->expect_same(1e-6, "adamw v");
    }
    EXPECT_EQ(library.take_error(), nullptr);
}

}  // namespace
}  // namespace polyad::kernels
