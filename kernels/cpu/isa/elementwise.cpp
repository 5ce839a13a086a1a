// SPDX-License-Identifier: Apache-2.0
// Conversions, norms, rotary positions, gated activations: one pass over memory each.
#include "kernels/cpu/isa/kernels.h"
#include "kernels/cpu/isa/vec.h"

namespace polyad::kernels::POLYAD_ISA {
namespace {

/// Cuts [0, n) into pieces that are multiples of the vector length and runs body(begin, count) on them in
/// parallel.
template <class Body>
inline void pieces(int64_t n, Body&& body) {
    constexpr int64_t piece = 8192;
    const int64_t count = (n + piece - 1) / piece;
#pragma omp parallel for schedule(static) if (n >= parallel_elements)
    for (int64_t c = 0; c < count; ++c) body(c * piece, least(piece, n - c * piece));
}

template <class T>
inline float mean_square(const T* x, int64_t width) {
    vf s[4] = {};
    int64_t i = 0;
    for (; i + 4 * lanes <= width; i += 4 * lanes)
        for (int j = 0; j < 4; ++j) {
            const vf v = load(x + i + j * lanes);
            s[j] = fma(v, v, s[j]);
        }
    sweep(width - i, [&](int64_t k, auto w) {
        const vf v = load(x + i + k, w);
        s[0] = fma(v, v, s[0]);
    });
    return sum((s[0] + s[1]) + (s[2] + s[3])) / static_cast<float>(width);
}

template <class T>
inline void normalise_row(const T* x, const float* w, float scale, T* y, int64_t width) {
    sweep(width,
          [&](int64_t i, auto part) { store(y + i, load(x + i, part) * scale * load(w + i, part), part); });
}

template <class T>
inline void backward_row(const T* dy, const T* x, const float* w, float rstd, T* dx, float* dw, bool add,
                         int64_t width) {
    // dx = rstd (w dy - x rstd^2 mean(w dy x))
    vf dots = {};
    sweep(width, [&](int64_t i, auto part) {
        dots = fma(load(dy + i, part) * load(w + i, part), load(x + i, part), dots);
    });
    const float correction = rstd * rstd * rstd * (sum(dots) / static_cast<float>(width));
    sweep(width, [&](int64_t i, auto part) {
        const vf g = load(dy + i, part), v = load(x + i, part);
        vf d = g * load(w + i, part) * rstd - v * correction;
        if (add) d += load(dx + i, part);
        if (dw) store(dw + i, fma(g, v * rstd, load(dw + i, part)), part);
        store(dx + i, d, part);
    });
}

template <class T>
inline void rotate_head(T* x, const float* cos, const float* sin, int64_t half, float sign) {
    T* z = x + half;
    sweep(half, [&](int64_t i, auto part) {
        const vf a = load(x + i, part), b = load(z + i, part);
        const vf c = load(cos + i, part), s = load(sin + i, part) * sign;
        store(x + i, a * c - b * s, part);
        store(z + i, b * c + a * s, part);
    });
}

}  // namespace

void to_bf16(const float* src, uint16_t* dst, int64_t n) {
    pieces(n, [&](int64_t begin, int64_t count) {
        const float* s = src + begin;
        uint16_t* d = dst + begin;
        int64_t i = 0;
        for (; i + lanes <= count; i += lanes) {
            const vh h = low_halves(rounded_bits(load(s + i)));
            std::memcpy(d + i, &h, sizeof h);
        }
        for (; i < count; ++i) d[i] = rounded(s[i]);
    });
}

void from_bf16(const uint16_t* src, float* dst, int64_t n) {
    pieces(n, [&](int64_t begin, int64_t count) {
        sweep(count, [&](int64_t i, auto w) { store(dst + begin + i, load(src + begin + i, w), w); });
    });
}

void rms_norm(Float type, const void* x, const float* w, float eps, void* y, float* rstd, int64_t n,
              int64_t width) {
    with_type(type, [&](auto element) {
        using T = decltype(element);
        const T* in = static_cast<const T*>(x);
        T* out = static_cast<T*>(y);
#pragma omp parallel for schedule(static) if (n * width >= parallel_elements)
        for (int64_t t = 0; t < n; ++t) {
            const float r = 1.0f / __builtin_sqrtf(mean_square(in + t * width, width) + eps);
            if (rstd) rstd[t] = r;
            normalise_row(in + t * width, w, r, out + t * width, width);
        }
    });
}

void add_rms_norm(Float type, void* residual, const void* delta, const float* w, float eps, void* y,
                  float* rstd, int64_t n, int64_t width) {
    with_type(type, [&](auto element) {
        using T = decltype(element);
        T* stream = static_cast<T*>(residual);
        const T* in = static_cast<const T*>(delta);
        T* out = static_cast<T*>(y);
#pragma omp parallel for schedule(static) if (n * width >= parallel_elements)
        for (int64_t t = 0; t < n; ++t) {
            T* row = stream + t * width;
            const T* more = in + t * width;
            sweep(width, [&](int64_t i, auto part) {
                store(row + i, load(row + i, part) + load(more + i, part), part);
            });
            // Read back as stored, so that the result equals add followed by rms_norm.
            const float r = 1.0f / __builtin_sqrtf(mean_square(row, width) + eps);
            if (rstd) rstd[t] = r;
            normalise_row(row, w, r, out + t * width, width);
        }
    });
}

void rms_norm_backward(Float type, const void* dy, const void* x, const float* w, const float* rstd, void* dx,
                       float* dw, int add, int64_t n, int64_t width) {
    // Fixed groups of rows sum dw apart and are added in order: the same result for any number of threads.
    constexpr int64_t group = 64;
    const int64_t groups = (n + group - 1) / group;
    const Scratch<float> partial(dw ? groups * width : 0);
    with_type(type, [&](auto element) {
        using T = decltype(element);
        const T* gradient = static_cast<const T*>(dy);
        const T* in = static_cast<const T*>(x);
        T* out = static_cast<T*>(dx);
#pragma omp parallel for schedule(static) if (n * width >= parallel_elements)
        for (int64_t g = 0; g < groups; ++g) {
            float* sums = dw ? partial.get() + g * width : nullptr;
            if (sums) std::memset(sums, 0, static_cast<size_t>(width) * 4);
            for (int64_t t = g * group; t < least(n, (g + 1) * group); ++t)
                backward_row(gradient + t * width, in + t * width, w, rstd[t], out + t * width, sums,
                             add != 0, width);
        }
    });
    if (!dw) return;
    for (int64_t g = 0; g < groups; ++g)
        for (int64_t i = 0; i < width; ++i) dw[i] += partial[g * width + i];
}

void rope(Float type, void* x, int64_t token_stride, const float* cos, const float* sin,
          const int32_t* position, int64_t n, int32_t heads, int32_t head_dim, int32_t rotary_dim,
          int inverse) {
    const int64_t half = rotary_dim / 2;
    const float sign = inverse ? -1.0f : 1.0f;
    with_type(type, [&](auto element) {
        using T = decltype(element);
        T* data = static_cast<T*>(x);
#pragma omp parallel for schedule(static) if (n * heads * rotary_dim >= parallel_elements)
        for (int64_t t = 0; t < n; ++t) {
            const float* c = cos + position[t] * half;
            const float* s = sin + position[t] * half;
            for (int32_t h = 0; h < heads; ++h)
                rotate_head(data + t * token_stride + h * head_dim, c, s, half, sign);
        }
    });
}

void swiglu(Float type, const void* gate, const void* up, void* y, int64_t n) {
    with_type(type, [&](auto element) {
        using T = decltype(element);
        pieces(n, [&](int64_t begin, int64_t count) {
            const T* g = static_cast<const T*>(gate) + begin;
            const T* u = static_cast<const T*>(up) + begin;
            T* out = static_cast<T*>(y) + begin;
            sweep(count, [&](int64_t i, auto w) {
                const vf v = load(g + i, w);
                store(out + i, v * sigmoid(v) * load(u + i, w), w);
            });
        });
    });
}

void swiglu_backward(Float type, const void* dy, const void* gate, const void* up, void* dgate, void* dup,
                     int64_t n) {
    with_type(type, [&](auto element) {
        using T = decltype(element);
        pieces(n, [&](int64_t begin, int64_t count) {
            const T* d = static_cast<const T*>(dy) + begin;
            const T* g = static_cast<const T*>(gate) + begin;
            const T* u = static_cast<const T*>(up) + begin;
            T* dg = static_cast<T*>(dgate) + begin;
            T* du = static_cast<T*>(dup) + begin;
            sweep(count, [&](int64_t i, auto w) {
                const vf v = load(g + i, w), s = sigmoid(v), out = load(d + i, w), other = load(u + i, w);
                // silu' = s (1 + v (1 - s))
                store(dg + i, out * other * s * (1.0f + v * (1.0f - s)), w);
                store(du + i, out * v * s, w);
            });
        });
    });
}

void add(Float type, void* y, const void* x, int64_t n) {
    with_type(type, [&](auto element) {
        using T = decltype(element);
        pieces(n, [&](int64_t begin, int64_t count) {
            T* to = static_cast<T*>(y) + begin;
            const T* from = static_cast<const T*>(x) + begin;
            sweep(count, [&](int64_t i, auto w) { store(to + i, load(to + i, w) + load(from + i, w), w); });
        });
    });
}

void append(Float type, const void* fresh, Rows rows, const CacheRows& to, const int32_t* past,
            int64_t width) {
    const int64_t element = type == Float::bf16 ? 2 : 4, bytes = width * element;
    for (int32_t b = 0; b < rows.count; ++b) {
        const int64_t count = rows.begin[b + 1] - rows.begin[b], length = past[b];
        const char* from = static_cast<const char*>(fresh) + rows.begin[b] * bytes;
        if (to.page_tokens == 0) {
            std::memcpy(static_cast<char*>(to.row[b]) + length * bytes, from,
                        static_cast<size_t>(count * bytes));
            continue;
        }
        for (int64_t done = 0; done < count;) {
            const int64_t at = length + done, within = at % to.page_tokens;
            const int64_t tokens = least(count - done, to.page_tokens - within);
            std::memcpy(static_cast<char*>(to.page[to.page_begin[b] + at / to.page_tokens]) +
                            to.page_offset * element + within * bytes,
                        from + done * bytes, static_cast<size_t>(tokens * bytes));
            done += tokens;
        }
    }
}

}  // namespace polyad::kernels::POLYAD_ISA
