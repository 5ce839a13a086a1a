// SPDX-License-Identifier: Apache-2.0
// Factors mixed from a bank of skills, the gradients of that, and the nearest of some centroids.
#include "kernels/cuda/ops.h"
#include "kernels/cuda/tile.cuh"

namespace polyad::kernels::cuda {
namespace {

constexpr int threads = 256, tile = 8;  // groups (or skills) a thread sums at once

/// FactorMix as the device sees it; element e of a factor is row e / columns, column e % columns.
struct MixShape {
    int groups, skills, chosen, splits, split_rows, rows, columns;
    const int32_t* skill;
    int64_t out_group, out_row;
    __device__ int64_t size() const { return static_cast<int64_t>(rows) * columns; }
    __device__ int split_of(int64_t e) const {
        return split_rows ? static_cast<int>(e / columns) / (rows / splits)
                          : static_cast<int>(e % columns) / (columns / splits);
    }
    __device__ int64_t out_at(int g, int64_t e) const {
        return g * out_group + e / columns * out_row + e % columns;
    }
    __device__ int skill_of(int g, int k) const { return skill ? skill[g * chosen + k] : k; }
};

/// grid (parts of a factor, tiles of groups): where all groups read all skills, a thread reads an element of
/// the bank once for its tile.
template <class T>
__global__ void __launch_bounds__(threads)
    mix_elements(MixShape shape, const float* weights, const float* bank, bool add, T* out) {
    const int64_t e = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (e >= shape.size()) return;
    const int first = blockIdx.y * tile, count = min(tile, shape.groups - first),
              stride = shape.splits * shape.chosen;
    const float* w = weights + static_cast<int64_t>(first) * stride + shape.split_of(e) * shape.chosen;
    float sums[tile] = {};
    if (shape.skill) {
#pragma unroll
        for (int g = 0; g < tile; ++g)
            for (int k = 0; g < count && k < shape.chosen; ++k)
                sums[g] = fmaf(w[static_cast<int64_t>(g) * stride + k],
                               bank[shape.skill_of(first + g, k) * shape.size() + e], sums[g]);
    } else {
#pragma unroll 4
        for (int s = 0; s < shape.skills; ++s) {
            const float b = bank[s * shape.size() + e];
#pragma unroll
            for (int g = 0; g < tile; ++g)
                if (g < count) sums[g] = fmaf(w[static_cast<int64_t>(g) * stride + s], b, sums[g]);
        }
    }
#pragma unroll
    for (int g = 0; g < tile; ++g) {
        if (g >= count) break;
        T& to = out[shape.out_at(first + g, e)];
        to = from_float<T>((add ? to_float(to) : 0.0f) + sums[g]);
    }
}

/// grid (parts of a factor, tiles of skills).
__global__ void __launch_bounds__(threads)
    bank_backward(MixShape shape, const float* dout, const float* weights, float* dbank) {
    const int64_t e = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (e >= shape.size()) return;
    const int first = blockIdx.y * tile, count = min(tile, shape.skills - first),
              stride = shape.splits * shape.chosen;
    const float* w = weights + shape.split_of(e) * shape.chosen;
    float sums[tile] = {};
    for (int g = 0; g < shape.groups; ++g) {
        const float* line = w + static_cast<int64_t>(g) * stride;
        if (!shape.skill) {
            const float d = dout[shape.out_at(g, e)];
#pragma unroll
            for (int s = 0; s < tile; ++s)
                if (s < count) sums[s] = fmaf(line[first + s], d, sums[s]);
            continue;
        }
        for (int k = 0; k < shape.chosen; ++k) {
            const int at = shape.skill_of(g, k) - first;
            if (at < 0 || at >= count) continue;
            const float more = line[k] * dout[shape.out_at(g, e)];
#pragma unroll
            for (int s = 0; s < tile; ++s)
                if (s == at) sums[s] += more;
        }
    }
#pragma unroll
    for (int s = 0; s < tile; ++s)
        if (s < count) dbank[(first + s) * shape.size() + e] = sums[s];
}

/// grid (chosen, splits, groups): a block an entry.
__global__ void __launch_bounds__(threads)
    weights_backward(MixShape shape, const float* dout, const float* bank, float* dweights) {
    __shared__ double shared[threads / 32];
    const int k = blockIdx.x, h = blockIdx.y, g = blockIdx.z;
    const float* from = bank + shape.skill_of(g, k) * shape.size();
    // A split's elements: whole rows, or a stretch of each row.
    const int width = shape.split_rows ? shape.columns : shape.columns / shape.splits;
    const int64_t count = shape.size() / shape.splits;
    double sum = 0.0;
    for (int64_t i = threadIdx.x; i < count; i += threads) {
        const int64_t e =
            shape.split_rows ? h * count + i : i / width * shape.columns + h * width + i % width;
        sum += static_cast<double>(dout[shape.out_at(g, e)] * from[e]);
    }
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0)
        dweights[(static_cast<int64_t>(g) * shape.splits + h) * shape.chosen + k] += static_cast<float>(sum);
}

/// A warp a point.
__global__ void __launch_bounds__(threads)
    nearest_centroid(const float* points, const float* centroids, int64_t n, int clusters, int width,
                     bool spherical, int32_t* member) {
    const int64_t point = (static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x) / 32;
    if (point >= n) return;
    const int lane = threadIdx.x % 32;
    const float* p = points + point * width;
    float best = -INFINITY;
    int chosen = 0;
    for (int k = 0; k < clusters; ++k) {
        const float* c = centroids + static_cast<int64_t>(k) * width;
        float score = 0.0f;
        // |p - c|^2 = |p|^2 - 2 (<p, c> - |c|^2 / 2): the nearest centroid has the largest bracket.
        for (int i = lane; i < width; i += 32)
            score = fmaf(spherical ? p[i] : p[i] - 0.5f * c[i], c[i], score);
        score = warp_sum(score);
        if (score > best) {
            best = score;
            chosen = k;
        }
    }
    if (lane == 0) member[point] = chosen;
}

MixShape shape_of(Call& call, const FactorMix& mix) {
    if (mix.skills < 1 || mix.splits < 1 || (mix.split_rows ? mix.rows : mix.columns) % mix.splits != 0)
        fail("mix_factors: %lld x %lld factors do not fall into %lld splits",
             static_cast<long long>(mix.rows), static_cast<long long>(mix.columns),
             static_cast<long long>(mix.splits));
    MixShape shape{};
    shape.groups = static_cast<int>(mix.groups);
    shape.skills = static_cast<int>(mix.skills);
    shape.chosen = static_cast<int>(mix.skill ? mix.chosen : mix.skills);
    shape.splits = static_cast<int>(mix.splits);
    shape.split_rows = mix.split_rows;
    shape.rows = static_cast<int>(mix.rows);
    shape.columns = static_cast<int>(mix.columns);
    shape.skill = mix.skill ? call.stage(mix.skill, mix.groups * mix.chosen) : nullptr;
    shape.out_group = mix.out_group;
    shape.out_row = mix.out_row;
    return shape;
}

}  // namespace

void mix_factors(Float type, const FactorMix& mix, const float* bank, const float* weights, int add,
                 void* out) {
    run("mix_factors", [&](Call& call) {
        const int64_t size = mix.rows * mix.columns;
        if (mix.groups <= 0 || size <= 0) return;
        const MixShape shape = shape_of(call, mix);
        with_type(type, [&](auto element) {
            using T = decltype(element);
            mix_elements<<<dim3(blocks_for(size, threads), blocks_for(mix.groups, tile)), threads, 0,
                           call.stream()>>>(shape, weights, bank, add != 0, static_cast<T*>(out));
            call.launched();
        });
    });
}

void mix_factors_backward(const FactorMix& mix, const float* bank, const float* weights, const float* dout,
                          float* dbank, float* dweights) {
    run("mix_factors_backward", [&](Call& call) {
        const int64_t size = mix.rows * mix.columns;
        if (size <= 0) return;
        const MixShape shape = shape_of(call, mix);
        if (dbank) {
            bank_backward<<<dim3(blocks_for(size, threads), blocks_for(mix.skills, tile)), threads, 0,
                            call.stream()>>>(shape, dout, weights, dbank);
            call.launched();
        }
        if (dweights && mix.groups > 0 && shape.chosen > 0) {
            weights_backward<<<dim3(static_cast<unsigned>(shape.chosen), static_cast<unsigned>(shape.splits),
                                    static_cast<unsigned>(shape.groups)),
                               threads, 0, call.stream()>>>(shape, dout, bank, dweights);
            call.launched();
        }
    });
}

void nearest(const float* points, const float* centroids, int64_t n, int64_t clusters, int64_t width,
             int spherical, int32_t* member) {
    run("nearest", [&](Call& call) {
        if (n <= 0) return;
        nearest_centroid<<<blocks_for(n, threads / 32), threads, 0, call.stream()>>>(
            points, centroids, n, static_cast<int>(clusters), static_cast<int>(width), spherical != 0,
            member);
        call.launched();
    });
}

}  // namespace polyad::kernels::cuda
