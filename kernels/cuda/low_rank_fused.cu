// SPDX-License-Identifier: Apache-2.0
// The gate between the two low-rank products, and both products in one launch for serving, where each row
// brings factors of its own.
#include <cooperative_groups.h>

#include <algorithm>

#include "kernels/cuda/low_rank_rows.cuh"
#include "kernels/cuda/ops.h"

namespace polyad::kernels::cuda {
namespace {

constexpr int threads = 256;

struct Gated {
    GateKind kind;
    int per_token, in, out, width;
};
Gated gated(const GateShape& shape) {
    return {shape.kind, shape.per_token, static_cast<int>(shape.ranks_in), static_cast<int>(shape.ranks_out),
            static_cast<int>(shape.width)};
}

/// v[j] of one token.
__device__ __forceinline__ float gate_value(const Gated& shape, const float* g, const float* u, int j) {
    if (shape.kind == GateKind::none) return u[j];
    if (shape.kind == GateKind::diagonal) return g[j / (shape.in / shape.width)] * u[j];
    float sum = 0.0f;
    for (int i = 0; i < shape.in; ++i) sum = fmaf(g[static_cast<int64_t>(i) * shape.out + j], u[i], sum);
    return sum;
}

__device__ __forceinline__ int64_t gate_line(const Gated& shape, const int32_t* begin, int rows, int token) {
    return static_cast<int64_t>(shape.per_token ? token : row_of(begin, rows, token)) * shape.width;
}

__global__ void apply(Gated shape, const float* gate, const int32_t* begin, int rows, int64_t count,
                      const float* u, float* v) {
    const int64_t at = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (at >= count) return;
    const int token = static_cast<int>(at / shape.out), j = static_cast<int>(at % shape.out);
    v[at] = gate_value(shape, gate + gate_line(shape, begin, rows, token),
                       u + static_cast<int64_t>(token) * shape.in, j);
}

__global__ void inputs_backward(Gated shape, const float* gate, const int32_t* begin, int rows, int64_t count,
                                const float* dv, float* du) {
    const int64_t at = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (at >= count) return;
    const int token = static_cast<int>(at / shape.in), i = static_cast<int>(at % shape.in);
    const float* g = gate + gate_line(shape, begin, rows, token);
    dv += static_cast<int64_t>(token) * shape.out;
    if (shape.kind == GateKind::diagonal) {
        du[at] = g[i / (shape.in / shape.width)] * dv[i];
        return;
    }
    float sum = 0.0f;
    for (int j = 0; j < shape.out; ++j) sum = fmaf(g[static_cast<int64_t>(i) * shape.out + j], dv[j], sum);
    du[at] = sum;
}

/// A warp an entry of the gate: adds over the tokens of its line in a fixed order.
__global__ void gates_backward(Gated shape, const int32_t* begin, int64_t entries, const float* u,
                               const float* dv, float* dgate) {
    const int64_t entry = (static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x) / 32;
    const int lane = threadIdx.x % 32;
    if (entry >= entries) return;
    const int line = static_cast<int>(entry / shape.width), w = static_cast<int>(entry % shape.width);
    const int first = shape.per_token ? line : begin[line],
              last = shape.per_token ? line + 1 : begin[line + 1];
    float sum = 0.0f;
    if (shape.kind == GateKind::diagonal) {
        const int block = shape.in / shape.width;
        for (int i = lane; i < (last - first) * block; i += 32) {
            const int64_t at = static_cast<int64_t>(first + i / block) * shape.in + w * block + i % block;
            sum = fmaf(u[at], dv[at], sum);
        }
    } else {
        const int i = w / shape.out, j = w % shape.out;
        for (int t = first + lane; t < last; t += 32)
            sum = fmaf(u[static_cast<int64_t>(t) * shape.in + i], dv[static_cast<int64_t>(t) * shape.out + j],
                       sum);
    }
    sum = warp_sum(sum);
    if (lane == 0) dgate[entry] += sum;
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define POLYAD_CLUSTERS 1
#endif

/// y[c] += scale * sum_r v[r] b[r * d + c] for columns [begin, end) by the whole block, `Width` columns a
/// thread; where columns are few, threads share the ranks. `parts`: threads * Width floats of shared memory.
template <class T, int Width>
__device__ __forceinline__ void add_columns(const float* v, const T* b, int64_t d, int rank, int begin,
                                            int end, float scale, float* parts, T* y) {
    const int columns = (end - begin + Width - 1) / Width;
    if (columns <= 0) return;
    const int shares = columns < threads ? min(rank, threads / columns) : 1;
    const int share = threadIdx.x / columns, r_step = (rank + shares - 1) / shares;
    for (int column = shares > 1 ? threadIdx.x % columns : threadIdx.x; column < columns; column += threads) {
        const int c = begin + column * Width;
        const bool works = shares == 1 || share < shares;
        const int r_begin = shares > 1 ? min(rank, share * r_step) : 0, r_end = min(rank, r_begin + r_step);
        float sums[Width] = {};
        if (works) {
#pragma unroll 8
            for (int r = r_begin; r < r_end; ++r) {
                float m[Width];
                if constexpr (Width == 1)
                    m[0] = to_float(b[r * d + c]);
                else
                    load_wide(b + r * d + c, m);
#pragma unroll
                for (int i = 0; i < Width; ++i) sums[i] = fmaf(v[r], m[i], sums[i]);
            }
        }
        if (shares > 1) {
#pragma unroll
            for (int i = 0; i < Width; ++i)
                if (works) parts[(share * columns + column) * Width + i] = sums[i];
            __syncthreads();
            if (threadIdx.x >= columns) return;
            for (int other = 1; other < shares; ++other)
#pragma unroll
                for (int i = 0; i < Width; ++i) sums[i] += parts[(other * columns + column) * Width + i];
        }
        if constexpr (Width == 1) {
            y[c] = from_float<T>(to_float(y[c]) + scale * sums[0]);
        } else {
            float old[Width];
            load_wide(y + c, old);
#pragma unroll
            for (int i = 0; i < Width; ++i) old[i] += scale * sums[i];
            store_wide(y + c, old);
        }
    }
}

/// Has [begin, end) of each of b's rows come to the second-level cache.
template <class T>
__device__ __forceinline__ void prefetch_columns(const T* b, int64_t d, int rank, int begin, int end) {
    constexpr int line = 128 / sizeof(T);
    const int lines = (end - begin + line - 1) / line;
    for (int i = threadIdx.x; i < rank * lines; i += threads)
        asm volatile("prefetch.global.L2 [%0];" ::"l"(b + i / lines * d + begin + i % lines * line));
}

/// u = A x of one token by a cluster of blocks: each sums its part of d_in into `part`, all exchange the
/// sums. Both in shared memory; leave_cluster() ends a kernel that calls this.
template <class T>
__device__ __forceinline__ void project_token(const T* x, const T* a, int d_in, int rank, bool wide_in,
                                              float* part, float* u) {
    const int blocks = gridDim.x, block = blockIdx.x, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int slice = (d_in + blocks * wide<T> - 1) / (blocks * wide<T>)*wide<T>;
    const int begin = min(d_in, block * slice), end = min(d_in, begin + slice);
    for (int r = warp * 2; r < rank; r += threads / 32 * 2) {
        float sums[2];
        const int count = min(2, rank - r);
        dot_rows<T, 2>(x, a + static_cast<int64_t>(r) * d_in, d_in, count, begin, end, wide_in, sums);
        if (lane < count) part[r + lane] = lane ? sums[1] : sums[0];
    }
#ifdef POLYAD_CLUSTERS
    namespace cg = cooperative_groups;
    const cg::cluster_group cluster = cg::this_cluster();
    cluster.sync();
    for (int r = threadIdx.x; r < rank; r += threads) {
        float sum = 0.0f;
        for (int other = 0; other < blocks; ++other) sum += cluster.map_shared_rank(part, other)[r];
        u[r] = sum;
    }
#else
    __syncthreads();
    for (int r = threadIdx.x; r < rank; r += threads) u[r] = part[r];
#endif
    __syncthreads();
}

/// Nobody leaves while another still reads its sums.
__device__ __forceinline__ void leave_cluster() {
#ifdef POLYAD_CLUSTERS
    cooperative_groups::this_cluster().sync();
#endif
}

/// The columns of d_out that a block of a token's cluster adds.
template <class T>
__device__ __forceinline__ void columns_of(int d_out, int* first, int* last) {
    const int blocks = gridDim.x;
    const int columns = (d_out + blocks * wide<T> - 1) / (blocks * wide<T>)*wide<T>;
    *first = min(d_out, static_cast<int>(blockIdx.x) * columns);
    *last = min(d_out, *first + columns);
}

/// A cluster of blocks a token: all make u, each adds its part of d_out. Shared memory: 2 most_rank floats.
template <class T>
__global__ void __launch_bounds__(threads)
    fused(const T* x, const RowFactors* of_row, const int32_t* begin_of_row, int rows, int d_in, int d_out,
          int most_rank, bool one_each, bool ahead, bool wide_in, bool wide_out, T* y) {
    extern __shared__ float memory[];
    __shared__ __align__(16) float parts[threads * wide<T>];
    float *part = memory, *u = part + most_rank;
    const int token = blockIdx.y;
    const RowFactors factors = of_row[one_each ? token : row_of(begin_of_row, rows, token)];
    const int rank = min(factors.rank, most_rank);
    if (!factors.a || rank <= 0) return;  // the whole cluster
    const T *a = static_cast<const T*>(factors.a), *b = static_cast<const T*>(factors.b);
    x += static_cast<int64_t>(token) * d_in;
    y += static_cast<int64_t>(token) * d_out;
    int first, last;
    columns_of<T>(d_out, &first, &last);
    if (ahead) {  // the second product's factors and results come while the first is made
        prefetch_columns(b, d_out, rank, first, last);
        prefetch_columns(y, d_out, 1, first, last);
    }
    project_token(x, a, d_in, rank, wide_in, part, u);
    if (wide_out)
        add_columns<T, wide<T>>(u, b, d_out, rank, first, last, factors.scale, parts, y);
    else
        add_columns<T, 1>(u, b, d_out, rank, first, last, factors.scale, parts, y);
    leave_cluster();
}

/// Loads may be as wide.
__host__ __device__ constexpr int64_t whole_vectors(int64_t ranks) {
    return (ranks + 3) / 4 * 4;
}

/// A cluster of blocks a token: all make u and gate it, each adds its part of d_out. Shared memory: twice the
/// ranks of u and once those of v, each rounded up to whole vectors.
template <class T>
__global__ void __launch_bounds__(threads)
    fused_gated(const T* x, const T* a, const T* b, Groups groups, Gated shape, const float* gate, int d_in,
                int d_out, float scale, bool wide_in, bool wide_b, T* y) {
    extern __shared__ float memory[];
    const int token = blockIdx.y, group = groups.of(token);
    const int ranks = static_cast<int>(whole_vectors(shape.in));
    if (group < 0) return;  // the whole cluster
    float *part = memory, *u = part + ranks, *v = u + ranks;
    int first, last;
    columns_of<T>(d_out, &first, &last);
    project_token(x + static_cast<int64_t>(token) * d_in, a + static_cast<int64_t>(group) * shape.in * d_in,
                  d_in, shape.in, wide_in, part, u);
    const float* g = gate;
    if (shape.kind != GateKind::none) g += gate_line(shape, groups.begin, groups.rows, token);
    for (int j = threadIdx.x; j < shape.out; j += threads) v[j] = gate_value(shape, g, u, j);
    __syncthreads();
    add_rows(v, b + static_cast<int64_t>(group) * d_out * shape.out, first, last, shape.out, scale,
             y + static_cast<int64_t>(token) * d_out, wide_b);
    leave_cluster();
}

/// A launch of clusters, one a token, with enough blocks for the device.
struct TokenClusters {
    TokenClusters(const Call& call, int64_t tokens, int64_t shared_floats) {
        if (tokens > 65535)
            fail("%s: at most 65535 tokens in one launch, not %lld", call.name(),
                 static_cast<long long>(tokens));
        int blocks = 1;
        if (call.major() >= 9)
            while (blocks < 8 && tokens * blocks < 2 * call.multiprocessors()) blocks *= 2;
        config.gridDim = dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(tokens));
        config.blockDim = dim3(threads);
        config.dynamicSmemBytes = static_cast<size_t>(shared_floats) * sizeof(float);
        config.stream = call.stream();
        cluster.id = cudaLaunchAttributeClusterDimension;
        cluster.val.clusterDim.x = static_cast<unsigned>(blocks);
        cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
        config.attrs = &cluster;
        config.numAttrs = call.major() >= 9 ? 1 : 0;
    }
    TokenClusters(const TokenClusters&) = delete;
    TokenClusters& operator=(const TokenClusters&) = delete;

    cudaLaunchConfig_t config{};
    cudaLaunchAttribute cluster{};
};

template <class T>
void launch_fused(Call& call, const T* x, const RowFactors* of_row, Rows rows, int64_t tokens, int64_t d_in,
                  int64_t d_out, T* y) {
    int most_rank = 0;
    bool one_each = rows.count == tokens;  // each row is one token
    for (int32_t b = 0; b < rows.count; ++b) one_each = one_each && rows.begin[b] == b;
    bool wide_in = d_in % wide<T> == 0 && aligned16(x), wide_out = d_out % wide<T> == 0 && aligned16(y);
    for (int32_t b = 0; b < rows.count; ++b) {
        if (!of_row[b].a) continue;
        most_rank = std::max(most_rank, of_row[b].rank);
        wide_in = wide_in && aligned16(of_row[b].a);
        wide_out = wide_out && aligned16(of_row[b].b);
    }
    if (most_rank == 0 && !call.is_bound(of_row)) return;
    most_rank = static_cast<int>(whole_vectors(most_rank));
    if (most_rank > low_rank_ranks)
        fail("low_rank_rows: at most %lld ranks in one launch, not %d",
             static_cast<long long>(low_rank_ranks), most_rank);
    // Few tokens wait for memory, many fill it anyway: then fetching ahead only disturbs (measured on an
    // H200: 8% faster with 8 tokens, 15% slower with 256).
    const bool ahead = tokens <= 16;
    const TokenClusters launch(call, tokens, 2 * most_rank);
    check(cudaLaunchKernelEx(&launch.config, fused<T>, x, call.stage(of_row, rows.count),
                             call.stage(rows.begin, rows.count + 1), rows.count, static_cast<int>(d_in),
                             static_cast<int>(d_out), most_rank, one_each, ahead, wide_in, wide_out, y),
          call.name());
}

}  // namespace

void gate(const GateShape& shape, Rows rows, const float* gate, const float* u, float* v) {
    run("gate", [&](Call& call) {
        const int64_t tokens = rows.count > 0 ? rows.begin[rows.count] : 0, count = tokens * shape.ranks_out;
        if (count == 0) return;
        apply<<<blocks_for(count, threads), threads, 0, call.stream()>>>(
            gated(shape), gate, call.stage(rows.begin, rows.count + 1), rows.count, count, u, v);
        call.launched();
    });
}

void gate_backward(const GateShape& shape, Rows rows, const float* gate, const float* u, const float* dv,
                   float* du, float* dgate) {
    run("gate_backward", [&](Call& call) {
        const int64_t tokens = rows.count > 0 ? rows.begin[rows.count] : 0, count = tokens * shape.ranks_in;
        if (count == 0) return;
        const int32_t* begin = call.stage(rows.begin, rows.count + 1);
        inputs_backward<<<blocks_for(count, threads), threads, 0, call.stream()>>>(gated(shape), gate, begin,
                                                                                   rows.count, count, dv, du);
        call.launched();
        if (!dgate) return;
        const int64_t entries = (shape.per_token ? tokens : rows.count) * shape.width;
        gates_backward<<<blocks_for(entries, threads / 32), threads, 0, call.stream()>>>(
            gated(shape), begin, entries, u, dv, dgate);
        call.launched();
    });
}

void low_rank(Float type, const void* x, const void* a, const void* b, const int32_t* group_of_row, Rows rows,
              int64_t d_in, int64_t d_out, const GateShape& shape, const float* gate, float scale, void* y) {
    run("low_rank", [&](Call& call) {
        const int64_t tokens = rows.count > 0 ? rows.begin[rows.count] : 0;
        if (tokens == 0) return;
        if (std::min(shape.ranks_in, shape.ranks_out) < 1 ||
            std::max(shape.ranks_in, shape.ranks_out) > low_rank_ranks)
            fail("low_rank: 1 to %lld ranks, not %lld and %lld", static_cast<long long>(low_rank_ranks),
                 static_cast<long long>(shape.ranks_in), static_cast<long long>(shape.ranks_out));
        const TokenClusters launch(call, tokens,
                                   2 * whole_vectors(shape.ranks_in) + whole_vectors(shape.ranks_out));
        const Groups groups{call.stage(group_of_row, rows.count), call.stage(rows.begin, rows.count + 1),
                            rows.count};
        with_type(type, [&](auto element) {
            using T = decltype(element);
            check(cudaLaunchKernelEx(&launch.config, fused_gated<T>, static_cast<const T*>(x),
                                     static_cast<const T*>(a), static_cast<const T*>(b), groups, gated(shape),
                                     gate, static_cast<int>(d_in), static_cast<int>(d_out), scale,
                                     d_in % wide<T> == 0 && aligned16(x) && aligned16(a), aligned16(b),
                                     static_cast<T*>(y)),
                  call.name());
        });
    });
}

void low_rank_rows(Float type, const void* x, const RowFactors* of_row, Rows rows, int64_t d_in,
                   int64_t d_out, void* y) {
    const int64_t tokens = rows.count > 0 ? rows.begin[rows.count] : 0;
    if (tokens == 0) return;
    // Prompts: many tokens a row go over tensor cores.
    if (type == Float::bf16 && tokens >= 16 * static_cast<int64_t>(rows.count) && tokens > 16)
        return low_rank_prompts(x, of_row, rows, d_in, d_out, y);
    run("low_rank_rows", [&](Call& call) {
        with_type(type, [&](auto element) {
            using T = decltype(element);
            launch_fused(call, static_cast<const T*>(x), of_row, rows, tokens, d_in, d_out,
                         static_cast<T*>(y));
        });
    });
}

}  // namespace polyad::kernels::cuda
