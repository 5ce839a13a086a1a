// SPDX-License-Identifier: Apache-2.0
// Softmax cross-entropy of the output head, in place.
#include <cmath>

#include "kernels/cpu/isa/kernels.h"
#include "kernels/cpu/isa/vec.h"

namespace polyad::kernels::POLYAD_ISA {
namespace {

inline float maximum(const float* x, int64_t n) {
    vf m[4];
    for (vf& v : m) v = splat(-INFINITY);
    int64_t i = 0;
    for (; i + 4 * lanes <= n; i += 4 * lanes)
        for (int j = 0; j < 4; ++j) m[j] = larger(m[j], load(x + i + j * lanes));
    float best = largest(larger(larger(m[0], m[1]), larger(m[2], m[3])));
    for (; i < n; ++i) best = x[i] > best ? x[i] : best;
    return best;
}

struct Sums {
    double exponentials, logits;
};

/// Sums of e^(x - shift) and of x; the exponentials replace x when `keep`.
inline Sums accumulate(float* x, int64_t n, float shift, bool keep) {
    constexpr int64_t block = 2048;  // keeps the float32 sums short
    Sums total{0, 0};
    for (int64_t begin = 0; begin < n; begin += block) {
        float* p = x + begin;
        const int64_t count = least(block, n - begin);
        vf e = {}, s = {};
        int64_t i = 0;
        for (; i + lanes <= count; i += lanes) {
            const vf v = load(p + i), y = exponential(v - shift);
            s += v;
            e += y;
            if (keep) store(p + i, y);
        }
        total.exponentials += static_cast<double>(sum(e));
        total.logits += static_cast<double>(sum(s));
        for (; i < count; ++i) {
            const float v = p[i], y = exponential(splat(v - shift))[0];
            total.exponentials += static_cast<double>(y);
            total.logits += static_cast<double>(v);
            if (keep) p[i] = y;
        }
    }
    return total;
}

inline void row(float* x, int32_t target, float eps, float* nll, bool gradient, int64_t vocab) {
    if (target < 0) {
        *nll = 0;
        if (gradient) std::memset(x, 0, static_cast<size_t>(vocab) * 4);
        return;
    }
    const float top = maximum(x, vocab);
    const bool known = target < vocab;
    const float chosen = known ? x[target] : NAN;  // a target outside the vocabulary must show, not crash
    const Sums sums = accumulate(x, vocab, top, gradient);
    const double lse = static_cast<double>(top) + std::log(sums.exponentials);
    double loss = lse - static_cast<double>(chosen);
    if (eps != 0)
        loss = (1 - static_cast<double>(eps)) * loss +
               static_cast<double>(eps) * (lse - sums.logits / static_cast<double>(vocab));
    *nll = static_cast<float>(loss);
    if (!gradient) return;
    const auto scale = static_cast<float>(1 / sums.exponentials);
    const float spread = eps / static_cast<float>(vocab);
    sweep(vocab, [&](int64_t i, auto w) { store(x + i, load(x + i, w) * scale - spread, w); });
    if (known) x[target] -= 1 - eps;
}

}  // namespace

void cross_entropy(float* logits, const int32_t* target, float eps, float* nll, int gradient, int64_t n,
                   int64_t vocab) {
#pragma omp parallel for schedule(static) if (n * vocab >= parallel_elements / 4)
    for (int64_t t = 0; t < n; ++t) row(logits + t * vocab, target[t], eps, nll + t, gradient != 0, vocab);
}

}  // namespace polyad::kernels::POLYAD_ISA
