// SPDX-License-Identifier: Apache-2.0
// What the attention kernels share. The query heads that share a key-value head are stacked (query i, head h
// -> stacked row i * repeat + h), so that grouped queries read their keys once.
#pragma once

#include "kernels/cuda/ops.h"
#include "kernels/cuda/tile.cuh"

namespace polyad::kernels::cuda {

inline constexpr float log2_e = 1.4426950408889634f, ln_2 = 0.6931471805599453f;

/// Attention as the device sees it: index arrays on the device.
struct AttentionArgs {
    int rows, heads, heads_kv, head_dim, repeat;
    uint32_t reciprocal;  ///< 2^32 / repeat, rounded up
    const int32_t *query_begin, *key_count;
    const void *const *k_row, *const *v_row;  ///< null: packed, row b at query_begin[b] of k and v
    const void *k, *v;
    int64_t stride;
    int page_tokens;
    const int32_t* page_begin;
    const void* const* page;
    int64_t k_offset, v_offset;
    float scale;
    int window, causal, tail;
    const float* bias;
    int64_t bias_query, bias_head;
    bool wide_q, wide_kv;  ///< 16-byte copies are possible
};

/// A row of the batch.
template <class T>
struct AttentionRow {
    /// The query of stacked row r (exact for r * repeat < 2^32).
    __device__ int query_of(int r) const {
        return a.repeat == 1 ? r : static_cast<int>(__umulhi(static_cast<uint32_t>(r), a.reciprocal));
    }

    const AttentionArgs& a;
    int row, kv_head, first_token, queries, keys, offset;  ///< offset: position of query 0
    const T *k, *v;                                        ///< of key 0 (no pages)

    __device__ AttentionRow(const AttentionArgs& args, int b, int head) : a(args), row(b), kv_head(head) {
        first_token = a.query_begin[b];
        queries = a.query_begin[b + 1] - first_token;
        keys = max(a.key_count[b], 0);
        offset = a.tail ? keys - queries : 0;
        k = v = nullptr;
        if (a.page_tokens == 0) {
            const int64_t packed = first_token * a.stride;
            k = (a.k_row ? static_cast<const T*>(a.k_row[b]) : static_cast<const T*>(a.k) + packed) +
                kv_head * a.head_dim;
            v = (a.v_row ? static_cast<const T*>(a.v_row[b]) : static_cast<const T*>(a.v) + packed) +
                kv_head * a.head_dim;
        }
    }
    __device__ int stacked() const { return queries * a.repeat; }
    /// Where stacked row r starts in q and o; and in lse.
    __device__ int64_t lse_at(int r) const {
        const int i = query_of(r);
        return static_cast<int64_t>(first_token + i) * a.heads + kv_head * a.repeat + r - i * a.repeat;
    }
    __device__ int64_t at(int r) const { return lse_at(r) * a.head_dim; }
    /// Keys [first, last) that query i sees.
    __device__ int last(int i) const { return a.causal ? min(max(offset + i + 1, 0), keys) : keys; }
    __device__ int first(int i) const {
        return a.causal && a.window > 0 ? min(max(offset + i - a.window + 1, 0), last(i)) : 0;
    }
    __device__ const float* bias(int r) const {
        if (!a.bias) return nullptr;
        const int i = query_of(r);
        return a.bias + (kv_head * a.repeat + r - i * a.repeat) * a.bias_head + (offset + i) * a.bias_query;
    }
    __device__ const T* key(int j) const {
        if (a.page_tokens == 0) return k + j * a.stride;
        return static_cast<const T*>(a.page[a.page_begin[row] + j / a.page_tokens]) + a.k_offset +
               j % a.page_tokens * a.stride + kv_head * a.head_dim;
    }
    __device__ const T* value(int j) const {
        if (a.page_tokens == 0) return v + j * a.stride;
        return static_cast<const T*>(a.page[a.page_begin[row] + j / a.page_tokens]) + a.v_offset +
               j % a.page_tokens * a.stride + kv_head * a.head_dim;
    }
};

/// A block of work: a row and its block-th part (of stacked queries, or of keys).
struct AttentionItem {
    int32_t row, block;
};

/// Stages the arrays of a call.
AttentionArgs attention_args(Call& call, const Attention& a, const void* q, const void* o);
/// Items of `per_block` of size(row) each.
template <class Size>
std::vector<AttentionItem> attention_items(const Attention& a, int per_block, Size size) {
    std::vector<AttentionItem> items;
    for (int32_t b = 0; b < a.rows; ++b)
        for (int32_t i = 0; i * per_block < size(b); ++i) items.push_back({b, i});
    return items;
}

inline constexpr int attention_threads = 128, attention_block = 64;

/// Rows of `head_dim` values into shared memory, `Width` wide there (zeros beyond), by a block of
/// attention_threads; source(i) is row i's address, null for zeros.
template <int Rows, int Width, class Source>
__device__ __forceinline__ void fetch_rows(bf16* to, int head_dim, bool wide_copies, const void* readable,
                                           Source source) {
    constexpr int vectors = Width / 8, stride = Width + 8;
    for (int i = threadIdx.x; i < Rows * vectors; i += attention_threads) {
        const int row = i / vectors, column = i % vectors * 8;
        const bf16* from = source(row);
        bf16* p = to + row * stride + column;
        if (wide_copies) {
            const bool valid = from && column < head_dim;
            copy_async(p, valid ? static_cast<const void*>(from + column) : readable, valid);
        } else {
#pragma unroll
            for (int j = 0; j < 8; ++j)
                p[j] = from && column + j < head_dim ? from[column + j] : __float2bfloat16_rn(0.0f);
        }
    }
}

}  // namespace polyad::kernels::cuda
