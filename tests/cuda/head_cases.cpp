// SPDX-License-Identifier: Apache-2.0
// Cross-entropy and sampling.
#include "tests/cuda/device.h"

namespace polyad::kernels {
namespace {

TEST_F(CudaKernels, CrossEntropy) {
    for (const int64_t vocab : {1, 5, 1000, 49152})
        for (const float eps : {0.0f, 0.1f})
            for (const int gradient : {0, 1}) {
                const int64_t n = 6;
                Array logits(Float::f32, n * vocab), nll(Float::f32, n);
                logits.random(random, 5);
                const std::vector<int32_t> target{0,
                                                  -1,
                                                  static_cast<int32_t>(vocab - 1),
                                                  static_cast<int32_t>(vocab),
                                                  static_cast<int32_t>(vocab / 2),
                                                  0};
                on_both("cross_entropy", [&](const OpTable& op, Side s) {
                    op.cross_entropy(logits.floats(s), target.data(), eps, nll.floats(s), gradient, n, vocab);
                });
                nll.expect_same(1e-5, "nll");
                logits.expect_same(1e-5, "gradient");
            }
}

/// Penalty, temperature, top-k, top-p, draw, as the serving engine's pick_token has them.
int32_t reference(std::vector<float> x, const Sampling& o, const std::vector<int32_t>& seen) {
    bool any = false;
    for (const float v : x) {
        if (std::isnan(v) || v == INFINITY) return -1;
        any |= std::isfinite(v);
    }
    if (!any) return -1;
    std::vector<float> given = x;
    for (const int32_t id : seen)
        if (id >= 0 && id < static_cast<int32_t>(x.size())) {
            const float v = given[static_cast<size_t>(id)];
            x[static_cast<size_t>(id)] = v > 0 ? v / o.repetition_penalty : v * o.repetition_penalty;
        }
    if (o.temperature == 0) return static_cast<int32_t>(std::max_element(x.begin(), x.end()) - x.begin());
    std::vector<std::pair<float, int32_t>> c;
    for (size_t i = 0; i < x.size(); ++i) c.emplace_back(x[i] / o.temperature, static_cast<int32_t>(i));
    const bool few = o.top_k > 0 && o.top_k < static_cast<int32_t>(c.size());
    if (few || o.top_p < 1)
        std::stable_sort(c.begin(), c.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
    if (few) c.resize(static_cast<size_t>(o.top_k));
    float top = c[0].first;
    for (const auto& one : c) top = std::max(top, one.first);
    std::vector<double> w;
    double total = 0;
    for (const auto& one : c) total += w.emplace_back(std::exp(static_cast<double>(one.first) - top));
    if (o.top_p < 1) {
        double sum = 0;
        size_t keep = 0;
        while (keep < w.size() && sum < o.top_p * total) sum += w[keep++];
        w.resize(keep);
        total = sum;
    }
    double draw = o.draw * total;
    for (size_t i = 0; i < w.size(); ++i)
        if ((draw -= w[i]) < 0) return c[i].second;
    return c[w.size() - 1].second;
}

TEST_F(CudaKernels, SamplesAsTheReferenceDoes) {
    std::uniform_real_distribution<double> uniform;
    // Rows that fit into shared memory: as much as every device gives (12,288), then more each time.
    for (const int64_t vocab : {3, 97, 4096, 12288, 16384, 24000, 49152}) {
        std::vector<Sampling> options;
        for (const float temperature : {0.0f, 0.7f, 1.5f})
            for (const int32_t top_k : {0, 1, 5, 40, 100000})
                for (const float top_p : {1.0f, 0.9f, 0.3f})
                    options.push_back(
                        {temperature, top_k, top_p, options.size() % 2 ? 1.3f : 1.0f, uniform(random)});
        options.push_back({1, 0, 1, 1, 0.0});
        options.push_back({1, 0, 0.5f, 1, 0.9999999999});
        const auto n = static_cast<int64_t>(options.size());
        Array logits(Float::f32, n * vocab);
        logits.random(random, 3);
        for (int64_t i = 0; i < n * vocab; i += 3)  // ties
            logits.set(i, std::round(logits.get(i)));
        logits.set(vocab + 1, -INFINITY);
        logits.set((n - 3) * vocab + 1, NAN);
        logits.push();
        std::vector<int32_t> seen, begin{0};
        for (int64_t i = 0; i < n; ++i) {
            for (int64_t k = 0; k < i % 4 * 3; ++k)
                seen.push_back(static_cast<int32_t>(random() % (vocab + 2)) - 1);
            if (i % 4) seen.push_back(seen.back());
            begin.push_back(static_cast<int32_t>(seen.size()));
        }
        Ints token(n);
        device_library()->more->sample(logits.floats(Side::device), options.data(), seen.data(),
                                       {begin.data(), static_cast<int32_t>(n)}, n, vocab, token.device);
        const std::vector<int32_t> got = token.values();
        const char* error = device_library()->take_error();
        ASSERT_EQ(error, nullptr) << error;
        for (int64_t i = 0; i < n; ++i) {
            std::vector<float> x;
            for (int64_t c = 0; c < vocab; ++c) x.push_back(static_cast<float>(logits.get(i * vocab + c)));
            const Sampling& o = options[static_cast<size_t>(i)];
            EXPECT_EQ(got[static_cast<size_t>(i)],
                      reference(x, o,
                                {seen.begin() + begin[static_cast<size_t>(i)],
                                 seen.begin() + begin[static_cast<size_t>(i) + 1]}))
                << "vocabulary " << vocab << ", temperature " << o.temperature << ", top_k " << o.top_k
                << ", top_p " << o.top_p << ", draw " << o.draw;
        }
    }
}

TEST_F(CudaKernels, RefusesWhatItCannotRun) {
    const CudaLibrary& library = *device_library();
    Array x(Float::f32, 64);
    library.ops->dequantise(static_cast<Quant>(99), x.at(Side::device), x.floats(Side::device), 32);
    const char* error = library.take_error();
    ASSERT_NE(error, nullptr);
    EXPECT_NE(std::string(error).find("99"), std::string::npos) << error;
    EXPECT_EQ(library.take_error(), nullptr);
    EXPECT_EQ(library.allocate(uint64_t{1} << 50), nullptr);
    error = library.take_error();
    ASSERT_NE(error, nullptr);
    EXPECT_NE(std::string(error).find("out of device memory"), std::string::npos) << error;
    // What others only keep is asked for before an operator gives up.
    static int reclaimed;
    reclaimed = 0;
    library.set_reclaim([](int) { ++reclaimed; });
    const int64_t rows = 4096, vocab = int64_t{1} << 28;  // 4 TiB of scratch
    const std::vector<Sampling> options(rows, Sampling{1, 0, 1, 1, 0.5});
    const std::vector<int32_t> nothing_seen(rows + 1, 0);
    library.more->sample(x.floats(Side::device), options.data(), nullptr,
                         {nothing_seen.data(), static_cast<int32_t>(rows)}, rows, vocab,
                         static_cast<int32_t*>(x.at(Side::device)));
    library.set_reclaim(nullptr);
    EXPECT_EQ(reclaimed, 1);
    error = library.take_error();
    ASSERT_NE(error, nullptr);
    EXPECT_NE(std::string(error).find("out of device memory"), std::string::npos) << error;
    EXPECT_NE(std::string(error).find("MiB are free"), std::string::npos) << error;
    library.ops->add(Float::f32, x.at(Side::device), x.at(Side::device), 64);  // goes on working
    library.synchronise();
    EXPECT_EQ(library.take_error(), nullptr);
}

}  // namespace
}  // namespace polyad::kernels
