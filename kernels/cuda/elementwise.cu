// SPDX-License-Identifier: Apache-2.0
// Conversions, norms, rotary positions, gated activations, the key-value cache's append: one pass over memory
// each.
#include <algorithm>

#include "kernels/cuda/ops.h"
#include "kernels/cuda/tile.cuh"

namespace polyad::kernels::cuda {
namespace {

constexpr int threads = 256;

/// The piece of `Width` elements a thread works on; at the end of the array it is shorter, beyond it empty.
template <int Width>
struct Piece {
    int64_t at;
    int count;
    __device__ explicit Piece(int64_t n)
        : at((static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x) * Width) {
        count = n <= at ? 0 : n - at < Width ? static_cast<int>(n - at) : Width;
    }
};
template <int Width, class Kernel, class... Args>
void launch_pieces(Call& call, Kernel kernel, int64_t n, Args... args) {
    if (n <= 0) return;
    kernel<<<blocks_for(n, static_cast<int64_t>(Width) * threads), threads, 0, call.stream()>>>(n, args...);
    call.launched();
}

/// `count` elements as floats; whole pieces of aligned arrays in one load.
template <class T>
__device__ __forceinline__ void load_piece(const T* p, int count, bool aligned, float* out) {
    if (aligned && count == wide<T>) {
        load_wide(p, out);
        return;
    }
#pragma unroll
    for (int j = 0; j < wide<T>; ++j) out[j] = j < count ? to_float(p[j]) : 0.0f;
}
template <class T>
__device__ __forceinline__ void store_piece(T* p, int count, bool aligned, const float* in) {
    if (aligned && count == wide<T>) {
        store_wide(p, in);
        return;
    }
#pragma unroll
    for (int j = 0; j < wide<T>; ++j)
        if (j < count) p[j] = from_float<T>(in[j]);
}

template <class... P>
bool all_aligned(P... p) {
    return (aligned16(p) && ...);
}

__device__ __forceinline__ float sigmoid(float x) {
    return 1.0f / (1.0f + expf(-x));
}

__global__ void __launch_bounds__(threads) round_all(int64_t n, const float* src, bf16* dst, bool aligned) {
    const Piece<8> piece(n);
    if (piece.count == 0) return;
    float v[8];
    load_piece(src + piece.at, min(piece.count, 4), aligned, v);
    load_piece(src + piece.at + 4, max(piece.count - 4, 0), aligned, v + 4);
    store_piece(dst + piece.at, piece.count, aligned, v);
}

__global__ void __launch_bounds__(threads) widen_all(int64_t n, const bf16* src, float* dst, bool aligned) {
    const Piece<8> piece(n);
    if (piece.count == 0) return;
    float v[8];
    load_piece(src + piece.at, piece.count, aligned, v);
    store_piece(dst + piece.at, min(piece.count, 4), aligned, v);
    store_piece(dst + piece.at + 4, max(piece.count - 4, 0), aligned, v + 4);
}

template <class T>
__global__ void __launch_bounds__(threads)
    gated_product(int64_t n, const T* gate, const T* up, T* y, bool aligned) {
    const Piece<wide<T>> piece(n);
    if (piece.count == 0) return;
    float a[wide<T>], b[wide<T>];
    load_piece(gate + piece.at, piece.count, aligned, a);
    load_piece(up + piece.at, piece.count, aligned, b);
#pragma unroll
    for (int j = 0; j < wide<T>; ++j) a[j] = a[j] * sigmoid(a[j]) * b[j];
    store_piece(y + piece.at, piece.count, aligned, a);
}

template <class T>
__global__ void __launch_bounds__(threads)
    gated_product_backward(int64_t n, const T* dy, const T* gate, const T* up, T* dgate, T* dup,
                           bool aligned) {
    const Piece<wide<T>> piece(n);
    if (piece.count == 0) return;
    float out[wide<T>], v[wide<T>], other[wide<T>];
    load_piece(dy + piece.at, piece.count, aligned, out);
    load_piece(gate + piece.at, piece.count, aligned, v);
    load_piece(up + piece.at, piece.count, aligned, other);
#pragma unroll
    for (int j = 0; j < wide<T>; ++j) {
        const float s = sigmoid(v[j]);
        other[j] *= out[j] * s * (1.0f + v[j] * (1.0f - s));  // silu' = s (1 + v (1 - s))
        out[j] *= v[j] * s;
    }
    store_piece(dgate + piece.at, piece.count, aligned, other);
    store_piece(dup + piece.at, piece.count, aligned, out);
}

template <class T>
__global__ void __launch_bounds__(threads) add_all(int64_t n, T* y, const T* x, bool aligned) {
    const Piece<wide<T>> piece(n);
    if (piece.count == 0) return;
    float a[wide<T>], b[wide<T>];
    load_piece(y + piece.at, piece.count, aligned, a);
    load_piece(x + piece.at, piece.count, aligned, b);
#pragma unroll
    for (int j = 0; j < wide<T>; ++j) a[j] += b[j];
    store_piece(y + piece.at, piece.count, aligned, a);
}

// ---- norms: a block a row, or a warp a row where rows are short ----
/// Sum over the threads that share a row: a warp, or the whole block.
template <bool Warp>
__device__ __forceinline__ float row_sum(float x, float* shared) {
    if constexpr (Warp)
        return warp_sum(x);
    else
        return block_sum(x, shared);
}

struct RowShare {
    int64_t row;
    int at, step;
};
template <bool Warp>
__device__ __forceinline__ RowShare row_share() {
    if constexpr (Warp)
        return {static_cast<int64_t>(blockIdx.x) * (threads / 32) + threadIdx.x / 32,
                static_cast<int>(threadIdx.x) % 32, 32};
    else
        return {blockIdx.x, static_cast<int>(threadIdx.x), threads};
}
template <class Kernel, class... Args>
void launch_rows(Call& call, Kernel short_rows, Kernel long_rows, int64_t n, int64_t width, Args... args) {
    if (n <= 0) return;
    if (width <= 512)
        short_rows<<<blocks_for(n, threads / 32), threads, 0, call.stream()>>>(args..., n,
                                                                               static_cast<int>(width));
    else
        long_rows<<<static_cast<unsigned>(n), threads, 0, call.stream()>>>(args..., n,
                                                                           static_cast<int>(width));
    call.launched();
}

template <class T, bool Warp, bool Add>
__global__ void __launch_bounds__(threads) norm(T* x, const T* delta, const float* w, float eps, T* y,
                                                float* rstd, bool aligned, int64_t n, int width) {
    __shared__ float shared[threads / 32];
    const RowShare share = row_share<Warp>();
    if (Warp && share.row >= n) return;
    x += share.row * width;
    y += share.row * width;
    if (Add) delta += share.row * width;
    float squares = 0.0f;
    for (int i = share.at * wide<T>; i < width; i += share.step * wide<T>) {
        const int count = min(wide<T>, width - i);
        float v[wide<T>];
        load_piece(x + i, count, aligned, v);
        if (Add) {
            float more[wide<T>];
            load_piece(delta + i, count, aligned, more);
#pragma unroll
            for (int j = 0; j < wide<T>; ++j) v[j] = to_float(from_float<T>(v[j] + more[j]));
            store_piece(x + i, count, aligned, v);
        }
#pragma unroll
        for (int j = 0; j < wide<T>; ++j) squares = fmaf(v[j], v[j], squares);
    }
    const float r = 1.0f / sqrtf(row_sum<Warp>(squares, shared) / static_cast<float>(width) + eps);
    if (rstd && share.at == 0) rstd[share.row] = r;
    // A thread reads back what it wrote itself.
    for (int i = share.at * wide<T>; i < width; i += share.step * wide<T>) {
        const int count = min(wide<T>, width - i);
        float v[wide<T>];
        load_piece(x + i, count, aligned, v);
#pragma unroll
        for (int j = 0; j < wide<T>; ++j) v[j] = j < count ? v[j] * r * w[i + j] : 0.0f;
        store_piece(y + i, count, aligned, v);
    }
}

template <class T, bool Warp>
__global__ void __launch_bounds__(threads)
    norm_backward(const T* dy, const T* x, const float* w, const float* rstd, T* dx, bool add, bool aligned,
                  int64_t n, int width) {
    __shared__ float shared[threads / 32];
    const RowShare share = row_share<Warp>();
    if (Warp && share.row >= n) return;
    dy += share.row * width;
    x += share.row * width;
    dx += share.row * width;
    const float r = rstd[share.row];
    float dots = 0.0f;
    for (int i = share.at * wide<T>; i < width; i += share.step * wide<T>) {
        const int count = min(wide<T>, width - i);
        float g[wide<T>], v[wide<T>];
        load_piece(dy + i, count, aligned, g);
        load_piece(x + i, count, aligned, v);
#pragma unroll
        for (int j = 0; j < wide<T>; ++j)
            if (j < count) dots = fmaf(g[j] * w[i + j], v[j], dots);
    }
    const float correction = r * r * r * (row_sum<Warp>(dots, shared) / static_cast<float>(width));
    for (int i = share.at * wide<T>; i < width; i += share.step * wide<T>) {
        const int count = min(wide<T>, width - i);
        float g[wide<T>], v[wide<T>], d[wide<T>] = {};
        load_piece(dy + i, count, aligned, g);
        load_piece(x + i, count, aligned, v);
        if (add) load_piece(dx + i, count, aligned, d);
#pragma unroll
        for (int j = 0; j < wide<T>; ++j)
            if (j < count) d[j] += g[j] * w[i + j] * r - v[j] * correction;
        store_piece(dx + i, count, aligned, d);
    }
}

/// Partial sums of dw over 64 rows: grid (parts of width, groups of rows).
template <class T>
__global__ void __launch_bounds__(threads)
    gain_backward(const T* dy, const T* x, const float* rstd, int64_t n, int width, float* partial) {
    const int c = blockIdx.x * threads + threadIdx.x;
    if (c >= width) return;
    const int64_t first = static_cast<int64_t>(blockIdx.y) * 64, last = first + 64 < n ? first + 64 : n;
    float sum = 0.0f;
    for (int64_t t = first; t < last; ++t)
        sum = fmaf(to_float(dy[t * width + c]), to_float(x[t * width + c]) * rstd[t], sum);
    partial[static_cast<int64_t>(blockIdx.y) * width + c] = sum;
}
__global__ void add_groups(const float* partial, int groups, int width, float* dw) {
    const int c = blockIdx.x * threads + threadIdx.x;
    if (c >= width) return;
    float sum = 0.0f;
    for (int g = 0; g < groups; ++g) sum += partial[static_cast<int64_t>(g) * width + c];
    dw[c] += sum;
}

template <class T>
__global__ void __launch_bounds__(threads)
    rotate(T* x, int64_t token_stride, const float* cos, const float* sin, const int32_t* position,
           int64_t pairs, int heads, int head_dim, int half, float sign) {
    const int64_t at = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (at >= pairs) return;
    const int i = static_cast<int>(at % half), head = static_cast<int>(at / half % heads);
    const int64_t token = at / half / heads;
    const int64_t angle = static_cast<int64_t>(position[token]) * half + i;
    T* p = x + token * token_stride + static_cast<int64_t>(head) * head_dim + i;
    const float a = to_float(p[0]), b = to_float(p[half]), c = cos[angle], s = sin[angle] * sign;
    p[0] = from_float<T>(a * c - b * s);
    p[half] = from_float<T>(b * c + a * s);
}

struct AppendTo {
    void* const* row;
    int page_tokens;
    const int32_t* page_begin;
    void* const* page;
    int64_t page_offset;
};

/// Copies a token of `width` elements behind its row's past: grid (tokens).
template <class T>
__global__ void __launch_bounds__(threads)
    append_tokens(const T* fresh, const int32_t* begin, int rows, AppendTo place, const int32_t* past,
                  int width, bool aligned) {
    const int token = blockIdx.x, b = row_of(begin, rows, token), at = past[b] + token - begin[b];
    const T* from = fresh + static_cast<int64_t>(token) * width;
    T* to = place.page_tokens == 0
                ? static_cast<T*>(place.row[b]) + static_cast<int64_t>(at) * width
                : static_cast<T*>(place.page[place.page_begin[b] + at / place.page_tokens]) +
                      place.page_offset + static_cast<int64_t>(at % place.page_tokens) * width;
    if (aligned && reinterpret_cast<uintptr_t>(to) % 16 == 0) {
        for (int i = threadIdx.x * wide<T>; i < width; i += threads * wide<T>)
            *reinterpret_cast<uint4*>(to + i) = *reinterpret_cast<const uint4*>(from + i);
        return;
    }
    for (int i = threadIdx.x; i < width; i += threads) to[i] = from[i];
}

template <class T>
const T* as(const void* p) {
    return static_cast<const T*>(p);
}
template <class T>
T* as(void* p) {
    return static_cast<T*>(p);
}

}  // namespace

void to_bf16(const float* src, uint16_t* dst, int64_t n) {
    run("to_bf16", [&](Call& call) {
        launch_pieces<8>(call, round_all, n, src, reinterpret_cast<bf16*>(dst), all_aligned(src, dst));
    });
}

void from_bf16(const uint16_t* src, float* dst, int64_t n) {
    run("from_bf16", [&](Call& call) {
        launch_pieces<8>(call, widen_all, n, reinterpret_cast<const bf16*>(src), dst, all_aligned(src, dst));
    });
}

void rms_norm(Float type, const void* x, const float* w, float eps, void* y, float* rstd, int64_t n,
              int64_t width) {
    run("rms_norm", [&](Call& call) {
        with_type(type, [&](auto element) {
            using T = decltype(element);
            launch_rows(call, norm<T, true, false>, norm<T, false, false>, n, width, const_cast<T*>(as<T>(x)),
                        static_cast<const T*>(nullptr), w, eps, as<T>(y), rstd,
                        width % wide<T> == 0 && all_aligned(x, y));
        });
    });
}

void add_rms_norm(Float type, void* residual, const void* delta, const float* w, float eps, void* y,
                  float* rstd, int64_t n, int64_t width) {
    run("add_rms_norm", [&](Call& call) {
        with_type(type, [&](auto element) {
            using T = decltype(element);
            launch_rows(call, norm<T, true, true>, norm<T, false, true>, n, width, as<T>(residual),
                        as<T>(delta), w, eps, as<T>(y), rstd,
                        width % wide<T> == 0 && all_aligned(residual, delta, y));
        });
    });
}

void rms_norm_backward(Float type, const void* dy, const void* x, const float* w, const float* rstd, void* dx,
                       float* dw, int add, int64_t n, int64_t width) {
    run("rms_norm_backward", [&](Call& call) {
        with_type(type, [&](auto element) {
            using T = decltype(element);
            launch_rows(call, norm_backward<T, true>, norm_backward<T, false>, n, width, as<T>(dy), as<T>(x),
                        w, rstd, as<T>(dx), add != 0, width % wide<T> == 0 && all_aligned(dy, x, dx));
            if (!dw || n <= 0) return;
            const unsigned groups = blocks_for(n, 64);
            float* partial = call.scratch<float>(groups * width);
            gain_backward<<<dim3(blocks_for(width, threads), groups), threads, 0, call.stream()>>>(
                as<T>(dy), as<T>(x), rstd, n, static_cast<int>(width), partial);
            call.launched();
            add_groups<<<blocks_for(width, threads), threads, 0, call.stream()>>>(
                partial, static_cast<int>(groups), static_cast<int>(width), dw);
            call.launched();
        });
    });
}

void rope(Float type, void* x, int64_t token_stride, const float* cos, const float* sin,
          const int32_t* position, int64_t n, int32_t heads, int32_t head_dim, int32_t rotary_dim,
          int inverse) {
    run("rope", [&](Call& call) {
        const int64_t pairs = n * heads * (rotary_dim / 2);
        if (pairs == 0) return;
        with_type(type, [&](auto element) {
            using T = decltype(element);
            rotate<<<blocks_for(pairs, threads), threads, 0, call.stream()>>>(
                as<T>(x), token_stride, cos, sin, call.stage(position, n), pairs, heads, head_dim,
                rotary_dim / 2, inverse ? -1.0f : 1.0f);
            call.launched();
        });
    });
}

void swiglu(Float type, const void* gate, const void* up, void* y, int64_t n) {
    run("swiglu", [&](Call& call) {
        with_type(type, [&](auto element) {
            using T = decltype(element);
            launch_pieces<wide<T>>(call, gated_product<T>, n, as<T>(gate), as<T>(up), as<T>(y),
                                   all_aligned(gate, up, y));
        });
    });
}

void swiglu_backward(Float type, const void* dy, const void* gate, const void* up, void* dgate, void* dup,
                     int64_t n) {
    run("swiglu_backward", [&](Call& call) {
        with_type(type, [&](auto element) {
            using T = decltype(element);
            launch_pieces<wide<T>>(call, gated_product_backward<T>, n, as<T>(dy), as<T>(gate), as<T>(up),
                                   as<T>(dgate), as<T>(dup), all_aligned(dy, gate, up, dgate, dup));
        });
    });
}

void add(Float type, void* y, const void* x, int64_t n) {
    run("add", [&](Call& call) {
        with_type(type, [&](auto element) {
            using T = decltype(element);
            launch_pieces<wide<T>>(call, add_all<T>, n, as<T>(y), as<T>(x), all_aligned(y, x));
        });
    });
}

void append(Float type, const void* fresh, Rows rows, const CacheRows& to, const int32_t* past,
            int64_t width) {
    run("append", [&](Call& call) {
        const int64_t tokens = rows.count > 0 ? rows.begin[rows.count] : 0;
        if (tokens == 0) return;
        AppendTo place{nullptr, to.page_tokens, nullptr, nullptr, to.page_offset};
        if (to.page_tokens == 0) {
            place.row = call.stage(to.row, rows.count);
        } else {
            int32_t pages = 0;
            for (int32_t b = 0; b < rows.count; ++b) {
                const int32_t all = past[b] + rows.begin[b + 1] - rows.begin[b];
                pages = std::max(pages, to.page_begin[b] + (all + to.page_tokens - 1) / to.page_tokens);
            }
            place.page_begin = call.stage(to.page_begin, rows.count);
            place.page = call.stage(to.page, pages);
        }
        with_type(type, [&](auto element) {
            using T = decltype(element);
            append_tokens<<<static_cast<unsigned>(tokens), threads, 0, call.stream()>>>(
                as<T>(fresh), call.stage(rows.begin, rows.count + 1), rows.count, place,
                call.stage(past, rows.count), static_cast<int>(width),
                width % wide<T> == 0 && aligned16(fresh));
            call.launched();
        });
    });
}

}  // namespace polyad::kernels::cuda
