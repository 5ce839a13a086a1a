// SPDX-License-Identifier: Apache-2.0
// A span of tokens pooled behind an attention of its own (OrchMoE, methods.md 2):
//
//     a = softmax(x x^T / sqrt(d)) [n, n]
//     g = mean_i (sum_j a_ij x_j + x_i) = 1/n sum_j (1 + sum_i a_ij) x_j
//
// and its gradient, with t = dg / n, e_j = <x_j, t> and ds_ij = a_ij (e_j - sum_k a_ik e_k) / sqrt(d):
//
//     dx_j = (1 + sum_i a_ij) t + sum_i (ds_ij + ds_ji) x_i
#include <cmath>
#include <type_traits>

#include "kernels/cpu/isa/amx.h"
#include "kernels/cpu/isa/kernels.h"

namespace polyad::kernels::POLYAD_ISA {
namespace {

/// Cells a row of n values takes.
template <class T>
inline int64_t cells_of(int64_t n) {
    return (n + cell_depth<T> - 1) / cell_depth<T>;
}

/// scores [n, width] = x x^T.
template <class T>
void score(const T* x, int64_t n, int64_t d, int64_t width, float* scores) {
    const int64_t cells = cells_of<T>(d);
    const Scratch<float> rows(n * cells), columns(cells * width);
    for (int64_t i = 0; i < n; ++i) row_cells<T>(x + i * d, d, rows.get() + i * cells);
    std::memset(columns.get(), 0, static_cast<size_t>(cells * width) * 4);
    transpose(rows.get(), cells, n, cells, columns.get(), width);
    multiply_lines<cell_depth<T>>(n, width, cells, rows.get(), cells, columns.get(), width, scores, width,
                                  false);
}

/// Softmax of n scores times `scale`; column sums are added to.
inline void softmax_row(const float* scores, float scale, int64_t n, float* a, float* sums) {
    vf top = splat(-INFINITY);
    float highest = -INFINITY;
    sweep(n, [&](int64_t j, auto part) {
        const vf s = load(scores + j, part);
        if constexpr (std::is_same_v<decltype(part), Whole>)
            top = (s > top) ? s : top;
        else
            for (int64_t l = 0; l < part.count; ++l) highest = s[l] > highest ? s[l] : highest;
    });
    for (int l = 0; l < lanes; ++l) highest = top[l] > highest ? top[l] : highest;
    vf total = {};
    float rest = 0.0f;
    sweep(n, [&](int64_t j, auto part) {
        const vf e = exponential((load(scores + j, part) - highest) * scale);
        store(a + j, e, part);
        if constexpr (std::is_same_v<decltype(part), Whole>)
            total += e;
        else
            for (int64_t l = 0; l < part.count; ++l) rest += e[l];
    });
    const float inverse = 1.0f / (sum(total) + rest);
    sweep(n, [&](int64_t j, auto part) {
        const vf p = load(a + j, part) * inverse;
        store(a + j, p, part);
        store(sums + j, load(sums + j, part) + p, part);
    });
}

template <class T>
void attend(const T* x, int64_t n, int64_t d, float* attention, float* g) {
    const int64_t width = round_up(n, lanes);
    const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(d)));
    const Scratch<float> scores(n * width), share(n);
    score(x, n, d, width, scores.get());
    for (int64_t j = 0; j < n; ++j) share[j] = 1.0f;
    for (int64_t i = 0; i < n; ++i)
        softmax_row(scores.get() + i * width, scale, n, attention + i * n, share.get());
    std::memset(g, 0, static_cast<size_t>(d) * 4);
    const float inverse = 1.0f / static_cast<float>(n);
    for (int64_t j = 0; j < n; ++j) {
        const vf w = splat(share[j] * inverse);
        sweep(d, [&](int64_t i, auto part) {
            store(g + i, fma(load(x + j * d + i, part), w, load(g + i, part)), part);
        });
    }
}

template <class T>
void attend_backward(const T* x, int64_t n, int64_t d, const float* attention, const float* dg, T* dx) {
    const int64_t cells = cells_of<T>(n), width = round_up(d, lanes), rows = cells * cell_depth<T>;
    const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(d)));
    const float inverse = 1.0f / static_cast<float>(n);
    const Scratch<float> t(d), e(n), share(n), ds(n * n), left(n * cells), right(cells * width),
        sums(n * width);
    sweep(d, [&](int64_t i, auto part) { store(t.get() + i, load(dg + i, part) * inverse, part); });
    for (int64_t j = 0; j < n; ++j) {
        e[j] = dot(x + j * d, t.get(), d);
        share[j] = 1.0f;
    }
    for (int64_t i = 0; i < n; ++i) {
        const float* a = attention + i * n;
        const float mean = dot(a, e.get(), n);
        sweep(n, [&](int64_t j, auto part) {
            const vf p = load(a + j, part);
            store(ds.get() + i * n + j, p * (load(e.get() + j, part) - mean) * scale, part);
            store(share.get() + j, load(share.get() + j, part) + p, part);
        });
    }
    for (int64_t i = 0; i < n; ++i)
        for (int64_t j = i; j < n; ++j) ds[i * n + j] = ds[j * n + i] = ds[i * n + j] + ds[j * n + i];
    for (int64_t i = 0; i < n; ++i) row_cells<T>(ds.get() + i * n, n, left.get() + i * cells);
    std::memset(right.get(), 0, static_cast<size_t>(cells * width) * 4);
    for (int64_t j = 0; j < rows; j += cell_depth<T>)
        column_cells<T>(x + j * d, j + 1 < n ? x + (j + 1) * d : nullptr, d,
                        right.get() + j / cell_depth<T> * width);
    for (int64_t i = 0; i < n; ++i) {
        float* row = sums.get() + i * width;
        sweep(d, [&](int64_t c, auto part) { store(row + c, load(t.get() + c, part) * share[i], part); });
        for (int64_t c = d; c < width; ++c) row[c] = 0.0f;
    }
    multiply_lines<cell_depth<T>>(n, width, cells, left.get(), cells, right.get(), width, sums.get(), width,
                                  true);
    for (int64_t i = 0; i < n; ++i)
        sweep(d, [&](int64_t c, auto part) {
            store(dx + i * d + c, load(sums.get() + i * width + c, part), part);
        });
}

}  // namespace

void attend_span(Float type, const void* x, int64_t n, int64_t d, float* attention, float* g) {
    with_type(type,
              [&](auto element) { attend(static_cast<const decltype(element)*>(x), n, d, attention, g); });
}

void attend_span_backward(Float type, const void* x, int64_t n, int64_t d, const float* attention,
                          const float* dg, void* dx) {
    with_type(type, [&](auto element) {
        using T = decltype(element);
        attend_backward(static_cast<const T*>(x), n, d, attention, dg, static_cast<T*>(dx));
    });
}

}  // namespace polyad::kernels::POLYAD_ISA
