// SPDX-License-Identifier: Apache-2.0
// Both go over pieces of fixed size, whichever tensor they belong to: parameters are many and small.
#include <vector>

#include "kernels/cpu/isa/kernels.h"
#include "kernels/cpu/isa/vec.h"

namespace polyad::kernels::POLYAD_ISA {
namespace {

constexpr int64_t piece = 4096;

/// Elements [begin, end) of a tensor.
struct Piece {
    int64_t tensor, begin, end;
};

/// size(i): elements of tensor i.
template <class Size>
std::vector<Piece> pieces_of(int64_t count, Size size) {
    std::vector<Piece> pieces;
    for (int64_t i = 0; i < count; ++i)
        for (int64_t begin = 0; begin < size(i); begin += piece)
            pieces.push_back({i, begin, least(begin + piece, size(i))});
    return pieces;
}

}  // namespace

void adamw(const AdamwTensor* tensors, int64_t count, float beta1, float beta2, float eps, float grad_scale) {
    const std::vector<Piece> pieces = pieces_of(count, [&](int64_t i) { return tensors[i].n; });
    const auto total = static_cast<int64_t>(pieces.size());
#pragma omp parallel for schedule(static) if (total * piece >= parallel_elements)
    for (int64_t k = 0; k < total; ++k) {
        const Piece& at = pieces[static_cast<size_t>(k)];
        const AdamwTensor& t = tensors[at.tensor];
        const float decay = 1.0f - t.lr * t.weight_decay, rate = t.lr / t.bias1;
        const float root = 1.0f / __builtin_sqrtf(t.bias2);
        sweep(at.end - at.begin, [&](int64_t j, auto w) {
            const int64_t i = at.begin + j;
            const vf gradient = load(t.g + i, w) * grad_scale;
            const vf first = beta1 * load(t.m + i, w) + (1.0f - beta1) * gradient;
            const vf second = beta2 * load(t.v + i, w) + (1.0f - beta2) * gradient * gradient;
            store(t.m + i, first, w);
            store(t.v + i, second, w);
            store(t.p + i, load(t.p + i, w) * decay - rate * first / (square_root(second) * root + eps), w);
        });
    }
}

double sum_squares(const float* const* x, const int64_t* n, int64_t count) {
    const std::vector<Piece> pieces = pieces_of(count, [&](int64_t i) { return n[i]; });
    const auto total = static_cast<int64_t>(pieces.size());
    const Scratch<double> sums(total);
#pragma omp parallel for schedule(static) if (total * piece >= parallel_elements)
    for (int64_t k = 0; k < total; ++k) {
        const Piece& at = pieces[static_cast<size_t>(k)];
        const float* p = x[at.tensor] + at.begin;
        const int64_t elements = at.end - at.begin;
        double s[16] = {};
        int64_t i = 0;
        for (; i + 16 <= elements; i += 16)
            for (int j = 0; j < 16; ++j) s[j] += static_cast<double>(p[i + j]) * p[i + j];
        for (; i < elements; ++i) s[0] += static_cast<double>(p[i]) * p[i];
        double sum = 0;
        for (const double part : s) sum += part;
        sums[k] = sum;
    }
    // Added in order.
    double sum = 0;
    for (int64_t k = 0; k < total; ++k) sum += sums[k];
    return sum;
}

}  // namespace polyad::kernels::POLYAD_ISA
