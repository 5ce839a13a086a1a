// SPDX-License-Identifier: Apache-2.0
// What the forward and backward passes of blocked attention share.
//
// Orientation: vector lanes are *queries*. The query heads that share a key-value head are stacked (query i,
// head h -> stacked row i * repeat + h) and taken `block_queries` at a time, so a grouped-query model fills
// the vectors from few tokens; maxima and sums over keys are then plain vector operations down the columns of
// S^T = K Q^T.
#pragma once

#include <cmath>

#include "kernels/cpu/isa/amx.h"
#include "kernels/cpu/isa/kernels.h"

namespace polyad::kernels::POLYAD_ISA {

inline constexpr int64_t block_queries = 64, block_keys = 64;

/// One (row, key-value head).
template <class T>
struct Head {
    Head(const Attention& args, int64_t task)
        : a(args), row(task / args.heads_kv), kv_head(task % args.heads_kv), kv_stride(args.kv_stride) {
        repeat = a.heads / a.heads_kv;
        queries = a.query_begin[row + 1] - a.query_begin[row];
        keys = most(a.key_count[row], 0);
        stacked = queries * repeat;
        if (a.page_tokens > 0) return;
        k = static_cast<const T*>(a.k_row[row]) + kv_head * a.head_dim;
        v = static_cast<const T*>(a.v_row[row]) + kv_head * a.head_dim;
    }
    /// With shared beginnings: lays the keys and values of the row's whole line side by side, [keys,
    /// head_dim] each, and reads them there from now on.
    void gather(const int32_t* parent, T* to) {
        const int64_t d = a.head_dim;
        T *all_k = to, *all_v = to + keys * d;
        int64_t end = keys;
        for (int64_t r = row; r >= 0; r = parent[r]) {
            const int64_t count = a.query_begin[r + 1] - a.query_begin[r];
            end -= count;
            const T* from_k = static_cast<const T*>(a.k_row[r]) + kv_head * d;
            const T* from_v = static_cast<const T*>(a.v_row[r]) + kv_head * d;
            for (int64_t j = 0; j < count; ++j) {
                std::memcpy(all_k + (end + j) * d, from_k + j * a.kv_stride,
                            static_cast<size_t>(d) * sizeof(T));
                std::memcpy(all_v + (end + j) * d, from_v + j * a.kv_stride,
                            static_cast<size_t>(d) * sizeof(T));
            }
        }
        k = all_k;
        v = all_v;
        kv_stride = d;
    }
    /// Calls body(first, count, keys, values) for every stretch of the keys [begin, end) that lies in one
    /// piece, with pointers to its first token.
    template <class Body>
    void stretches(int64_t begin, int64_t end, Body&& body) const {
        if (a.page_tokens <= 0) {
            if (begin < end) body(begin, end - begin, k + begin * kv_stride, v + begin * kv_stride);
            return;
        }
        const int64_t size = a.page_tokens;
        for (int64_t at = begin; at < end;) {
            const int64_t page = at / size, count = least(end, (page + 1) * size) - at;
            const T* base = static_cast<const T*>(a.page[a.page_begin[row] + page]) + kv_head * a.head_dim +
                            (at - page * size) * a.kv_stride;
            body(at, count, base + a.k_offset, base + a.v_offset);
            at += count;
        }
    }
    int64_t head_of(int64_t r) const { return kv_head * repeat + r % repeat; }
    int64_t token_of(int64_t r) const { return a.query_begin[row] + r / repeat; }
    /// Where stacked row r starts in q, o and their gradients; and in lse.
    int64_t offset(int64_t r) const { return (token_of(r) * a.heads + head_of(r)) * a.head_dim; }
    int64_t lse_offset(int64_t r) const { return token_of(r) * a.heads + head_of(r); }
    int64_t position(int64_t r) const {
        return (a.query_position0_is_tail ? keys - queries : 0) + r / repeat;
    }
    /// Keys [first, last) that stacked row r sees.
    int64_t last(int64_t r) const { return a.causal ? least(most(position(r) + 1, 0), keys) : keys; }
    int64_t first(int64_t r) const {
        if (!a.causal || a.window <= 0) return 0;
        return least(most(position(r) - a.window + 1, 0), last(r));
    }
    const float* bias(int64_t r) const {
        return a.bias + head_of(r) * a.bias_head_stride + position(r) * a.bias_query_stride;
    }

    const Attention& a;
    int64_t row, kv_head, kv_stride, repeat, queries, keys, stacked;
    const T *k = nullptr, *v = nullptr;  ///< null with pages
};

/// Floats gather() needs.
template <class T>
inline int64_t gathered_floats(int64_t keys, int64_t head_dim) {
    return (2 * keys * head_dim * static_cast<int64_t>(sizeof(T)) + 3) / 4;
}

/// A block of stacked rows [begin, begin + count): the keys each lane sees.
struct Block {
    int64_t begin, count, width;  ///< width: count rounded up to whole vectors
    int64_t key_begin, key_end;   ///< keys any lane sees (begin rounded down to even)
    int64_t all_begin, all_end;   ///< keys every lane sees
    int32_t first[block_queries], last[block_queries];
    int64_t offset[block_queries];      ///< where each stacked row starts in q, o and their gradients
    int64_t lse_offset[block_queries];  ///< and in lse

    template <class T>
    Block(const Head<T>& head, int64_t at) : begin(at), count(least(block_queries, head.stacked - at)) {
        width = round_up(count, lanes);
        key_begin = head.keys;
        key_end = 0;
        all_begin = 0;
        all_end = width == count ? head.keys : 0;
        int64_t f = 0, l = 0;
        for (int64_t i = 0, within = at % head.repeat; i < count; ++i, ++within) {
            if (within == head.repeat) within = 0;
            if (i == 0 || within == 0) {  // a new query
                f = head.first(at + i);
                l = head.last(at + i);
                lse_offset[i] = head.lse_offset(at + i);
                all_begin = most(all_begin, f);
                all_end = least(all_end, l);
                if (l > f) {
                    key_begin = least(key_begin, f);
                    key_end = most(key_end, l);
                }
            } else {
                lse_offset[i] = lse_offset[i - 1] + 1;
            }
            offset[i] = lse_offset[i] * head.a.head_dim;
            first[i] = static_cast<int32_t>(f);
            last[i] = static_cast<int32_t>(l);
        }
        for (int64_t i = count; i < width; ++i) first[i] = last[i] = 0;
        key_begin &= ~int64_t{1};
    }
    bool all_visible(int64_t from, int64_t to) const { return from >= all_begin && to <= all_end; }
};

inline vi load_ints(const int32_t* p) {
    vi v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

/// Keys or values as rows of cells [keys][cells].
template <class T>
inline void pack_rows(const T* from, int64_t stride, int64_t rows, int64_t head_dim, float* to,
                      int64_t cells) {
    for (int64_t j = 0; j < rows; ++j) row_cells<T>(from + j * stride, head_dim, to + j * cells);
}
/// The same as columns of cells [ceil(keys / depth)][head_dim].
template <class T>
inline void pack_columns(const T* from, int64_t stride, int64_t rows, int64_t head_dim, float* to) {
    constexpr int depth = cell_depth<T>;
    for (int64_t j = 0; j < rows; j += depth)
        column_cells<T>(from + j * stride, depth == 2 && j + 1 < rows ? from + (j + 1) * stride : nullptr,
                        head_dim, to + j / depth * head_dim);
}

/// Gathers a block's stacked rows of q (or do) with lanes = queries: [cells][block_queries], unused lanes
/// zero.
template <class T>
inline void pack_lanes(const Head<T>& head, const Block& block, const T* from, float* rows, int64_t cells,
                       float* to) {
    for (int64_t i = 0; i < block.count; ++i)
        row_cells<T>(from + block.offset[i], head.a.head_dim, rows + i * cells);
    std::memset(rows + block.count * cells, 0, static_cast<size_t>((block.width - block.count) * cells) * 4);
    transpose(rows, cells, block.width, cells, to, block_queries);
}

/// S^T [keys][lanes] times scale, plus the bias where there is one, in units of log2(e), so that e^s is 2^s';
/// keys a lane does not see become -inf.
template <class T>
inline void finish_scores(const Head<T>& head, const Block& block, int64_t key, int64_t count, float* s) {
    const bool masked = !block.all_visible(key, key + count);
    const vf scale = splat(head.a.scale * log2_e);
    for (int64_t lane = 0; lane < block.width; lane += lanes) {
        const vi first = load_ints(block.first + lane) - static_cast<int32_t>(key);
        const vi last = load_ints(block.last + lane) - static_cast<int32_t>(key);
        for (int64_t j = 0; j < count; ++j) {
            float* p = s + j * block_queries + lane;
            vf x = load(p) * scale;
            if (masked) {
                const vi at = vi{} + static_cast<int32_t>(j);
                x = ((at >= first) & (at < last)) ? x : splat(-INFINITY);
            }
            store(p, x);
        }
    }
    if (!head.a.bias) return;
    for (int64_t i = 0; i < block.count; ++i) {
        const int64_t from = most(block.first[i], key), to = least(block.last[i], key + count);
        if (from >= to) continue;
        const float* bias = head.bias(block.begin + i);
        for (int64_t j = from; j < to; ++j) s[(j - key) * block_queries + i] += bias[j] * log2_e;
    }
}

/// A block's result lies [head_dim][lanes]: scales each lane and writes it back as rows.
template <class T>
inline void unpack_lanes(const Head<T>& head, const Block& block, const float* from, const float* lane_scale,
                         [[maybe_unused]] float* rows, T* to) {
    const int64_t d = head.a.head_dim;
#if defined(__AVX512F__)
    for (int64_t lane = 0; lane < block.count; lane += 16) {
        const vf scale = load(lane_scale + lane);
        const int64_t count = least(16, block.count - lane);
        for (int64_t c = 0; c < d; c += 16) {
            const int64_t width = least(16, d - c);
            __m512 part[16];
            for (int i = 0; i < 16; ++i)
                part[i] =
                    i < width ? (__m512)(load(from + (c + i) * block_queries + lane) * scale) : __m512{};
            transpose16(part);
            for (int i = 0; i < 16; ++i) {
                if (i >= count) break;
                T* out = to + block.offset[lane + i] + c;
                if (width == 16)
                    store(out, (vf)part[i]);
                else
                    store(out, (vf)part[i], Part{width});
            }
        }
    }
#else
    const int64_t stride = round_up(d, 16);
    transpose(from, block_queries, d, block.width, rows, stride);
    for (int64_t i = 0; i < block.count; ++i)
        sweep(d, [&](int64_t c, auto w) {
            store(to + block.offset[i] + c, load(rows + i * stride + c, w) * lane_scale[i], w);
        });
#endif
}

/// Multiply-adds of all rows together: whether a second thread pays.
inline double attention_work(const Attention& a) {
    double work = 0;
    for (int32_t b = 0; b < a.rows; ++b)
        work += static_cast<double>(a.query_begin[b + 1] - a.query_begin[b]) * a.key_count[b];
    return work * a.heads * a.head_dim;
}
inline int64_t most_keys(const Attention& a) {
    int64_t n = 0;
    for (int32_t b = 0; b < a.rows; ++b) n = most(n, a.key_count[b]);
    return n;
}

}  // namespace polyad::kernels::POLYAD_ISA
