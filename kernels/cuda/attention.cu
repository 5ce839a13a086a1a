// SPDX-License-Identifier: Apache-2.0
// Ragged attention, forward. bf16 with heads of up to 128 goes over tensor cores block by block (online
// softmax; long keys of few queries are split over blocks and put together after); everything else a warp a
// query.
#include <algorithm>

#include "kernels/cuda/attention.cuh"

namespace polyad::kernels::cuda {
namespace {

template <int Width>
struct ForwardShape {
    static constexpr int stride = Width + 8, tile = attention_block * stride;
    static constexpr int bytes = 5 * tile * 2;  // q, two buffers of keys and values
};

/// grid (items, heads_kv, splits). With one split o and lse are written, else sums
/// [items][heads_kv][splits][rows] of head_dim + 2 floats: unnormalised o, maximum and sum.
template <int Width>
__global__ void __launch_bounds__(attention_threads)
    forward_blocks(const AttentionArgs args, const AttentionItem* items, const bf16* q, bf16* o, float* lse,
                   int split_rows, float* partial) {
    using Shape = ForwardShape<Width>;
    extern __shared__ __align__(16) unsigned char shared[];
    bf16* sq = reinterpret_cast<bf16*>(shared);
    bf16* skv = sq + Shape::tile;
    const AttentionItem item = items[blockIdx.x];
    const AttentionRow<bf16> row(args, item.row, blockIdx.y);
    const int r0 = item.block * attention_block, count = min(attention_block, row.stacked() - r0);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;

    // Keys that any query of the block sees, and this split's part of them in whole tiles.
    int key_begin = 0, key_end = 0;
    if (count > 0) {
        key_begin = row.first(r0 / args.repeat);
        key_end = row.last((r0 + count - 1) / args.repeat);
    }
    const int tiles = max(0, (key_end - key_begin + attention_block - 1) / attention_block);
    const int per_split = (tiles + gridDim.z - 1) / gridDim.z;
    const int tile_begin = min(tiles, static_cast<int>(blockIdx.z) * per_split);
    const int tile_end = min(tiles, tile_begin + per_split);

    fetch_rows<attention_block, Width>(sq, args.head_dim, args.wide_q, q,
                                       [&](int r) { return r < count ? q + row.at(r0 + r) : nullptr; });
    const auto fetch = [&](int tile) {
        if (tile < tile_end) {
            bf16* to = skv + (tile - tile_begin) % 2 * 2 * Shape::tile;
            const int j0 = key_begin + tile * attention_block;
            fetch_rows<attention_block, Width>(to, args.head_dim, args.wide_kv, q, [&](int j) {
                return j0 + j < key_end ? row.key(j0 + j) : nullptr;
            });
            fetch_rows<attention_block, Width>(to + Shape::tile, args.head_dim, args.wide_kv, q, [&](int j) {
                return j0 + j < key_end ? row.value(j0 + j) : nullptr;
            });
        }
        commit_copies();
    };
    fetch(tile_begin);

    // This thread's two rows of the warp's sixteen.
    int first[2], last[2];
    const float* bias[2] = {};
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        const int r = r0 + warp * 16 + lane / 4 + h * 8;
        const bool used = r < r0 + count;
        first[h] = used ? row.first(row.query_of(r)) : 0;
        last[h] = used ? row.last(row.query_of(r)) : 0;
        if (used) bias[h] = row.bias(r);
    }
    float sums[Width / 8][4] = {}, top[2] = {-INFINITY, -INFINITY}, total[2] = {};
    const float scale = args.scale * log2_e;
    for (int tile = tile_begin; tile < tile_end; ++tile) {
        wait_copies<0>();
        __syncthreads();
        fetch(tile + 1);
        if (warp * 16 >= count) continue;  // decoding fills few rows
        const bf16* sk = skv + (tile - tile_begin) % 2 * 2 * Shape::tile;
        const bf16* sv = sk + Shape::tile;
        const int j0 = key_begin + tile * attention_block;
        float s[attention_block / 8][4] = {};
#pragma unroll
        for (int k = 0; k < Width; k += 16) {
            uint32_t a[4];
            load_a(a, sq + warp * 16 * Shape::stride + k, Shape::stride);
#pragma unroll
            for (int n = 0; n < attention_block; n += 16) {
                uint32_t b[4];
                load_b(b, sk + n * Shape::stride + k, Shape::stride);
                multiply(s[n / 8], a, b);
                multiply(s[n / 8 + 1], a, b + 2);
            }
        }
        float now[2] = {top[0], top[1]};
#pragma unroll
        for (int n = 0; n < attention_block / 8; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int h = i / 2, j = j0 + n * 8 + lane % 4 * 2 + i % 2;
                const bool seen = j >= first[h] && j < last[h];
                float x = s[n][i] * scale;
                if (seen && bias[h]) x += bias[h][j] * log2_e;
                s[n][i] = seen ? x : -INFINITY;
                now[h] = fmaxf(now[h], s[n][i]);
            }
        float shift[2], keep[2], more[2] = {};
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            now[h] = fmaxf(now[h], __shfl_xor_sync(0xffffffffu, now[h], 1));
            now[h] = fmaxf(now[h], __shfl_xor_sync(0xffffffffu, now[h], 2));
            shift[h] = now[h] == -INFINITY ? 0.0f : now[h];
            keep[h] = exp2f(top[h] - shift[h]);
            top[h] = now[h];
        }
#pragma unroll
        for (int n = 0; n < attention_block / 8; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                s[n][i] = exp2f(s[n][i] - shift[i / 2]);
                more[i / 2] += s[n][i];
            }
#pragma unroll
        for (int h = 0; h < 2; ++h) total[h] = total[h] * keep[h] + more[h];
#pragma unroll
        for (int n = 0; n < Width / 8; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) sums[n][i] *= keep[i / 2];
#pragma unroll
        for (int k = 0; k < attention_block; k += 16) {
            const float *low = s[k / 8], *high = s[k / 8 + 1];
            const uint32_t a[4] = {pack(low[0], low[1]), pack(low[2], low[3]), pack(high[0], high[1]),
                                   pack(high[2], high[3])};
#pragma unroll
            for (int n = 0; n < Width; n += 16) {
                uint32_t b[4];
                load_b_transposed(b, sv + k * Shape::stride + n, Shape::stride);
                multiply(sums[n / 8], a, b);
                multiply(sums[n / 8 + 1], a, b + 2);
            }
        }
    }
    wait_copies<0>();
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        total[h] += __shfl_xor_sync(0xffffffffu, total[h], 1);
        total[h] += __shfl_xor_sync(0xffffffffu, total[h], 2);
        const int r = warp * 16 + lane / 4 + h * 8;
        if (r >= count) continue;
        if (gridDim.z > 1) {
            float* to =
                partial +
                ((static_cast<int64_t>(blockIdx.x) * gridDim.y + blockIdx.y) * gridDim.z + blockIdx.z) *
                    split_rows * (args.head_dim + 2) +
                static_cast<int64_t>(r) * (args.head_dim + 2);
            if (lane % 4 == 0) to[args.head_dim] = top[h], to[args.head_dim + 1] = total[h];
#pragma unroll
            for (int n = 0; n < Width / 8; ++n)
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    const int c = n * 8 + lane % 4 * 2 + i;
                    if (c < args.head_dim) to[c] = sums[n][h * 2 + i];
                }
            continue;
        }
        const float share = total[h] > 0.0f ? 1.0f / total[h] : 0.0f;
        bf16* to = o + row.at(r0 + r);
#pragma unroll
        for (int n = 0; n < Width / 8; ++n) {
            const int c = n * 8 + lane % 4 * 2;
            const float x = sums[n][h * 2] * share, y = sums[n][h * 2 + 1] * share;
            if (args.wide_q) {
                if (c < args.head_dim) *reinterpret_cast<uint32_t*>(to + c) = pack(x, y);
            } else {
                if (c < args.head_dim) to[c] = __float2bfloat16_rn(x);
                if (c + 1 < args.head_dim) to[c + 1] = __float2bfloat16_rn(y);
            }
        }
        if (lse && lane % 4 == 0)
            lse[row.lse_at(r0 + r)] = total[h] > 0.0f ? (top[h] + log2f(total[h])) * ln_2 : -INFINITY;
    }
}

/// A warp a stacked row: puts the splits together. grid (items, heads_kv, rows / 4).
__global__ void __launch_bounds__(attention_threads)
    combine_splits(const AttentionArgs args, const AttentionItem* items, const float* partial, int splits,
                   int split_rows, bf16* o, float* lse) {
    const AttentionItem item = items[blockIdx.x];
    const AttentionRow<bf16> row(args, item.row, blockIdx.y);
    const int r = blockIdx.z * (attention_threads / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    const int r0 = item.block * attention_block;
    if (r >= min(attention_block, row.stacked() - r0)) return;
    const int width = args.head_dim + 2;
    const int64_t step = static_cast<int64_t>(split_rows) * width;
    const float* from = partial +
                        (static_cast<int64_t>(blockIdx.x) * gridDim.y + blockIdx.y) * splits * step +
                        static_cast<int64_t>(r) * width;
    float top = -INFINITY, total = 0.0f;
    for (int s = 0; s < splits; ++s) top = fmaxf(top, from[s * step + args.head_dim]);
    const float shift = top == -INFINITY ? 0.0f : top;
    for (int s = 0; s < splits; ++s)
        total += from[s * step + args.head_dim + 1] * exp2f(from[s * step + args.head_dim] - shift);
    const float share = total > 0.0f ? 1.0f / total : 0.0f;
    bf16* to = o + row.at(r0 + r);
    for (int c = lane; c < args.head_dim; c += 32) {
        float sum = 0.0f;
        for (int s = 0; s < splits; ++s)
            sum += from[s * step + c] * exp2f(from[s * step + args.head_dim] - shift);
        to[c] = __float2bfloat16_rn(sum * share);
    }
    if (lse && lane == 0) lse[row.lse_at(r0 + r)] = total > 0.0f ? (top + log2f(total)) * ln_2 : -INFINITY;
}

/// A warp a query and head, lanes = keys, then values; heads of up to 256.
template <class T>
__global__ void __launch_bounds__(attention_threads)
    forward_queries(const AttentionArgs args, int64_t queries, const T* q, T* o, float* lse) {
    const int64_t at = (static_cast<int64_t>(blockIdx.x) * attention_threads + threadIdx.x) / 32;
    if (at >= queries * args.heads) return;
    const int token = static_cast<int>(at / args.heads), head = static_cast<int>(at % args.heads);
    const int lane = threadIdx.x % 32;
    const AttentionRow<T> row(args, row_of(args.query_begin, args.rows, token), head / args.repeat);
    const int i = token - row.first_token, first = row.first(i), last = row.last(i);
    const float* bias = row.bias(i * args.repeat + head % args.repeat);
    const T* x = q + at * args.head_dim;
    float sums[8] = {}, top = -INFINITY, total = 0.0f;
    for (int j0 = first; j0 < last; j0 += 32) {
        float s = -INFINITY;
        if (j0 + lane < last) {
            const T* key = row.key(j0 + lane);
            s = 0.0f;
            for (int c = 0; c < args.head_dim; ++c) s = fmaf(to_float(x[c]), to_float(key[c]), s);
            s = s * args.scale + (bias ? bias[j0 + lane] : 0.0f);
        }
        const float now = fmaxf(top, warp_max(s)), keep = expf(top - now), p = expf(s - now);
        total = total * keep + warp_sum(p);
        top = now;
#pragma unroll
        for (int c = 0; c < 8; ++c) sums[c] *= keep;
        for (int j = 0; j < min(32, last - j0); ++j) {
            const float weight = __shfl_sync(0xffffffffu, p, j);
            const T* value = row.value(j0 + j);
#pragma unroll
            for (int c = 0; c < 8; ++c)
                if (c * 32 + lane < args.head_dim)
                    sums[c] = fmaf(weight, to_float(value[c * 32 + lane]), sums[c]);
        }
    }
#pragma unroll
    for (int c = 0; c < 8; ++c)
        if (c * 32 + lane < args.head_dim)
            o[at * args.head_dim + c * 32 + lane] = from_float<T>(total > 0.0f ? sums[c] / total : 0.0f);
    if (lse && lane == 0) lse[at] = total > 0.0f ? top + logf(total) : -INFINITY;
}

template <int Width>
void launch_blocks(Call& call, const Attention& a, const AttentionArgs& args, const void* q, void* o,
                   float* lse) {
    const int repeat = args.repeat;
    int longest_queries = 0, longest_keys = 0;
    for (int32_t b = 0; b < a.rows; ++b) {
        longest_queries = std::max(longest_queries, a.query_begin[b + 1] - a.query_begin[b]);
        longest_keys = std::max(longest_keys, a.key_count[b]);
    }
    const std::vector<AttentionItem> items = attention_items(
        a, attention_block, [&](int32_t b) { return (a.query_begin[b + 1] - a.query_begin[b]) * repeat; });
    if (items.empty()) return;
    // Few blocks over long keys: about two blocks a multiprocessor, of at least two tiles of keys.
    const int64_t blocks = static_cast<int64_t>(items.size()) * args.heads_kv;
    const int64_t most = (longest_keys + 2 * attention_block - 1) / (2 * attention_block);
    const int splits = static_cast<int>(
        std::max<int64_t>(1, std::min<int64_t>({most, 2 * call.multiprocessors() / blocks, 64})));
    const int split_rows = std::min(attention_block, longest_queries * repeat);
    float* partial =
        splits > 1 ? call.scratch<float>(blocks * splits * split_rows * (args.head_dim + 2)) : nullptr;
    const AttentionItem* staged = call.stage(items);
    call.allow_shared(forward_blocks<Width>, ForwardShape<Width>::bytes);
    const dim3 grid(static_cast<unsigned>(items.size()), static_cast<unsigned>(args.heads_kv),
                    static_cast<unsigned>(splits));
    forward_blocks<Width><<<grid, attention_threads, ForwardShape<Width>::bytes, call.stream()>>>(
        args, staged, static_cast<const bf16*>(q), static_cast<bf16*>(o), lse, split_rows, partial);
    call.launched();
    if (splits == 1) return;
    combine_splits<<<dim3(grid.x, grid.y, blocks_for(split_rows, attention_threads / 32)), attention_threads,
                     0, call.stream()>>>(args, staged, partial, splits, split_rows, static_cast<bf16*>(o),
                                         lse);
    call.launched();
}

}  // namespace

AttentionArgs attention_args(Call& call, const Attention& a, const void* q, const void* o) {
    if (a.heads_kv <= 0 || a.heads % a.heads_kv != 0 || a.head_dim <= 0 || a.head_dim > 256)
        fail("attention: %d query heads over %d key heads of %d; wanted: a multiple, and heads of 1 to 256",
             a.heads, a.heads_kv, a.head_dim);
    AttentionArgs args{};
    args.rows = a.rows;
    args.heads = a.heads;
    args.heads_kv = a.heads_kv;
    args.head_dim = a.head_dim;
    args.repeat = a.heads / a.heads_kv;
    args.reciprocal = static_cast<uint32_t>(((uint64_t{1} << 32) + args.repeat - 1) / args.repeat);
    args.stride = a.kv_stride;
    args.scale = a.scale;
    args.window = a.window;
    args.causal = a.causal;
    args.tail = a.query_position0_is_tail;
    args.bias = a.bias;
    args.bias_query = a.bias_query_stride;
    args.bias_head = a.bias_head_stride;
    const int64_t element = a.type == Float::bf16 ? 2 : 4;
    const bool whole = a.head_dim % 8 == 0;
    args.wide_q = whole && aligned16(q) && aligned16(o);
    args.wide_kv = whole && a.kv_stride % 8 == 0;
    args.query_begin = call.stage(a.query_begin, a.rows + 1);
    args.key_count = call.stage(a.key_count, a.rows);
    if (a.page_tokens > 0) {
        int32_t pages = 0;
        for (int32_t b = 0; b < a.rows; ++b)
            pages = std::max(pages, a.page_begin[b] + (a.key_count[b] + a.page_tokens - 1) / a.page_tokens);
        for (int32_t b = 0; b < a.rows; ++b)
            for (int32_t p = 0; p * a.page_tokens < a.key_count[b]; ++p)
                args.wide_kv = args.wide_kv && aligned16(a.page[a.page_begin[b] + p]);
        args.wide_kv = args.wide_kv && a.k_offset % 8 == 0 && a.v_offset % 8 == 0;
        args.page_tokens = a.page_tokens;
        args.page_begin = call.stage(a.page_begin, a.rows);
        args.page = call.stage(a.page, pages);
        args.k_offset = a.k_offset;
        args.v_offset = a.v_offset;
        return args;
    }
    bool packed = a.rows > 0;
    for (int32_t b = 0; b < a.rows; ++b) {
        args.wide_kv = args.wide_kv && aligned16(a.k_row[b]) && aligned16(a.v_row[b]);
        const int64_t bytes = (a.query_begin[b] - a.query_begin[0]) * a.kv_stride * element;
        packed = packed && a.k_row[b] == static_cast<const char*>(a.k_row[0]) + bytes &&
                 a.v_row[b] == static_cast<const char*>(a.v_row[0]) + bytes;
    }
    if (packed && a.query_begin[0] == 0 && !call.is_bound(a.k_row)) {
        args.k = a.k_row[0];
        args.v = a.v_row[0];
    } else {
        args.k_row = call.stage(a.k_row, a.rows);
        args.v_row = call.stage(a.v_row, a.rows);
    }
    return args;
}

void attention(const Attention& a, const void* q, void* o, float* lse) {
    run("attention", [&](Call& call) {
        const int64_t queries = a.rows > 0 ? a.query_begin[a.rows] : 0;
        if (queries == 0) return;
        const AttentionArgs args = attention_args(call, a, q, o);
        if (a.type == Float::bf16 && a.head_dim <= 64) return launch_blocks<64>(call, a, args, q, o, lse);
        if (a.type == Float::bf16 && a.head_dim <= 128) return launch_blocks<128>(call, a, args, q, o, lse);
        with_type(a.type, [&](auto element) {
            using T = decltype(element);
            forward_queries<<<blocks_for(queries * a.heads * 32, attention_threads), attention_threads, 0,
                              call.stream()>>>(args, queries, static_cast<const T*>(q), static_cast<T*>(o),
                                               lse);
            call.launched();
        });
    });
}

}  // namespace polyad::kernels::cuda
