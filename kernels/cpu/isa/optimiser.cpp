// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/isa/kernels.h"
#include "kernels/cpu/isa/vec.h"

namespace polyad::kernels::POLYAD_ISA {

void adamw(float* p, const float* g, float* m, float* v, int64_t n, float lr, float beta1, float beta2,
           float eps, float weight_decay, float bias1, float bias2, float grad_scale) {
    const float decay = 1.0f - lr * weight_decay, rate = lr / bias1;
    const float root = 1.0f / __builtin_sqrtf(bias2);
    constexpr int64_t piece = 8192;
    const int64_t count = (n + piece - 1) / piece;
#pragma omp parallel for schedule(static) if (n >= parallel_elements)
    for (int64_t c = 0; c < count; ++c) {
        const int64_t begin = c * piece;
        sweep(least(piece, n - begin), [&](int64_t k, auto w) {
            const int64_t i = begin + k;
            const vf gradient = load(g + i, w) * grad_scale;
            const vf first = beta1 * load(m + i, w) + (1.0f - beta1) * gradient;
            const vf second = beta2 * load(v + i, w) + (1.0f - beta2) * gradient * gradient;
            store(m + i, first, w);
            store(v + i, second, w);
            store(p + i, load(p + i, w) * decay - rate * first / (square_root(second) * root + eps), w);
        });
    }
}

double sum_squares(const float* x, int64_t n) {
    // Blocks of fixed size, added in order.
    constexpr int64_t block = 4096;
    const int64_t blocks = (n + block - 1) / block;
    const Scratch<double> sums(blocks);
#pragma omp parallel for schedule(static) if (n >= parallel_elements)
    for (int64_t b = 0; b < blocks; ++b) {
        const float* p = x + b * block;
        const int64_t count = least(block, n - b * block);
        double s[16] = {};
        int64_t i = 0;
        for (; i + 16 <= count; i += 16)
            for (int j = 0; j < 16; ++j) s[j] += static_cast<double>(p[i + j]) * p[i + j];
        for (; i < count; ++i) s[0] += static_cast<double>(p[i]) * p[i];
        double total = 0;
        for (const double part : s) total += part;
        sums[b] = total;
    }
    double total = 0;
    for (int64_t b = 0; b < blocks; ++b) total += sums[b];
    return total;
}

}  // namespace polyad::kernels::POLYAD_ISA
