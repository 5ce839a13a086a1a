// SPDX-License-Identifier: Apache-2.0
// Ragged attention, backward:
//   P = exp(S - lse)   dV = P^T dO   dP = dO V^T   dS = scale P (dP - rowsum(dO O))   dQ = dS K   dK = dS^T Q
// with S recomputed. One kernel owns blocks of keys (dK, dV), one blocks of queries (dQ): nothing is shared,
// sums have one order.
#include <algorithm>

#include "kernels/cuda/attention.cuh"

namespace polyad::kernels::cuda {
namespace {

/// delta[t, h] = o . do: a warp each.
template <class T>
__global__ void __launch_bounds__(attention_threads)
    row_products(const T* o, const T* d_o, int64_t count, int head_dim, float* delta) {
    const int64_t at = (static_cast<int64_t>(blockIdx.x) * attention_threads + threadIdx.x) / 32;
    if (at >= count) return;
    float sum = 0.0f;
    for (int c = threadIdx.x % 32; c < head_dim; c += 32)
        sum = fmaf(to_float(o[at * head_dim + c]), to_float(d_o[at * head_dim + c]), sum);
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) delta[at] = sum;
}

/// Shared arrays of one tile of stacked queries.
template <int Queries>
struct QueryFacts {
    float shift[Queries], delta[Queries];  ///< lse in units of log2(e)
    int first[Queries], last[Queries];
};

template <int Width>
struct KeysShape {
    static constexpr int queries = Width == 64 ? 64 : 32;  // a tile's registers have to fit
    static constexpr int stride = Width + 8, keys_tile = attention_block * stride,
                         queries_tile = queries * stride;
    static constexpr int tiles = (2 * keys_tile + 4 * queries_tile) * 2;
    static constexpr int bytes = tiles + 2 * static_cast<int>(sizeof(QueryFacts<queries>));
};

/// grid (items of keys, heads_kv). Everything transposed: a warp's rows are 16 keys, columns are queries.
template <int Width>
__global__ void __launch_bounds__(attention_threads)
    backward_keys(const AttentionArgs args, const AttentionItem* items, const bf16* q, const bf16* d_o,
                  const float* lse, const float* delta, void* const* dk_row, void* const* dv_row) {
    using Shape = KeysShape<Width>;
    constexpr int queries = Shape::queries;
    extern __shared__ __align__(16) unsigned char shared[];
    bf16* sk = reinterpret_cast<bf16*>(shared);
    bf16* sv = sk + Shape::keys_tile;
    bf16* sq = sv + Shape::keys_tile;
    auto* facts = reinterpret_cast<QueryFacts<queries>*>(shared + Shape::tiles);
    const AttentionItem item = items[blockIdx.x];
    const AttentionRow<bf16> row(args, item.row, blockIdx.y);
    const int j0 = item.block * attention_block, keys = min(attention_block, row.keys - j0);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;

    fetch_rows<attention_block, Width>(sk, args.head_dim, args.wide_kv, q,
                                       [&](int j) { return j < keys ? row.key(j0 + j) : nullptr; });
    fetch_rows<attention_block, Width>(sv, args.head_dim, args.wide_kv, q,
                                       [&](int j) { return j < keys ? row.value(j0 + j) : nullptr; });
    // Queries that see any of the keys.
    int i_begin = 0, i_end = row.queries;
    if (args.causal) {
        i_begin = max(0, j0 - row.offset);
        if (args.window > 0) i_end = min(i_end, j0 + keys - 1 + args.window - row.offset);
    }
    const int r_begin = i_begin * args.repeat, r_end = max(r_begin, i_end * args.repeat);
    const int tiles = (r_end - r_begin + queries - 1) / queries;
    const auto fetch = [&](int tile) {
        if (tile < tiles) {
            const int r0 = r_begin + tile * queries;
            bf16* to = sq + tile % 2 * 2 * Shape::queries_tile;
            fetch_rows<queries, Width>(to, args.head_dim, args.wide_q, q,
                                       [&](int r) { return r0 + r < r_end ? q + row.at(r0 + r) : nullptr; });
            fetch_rows<queries, Width>(to + Shape::queries_tile, args.head_dim, args.wide_q, q, [&](int r) {
                return r0 + r < r_end ? d_o + row.at(r0 + r) : nullptr;
            });
            if (threadIdx.x < queries) {
                QueryFacts<queries>& f = facts[tile % 2];
                const int r = r0 + threadIdx.x;
                const bool used = r < r_end;
                const float l = used ? lse[row.lse_at(r)] : 0.0f;
                f.shift[threadIdx.x] = l == -INFINITY ? 0.0f : l * log2_e;
                f.delta[threadIdx.x] = used ? delta[row.lse_at(r)] : 0.0f;
                f.first[threadIdx.x] = used ? row.first(row.query_of(r)) : 0;
                f.last[threadIdx.x] = used ? row.last(row.query_of(r)) : 0;
            }
        }
        commit_copies();
    };
    fetch(0);
    float dk[Width / 8][4] = {}, dv[Width / 8][4] = {};
    const float scale = args.scale * log2_e;
    for (int tile = 0; tile < tiles; ++tile) {
        wait_copies<0>();
        __syncthreads();
        fetch(tile + 1);
        const bf16* tq = sq + tile % 2 * 2 * Shape::queries_tile;
        const bf16* to = tq + Shape::queries_tile;
        const QueryFacts<queries>& f = facts[tile % 2];
        float s[queries / 8][4] = {}, dp[queries / 8][4] = {};
#pragma unroll
        for (int k = 0; k < Width; k += 16) {
            uint32_t key[4], value[4];
            load_a(key, sk + warp * 16 * Shape::stride + k, Shape::stride);
            load_a(value, sv + warp * 16 * Shape::stride + k, Shape::stride);
#pragma unroll
            for (int n = 0; n < queries; n += 16) {
                uint32_t b[4];
                load_b(b, tq + n * Shape::stride + k, Shape::stride);
                multiply(s[n / 8], key, b);
                multiply(s[n / 8 + 1], key, b + 2);
                load_b(b, to + n * Shape::stride + k, Shape::stride);
                multiply(dp[n / 8], value, b);
                multiply(dp[n / 8 + 1], value, b + 2);
            }
        }
#pragma unroll
        for (int n = 0; n < queries / 8; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int c = n * 8 + lane % 4 * 2 + i % 2, j = j0 + warp * 16 + lane / 4 + i / 2 * 8;
                float p = 0.0f;
                if (j >= f.first[c] && j < f.last[c]) {
                    float x = s[n][i] * scale;
                    if (args.bias) x += row.bias(r_begin + tile * queries + c)[j] * log2_e;
                    p = exp2f(x - f.shift[c]);
                }
                s[n][i] = p;
                dp[n][i] = p * (dp[n][i] - f.delta[c]) * args.scale;
            }
#pragma unroll
        for (int k = 0; k < queries; k += 16) {
            const float *p0 = s[k / 8], *p1 = s[k / 8 + 1], *d0 = dp[k / 8], *d1 = dp[k / 8 + 1];
            const uint32_t p[4] = {pack(p0[0], p0[1]), pack(p0[2], p0[3]), pack(p1[0], p1[1]),
                                   pack(p1[2], p1[3])};
            const uint32_t d[4] = {pack(d0[0], d0[1]), pack(d0[2], d0[3]), pack(d1[0], d1[1]),
                                   pack(d1[2], d1[3])};
#pragma unroll
            for (int n = 0; n < Width; n += 16) {
                uint32_t b[4];
                load_b_transposed(b, to + k * Shape::stride + n, Shape::stride);
                multiply(dv[n / 8], p, b);
                multiply(dv[n / 8 + 1], p, b + 2);
                load_b_transposed(b, tq + k * Shape::stride + n, Shape::stride);
                multiply(dk[n / 8], d, b);
                multiply(dk[n / 8 + 1], d, b + 2);
            }
        }
    }
    wait_copies<0>();
    bf16* dk_to = static_cast<bf16*>(dk_row[item.row]) + row.kv_head * args.head_dim;
    bf16* dv_to = static_cast<bf16*>(dv_row[item.row]) + row.kv_head * args.head_dim;
#pragma unroll
    for (int n = 0; n < Width / 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int j = warp * 16 + lane / 4 + i / 2 * 8, c = n * 8 + lane % 4 * 2 + i % 2;
            if (j >= keys || c >= args.head_dim) continue;
            dk_to[(j0 + j) * args.stride + c] = __float2bfloat16_rn(dk[n][i]);
            dv_to[(j0 + j) * args.stride + c] = __float2bfloat16_rn(dv[n][i]);
        }
}

template <int Width>
struct QueriesShape {
    static constexpr int stride = Width + 8, tile = attention_block * stride;
    static constexpr int bytes = 6 * tile * 2;  // q, do, two buffers of keys and values
};

/// grid (items of stacked queries, heads_kv).
template <int Width>
__global__ void __launch_bounds__(attention_threads)
    backward_queries(const AttentionArgs args, const AttentionItem* items, const bf16* q, const bf16* d_o,
                     const float* lse, const float* delta, bf16* dq) {
    using Shape = QueriesShape<Width>;
    extern __shared__ __align__(16) unsigned char shared[];
    bf16* sq = reinterpret_cast<bf16*>(shared);
    bf16* so = sq + Shape::tile;
    bf16* skv = so + Shape::tile;
    const AttentionItem item = items[blockIdx.x];
    const AttentionRow<bf16> row(args, item.row, blockIdx.y);
    const int r0 = item.block * attention_block, count = min(attention_block, row.stacked() - r0);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int key_begin = row.first(r0 / args.repeat), key_end = row.last((r0 + count - 1) / args.repeat);
    const int tiles = max(0, (key_end - key_begin + attention_block - 1) / attention_block);
    fetch_rows<attention_block, Width>(sq, args.head_dim, args.wide_q, q,
                                       [&](int r) { return r < count ? q + row.at(r0 + r) : nullptr; });
    fetch_rows<attention_block, Width>(so, args.head_dim, args.wide_q, q,
                                       [&](int r) { return r < count ? d_o + row.at(r0 + r) : nullptr; });
    const auto fetch = [&](int tile) {
        if (tile < tiles) {
            bf16* to = skv + tile % 2 * 2 * Shape::tile;
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
    fetch(0);
    int first[2], last[2];
    float shift[2], mean[2];
    const float* bias[2] = {};
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        const int r = r0 + warp * 16 + lane / 4 + h * 8;
        const bool used = r < r0 + count;
        first[h] = used ? row.first(row.query_of(r)) : 0;
        last[h] = used ? row.last(row.query_of(r)) : 0;
        const float l = used ? lse[row.lse_at(r)] : 0.0f;
        shift[h] = l == -INFINITY ? 0.0f : l * log2_e;
        mean[h] = used ? delta[row.lse_at(r)] : 0.0f;
        if (used) bias[h] = row.bias(r);
    }
    float sums[Width / 8][4] = {};
    const float scale = args.scale * log2_e;
    for (int tile = 0; tile < tiles; ++tile) {
        wait_copies<0>();
        __syncthreads();
        fetch(tile + 1);
        const bf16* sk = skv + tile % 2 * 2 * Shape::tile;
        const bf16* sv = sk + Shape::tile;
        const int j0 = key_begin + tile * attention_block;
        float s[attention_block / 8][4] = {}, dp[attention_block / 8][4] = {};
#pragma unroll
        for (int k = 0; k < Width; k += 16) {
            uint32_t a[4], d[4];
            load_a(a, sq + warp * 16 * Shape::stride + k, Shape::stride);
            load_a(d, so + warp * 16 * Shape::stride + k, Shape::stride);
#pragma unroll
            for (int n = 0; n < attention_block; n += 16) {
                uint32_t b[4];
                load_b(b, sk + n * Shape::stride + k, Shape::stride);
                multiply(s[n / 8], a, b);
                multiply(s[n / 8 + 1], a, b + 2);
                load_b(b, sv + n * Shape::stride + k, Shape::stride);
                multiply(dp[n / 8], d, b);
                multiply(dp[n / 8 + 1], d, b + 2);
            }
        }
#pragma unroll
        for (int n = 0; n < attention_block / 8; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int h = i / 2, j = j0 + n * 8 + lane % 4 * 2 + i % 2;
                float ds = 0.0f;
                if (j >= first[h] && j < last[h]) {
                    float x = s[n][i] * scale;
                    if (bias[h]) x += bias[h][j] * log2_e;
                    ds = exp2f(x - shift[h]) * (dp[n][i] - mean[h]) * args.scale;
                }
                dp[n][i] = ds;
            }
#pragma unroll
        for (int k = 0; k < attention_block; k += 16) {
            const float *d0 = dp[k / 8], *d1 = dp[k / 8 + 1];
            const uint32_t d[4] = {pack(d0[0], d0[1]), pack(d0[2], d0[3]), pack(d1[0], d1[1]),
                                   pack(d1[2], d1[3])};
#pragma unroll
            for (int n = 0; n < Width; n += 16) {
                uint32_t b[4];
                load_b_transposed(b, sk + k * Shape::stride + n, Shape::stride);
                multiply(sums[n / 8], d, b);
                multiply(sums[n / 8 + 1], d, b + 2);
            }
        }
    }
    wait_copies<0>();
#pragma unroll
    for (int n = 0; n < Width / 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int r = warp * 16 + lane / 4 + i / 2 * 8, c = n * 8 + lane % 4 * 2 + i % 2;
            if (r < count && c < args.head_dim) dq[row.at(r0 + r) + c] = __float2bfloat16_rn(sums[n][i]);
        }
}

// ---- any type, heads of up to 256: a warp a query, then a warp a key ----
template <class T>
__device__ __forceinline__ void two_products(const T* a, const T* b, const T* c, const T* d, int width,
                                             float* x, float* y) {
    *x = *y = 0.0f;
    for (int i = 0; i < width; ++i) {
        *x = fmaf(to_float(a[i]), to_float(b[i]), *x);
        *y = fmaf(to_float(c[i]), to_float(d[i]), *y);
    }
}

template <class T>
__global__ void __launch_bounds__(attention_threads)
    backward_one_query(const AttentionArgs args, int64_t queries, const T* q, const T* d_o, const float* lse,
                       const float* delta, T* dq) {
    const int64_t at = (static_cast<int64_t>(blockIdx.x) * attention_threads + threadIdx.x) / 32;
    if (at >= queries * args.heads) return;
    const int token = static_cast<int>(at / args.heads), head = static_cast<int>(at % args.heads);
    const int lane = threadIdx.x % 32, d = args.head_dim;
    const AttentionRow<T> row(args, row_of(args.query_begin, args.rows, token), head / args.repeat);
    const int i = token - row.first_token, first = row.first(i), last = row.last(i);
    const float* bias = row.bias(i * args.repeat + head % args.repeat);
    float sums[8] = {};
    for (int j0 = first; j0 < last; j0 += 32) {
        float ds = 0.0f;
        if (j0 + lane < last) {
            float s, dp;
            two_products(q + at * d, row.key(j0 + lane), d_o + at * d, row.value(j0 + lane), d, &s, &dp);
            s = s * args.scale + (bias ? bias[j0 + lane] : 0.0f);
            ds = expf(s - lse[at]) * (dp - delta[at]) * args.scale;
        }
        for (int j = 0; j < min(32, last - j0); ++j) {
            const float weight = __shfl_sync(0xffffffffu, ds, j);
            const T* key = row.key(j0 + j);
#pragma unroll
            for (int c = 0; c < 8; ++c)
                if (c * 32 + lane < d) sums[c] = fmaf(weight, to_float(key[c * 32 + lane]), sums[c]);
        }
    }
#pragma unroll
    for (int c = 0; c < 8; ++c)
        if (c * 32 + lane < d) dq[at * d + c * 32 + lane] = from_float<T>(sums[c]);
}

/// grid (keys / 4, rows, heads_kv).
template <class T>
__global__ void __launch_bounds__(attention_threads)
    backward_one_key(const AttentionArgs args, const T* q, const T* d_o, const float* lse, const float* delta,
                     void* const* dk_row, void* const* dv_row) {
    const AttentionRow<T> row(args, blockIdx.y, blockIdx.z);
    const int j = blockIdx.x * (attention_threads / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (j >= row.keys) return;
    const int d = args.head_dim;
    float dk[8] = {}, dv[8] = {};
    for (int r0 = 0; r0 < row.stacked(); r0 += 32) {
        float p = 0.0f, ds = 0.0f;
        const int r = r0 + lane;
        if (r < row.stacked() && j >= row.first(row.query_of(r)) && j < row.last(row.query_of(r))) {
            float s, dp;
            two_products(q + row.at(r), row.key(j), d_o + row.at(r), row.value(j), d, &s, &dp);
            const float* bias = row.bias(r);
            s = s * args.scale + (bias ? bias[j] : 0.0f);
            p = expf(s - lse[row.lse_at(r)]);
            ds = p * (dp - delta[row.lse_at(r)]) * args.scale;
        }
        if (!__any_sync(0xffffffffu, p != 0.0f || ds != 0.0f)) continue;
        for (int i = 0; i < min(32, row.stacked() - r0); ++i) {
            const float weight = __shfl_sync(0xffffffffu, p, i), slope = __shfl_sync(0xffffffffu, ds, i);
            const int64_t at = row.at(r0 + i);
#pragma unroll
            for (int c = 0; c < 8; ++c)
                if (c * 32 + lane < d) {
                    dv[c] = fmaf(weight, to_float(d_o[at + c * 32 + lane]), dv[c]);
                    dk[c] = fmaf(slope, to_float(q[at + c * 32 + lane]), dk[c]);
                }
        }
    }
    T* dk_to = static_cast<T*>(dk_row[blockIdx.y]) + j * args.stride + row.kv_head * d;
    T* dv_to = static_cast<T*>(dv_row[blockIdx.y]) + j * args.stride + row.kv_head * d;
#pragma unroll
    for (int c = 0; c < 8; ++c)
        if (c * 32 + lane < d) {
            dk_to[c * 32 + lane] = from_float<T>(dk[c]);
            dv_to[c * 32 + lane] = from_float<T>(dv[c]);
        }
}

struct Gradients {
    const float *lse, *delta;
    void* dq;
    void *const *dk_row, *const *dv_row;
};

template <int Width>
void launch_blocks(Call& call, const Attention& a, const AttentionArgs& args, const void* q, const void* d_o,
                   const Gradients& g) {
    const std::vector<AttentionItem> keys =
        attention_items(a, attention_block, [&](int32_t b) { return a.key_count[b]; });
    const std::vector<AttentionItem> queries = attention_items(a, attention_block, [&](int32_t b) {
        return (a.query_begin[b + 1] - a.query_begin[b]) * args.repeat;
    });
    const auto heads = static_cast<unsigned>(args.heads_kv);
    if (!keys.empty()) {
        call.allow_shared(backward_keys<Width>, KeysShape<Width>::bytes);
        backward_keys<Width>
            <<<dim3(static_cast<unsigned>(keys.size()), heads), attention_threads, KeysShape<Width>::bytes,
               call.stream()>>>(args, call.stage(keys), static_cast<const bf16*>(q),
                                static_cast<const bf16*>(d_o), g.lse, g.delta, g.dk_row, g.dv_row);
        call.launched();
    }
    if (queries.empty()) return;
    call.allow_shared(backward_queries<Width>, QueriesShape<Width>::bytes);
    backward_queries<Width>
        <<<dim3(static_cast<unsigned>(queries.size()), heads), attention_threads, QueriesShape<Width>::bytes,
           call.stream()>>>(args, call.stage(queries), static_cast<const bf16*>(q),
                            static_cast<const bf16*>(d_o), g.lse, g.delta, static_cast<bf16*>(g.dq));
    call.launched();
}

template <class T>
void launch_simple(Call& call, const Attention& a, const AttentionArgs& args, int64_t queries, const T* q,
                   const T* d_o, const Gradients& g) {
    int longest = 0;
    for (int32_t b = 0; b < a.rows; ++b) longest = std::max(longest, a.key_count[b]);
    if (queries > 0) {
        backward_one_query<<<blocks_for(queries * args.heads * 32, attention_threads), attention_threads, 0,
                             call.stream()>>>(args, queries, q, d_o, g.lse, g.delta, static_cast<T*>(g.dq));
        call.launched();
    }
    if (longest == 0) return;
    backward_one_key<<<dim3(blocks_for(longest, attention_threads / 32), static_cast<unsigned>(a.rows),
                            static_cast<unsigned>(args.heads_kv)),
                       attention_threads, 0, call.stream()>>>(args, q, d_o, g.lse, g.delta, g.dk_row,
                                                              g.dv_row);
    call.launched();
}

}  // namespace

void attention_backward(const Attention& a, const void* q, const void* o, const void* do_, const float* lse,
                        void* dq, void* const* dk_row, void* const* dv_row) {
    run("attention_backward", [&](Call& call) {
        if (a.rows <= 0) return;
        if (a.page_tokens > 0) fail("attention_backward: keys in pages have no backward pass");
        const int64_t queries = a.query_begin[a.rows], count = queries * a.heads;
        AttentionArgs args = attention_args(call, a, q, o);
        args.wide_q = args.wide_q && aligned16(do_);
        float* delta = call.scratch<float>(count + 1);
        const Gradients g{lse, delta, dq, call.stage(dk_row, a.rows), call.stage(dv_row, a.rows)};
        with_type(a.type, [&](auto element) {
            using T = decltype(element);
            if (count > 0) {
                row_products<<<blocks_for(count * 32, attention_threads), attention_threads, 0,
                               call.stream()>>>(static_cast<const T*>(o), static_cast<const T*>(do_), count,
                                                a.head_dim, delta);
                call.launched();
            }
            // Wide heads' tiles want more than the 99 KiB that some devices have (8.6, 8.9, 12.0).
            constexpr int wanted = std::max(KeysShape<128>::bytes, QueriesShape<128>::bytes);
            const bool fits = a.head_dim <= 64 || (a.head_dim <= 128 && wanted <= call.shared_limit());
            if (sizeof(T) == 4 || !fits)
                launch_simple(call, a, args, queries, static_cast<const T*>(q), static_cast<const T*>(do_),
                              g);
            else if (a.head_dim > 64)
                launch_blocks<128>(call, a, args, q, do_, g);
            else
                launch_blocks<64>(call, a, args, q, do_, g);
        });
    });
}

}  // namespace polyad::kernels::cuda
