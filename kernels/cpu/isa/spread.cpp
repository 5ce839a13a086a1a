// SPDX-License-Identifier: Apache-2.0
// Tokens that are spread over several copies of a block, and added up again: one pass over memory each.
#include "kernels/cpu/isa/kernels.h"
#include "kernels/cpu/isa/vec.h"

namespace polyad::kernels::POLYAD_ISA {
namespace {

template <class T>
inline void scaled_row(const T* x, float w, T* y, int64_t width) {
    sweep(width, [&](int64_t i, auto part) { store(y + i, load(x + i, part) * w, part); });
}

/// Vector by vector over all members, so that nothing is rounded on the way.
template <class T>
inline void sum_members(const T* y, const int32_t* member, const float* w, int64_t count, bool add, T* out,
                        int64_t width) {
    sweep(width, [&](int64_t i, auto part) {
        vf sum = {};
        if (add) sum = load(out + i, part);
        for (int64_t j = 0; j < count; ++j) {
            const vf v = load(y + member[j] * width + i, part);
            sum = w ? fma(v, splat(w[member[j]]), sum) : sum + v;
        }
        store(out + i, sum, part);
    });
}

}  // namespace

void gather_rows(Float type, const void* x, const int32_t* row, const float* w, int64_t n, int64_t width,
                 void* out) {
    with_type(type, [&](auto element) {
        using T = decltype(element);
        const T* from = static_cast<const T*>(x);
        T* to = static_cast<T*>(out);
#pragma omp parallel for schedule(static) if (n * width >= parallel_elements)
        for (int64_t m = 0; m < n; ++m)
            if (w)
                scaled_row(from + row[m] * width, w[m], to + m * width, width);
            else
                std::memcpy(to + m * width, from + row[m] * width, static_cast<size_t>(width) * sizeof(T));
    });
}

void sum_rows(Float type, const void* y, const int32_t* begin, const int32_t* member, const float* w, int add,
              int64_t n, int64_t width, void* out) {
    with_type(type, [&](auto element) {
        using T = decltype(element);
        T* to = static_cast<T*>(out);
#pragma omp parallel for schedule(static) if (n * width >= parallel_elements)
        for (int64_t t = 0; t < n; ++t)
            sum_members(static_cast<const T*>(y), member + begin[t], w, begin[t + 1] - begin[t], add != 0,
                        to + t * width, width);
    });
}

void row_dots(Float type, const void* a, const int32_t* row, const void* b, int64_t n, int64_t width,
              float* dots) {
    with_type(type, [&](auto element) {
        using T = decltype(element);
#pragma omp parallel for schedule(static) if (n * width >= parallel_elements)
        for (int64_t m = 0; m < n; ++m)
            dots[m] +=
                dot(static_cast<const T*>(a) + row[m] * width, static_cast<const T*>(b) + m * width, width);
    });
}

}  // namespace polyad::kernels::POLYAD_ISA
