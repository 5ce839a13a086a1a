// SPDX-License-Identifier: Apache-2.0
// AdamW and sums of squares over many tensors: blocks are shared out over the tensors' elements.
#include "kernels/cuda/ops.h"
#include "kernels/cuda/tile.cuh"

namespace polyad::kernels::cuda {
namespace {

constexpr int threads = 256, piece = 4096;  // elements a block

struct Input {
    const float* x;
    int64_t n;
};

/// The tensor whose pieces contain block `block`; first[t] = the first piece of tensor t.
__device__ __forceinline__ int tensor_of(const int32_t* first, int count, int block) {
    return row_of(first, count, block);
}

__global__ void __launch_bounds__(threads)
    adamw_pieces(const AdamwTensor* tensors, const int32_t* first, int count, float beta1, float beta2,
                 float eps, float grad_scale) {
    const int at = tensor_of(first, count, blockIdx.x);
    const AdamwTensor t = tensors[at];
    const float decay = 1.0f - t.lr * t.weight_decay, rate = t.lr / t.bias1, root = 1.0f / sqrtf(t.bias2);
    const int64_t begin = static_cast<int64_t>(blockIdx.x - first[at]) * piece;
    const int64_t end = begin + piece < t.n ? begin + piece : t.n;
    for (int64_t i = begin + threadIdx.x; i < end; i += threads) {
        const float g = t.g[i] * grad_scale;
        const float m = beta1 * t.m[i] + (1.0f - beta1) * g, v = beta2 * t.v[i] + (1.0f - beta2) * g * g;
        t.m[i] = m;
        t.v[i] = v;
        t.p[i] = t.p[i] * decay - rate * m / (sqrtf(v) * root + eps);
    }
}

__global__ void __launch_bounds__(threads)
    square_pieces(const Input* inputs, const int32_t* first, int count, double* sums) {
    __shared__ double shared[threads / 32];
    const int at = tensor_of(first, count, blockIdx.x);
    const Input in = inputs[at];
    const int64_t begin = static_cast<int64_t>(blockIdx.x - first[at]) * piece;
    const int64_t end = begin + piece < in.n ? begin + piece : in.n;
    double sum = 0.0;
    for (int64_t i = begin + threadIdx.x; i < end; i += threads) {
        const double x = static_cast<double>(in.x[i]);
        sum += x * x;
    }
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(threads) add_sums(const double* sums, int count, double* out) {
    __shared__ double shared[threads / 32];
    double sum = 0.0;
    for (int i = threadIdx.x; i < count; i += threads) sum += sums[i];
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) *out = sum;
}

/// Pieces of tensors one after the other; empty tensors have none.
std::vector<int32_t> first_pieces(int64_t count, int64_t (*size)(const void*, int64_t), const void* tensors) {
    std::vector<int32_t> first{0};
    int64_t total = 0;
    for (int64_t i = 0; i < count; ++i) {
        total += (size(tensors, i) + piece - 1) / piece;
        if (total > 0x7fffffff) fail("more elements than one launch takes");
        first.push_back(static_cast<int32_t>(total));
    }
    return first;
}

}  // namespace

void adamw(const AdamwTensor* tensors, int64_t count, float beta1, float beta2, float eps,
                float grad_scale) {
    run("adamw", [&](Call& call) {
        const std::vector<int32_t> first = first_pieces(
            count, [](const void* p, int64_t i) { return static_cast<const AdamwTensor*>(p)[i].n; }, tensors);
        if (first.back() == 0) return;
        adamw_pieces<<<static_cast<unsigned>(first.back()), threads, 0, call.stream()>>>(
            call.stage(tensors, count), call.stage(first), static_cast<int>(count), beta1, beta2, eps,
            grad_scale);
        call.launched();
    });
}

double sum_squares(const float* const* x, const int64_t* n, int64_t count) {
    double result = 0.0;
    run("sum_squares", [&](Call& call) {
        std::vector<Input> inputs;
        for (int64_t i = 0; i < count; ++i) inputs.push_back({x[i], n[i]});
        const std::vector<int32_t> first = first_pieces(
            count, [](const void* p, int64_t i) { return static_cast<const Input*>(p)[i].n; }, inputs.data());
        if (first.back() == 0) return;
        double* sums = call.scratch<double>(first.back() + 1);
        square_pieces<<<static_cast<unsigned>(first.back()), threads, 0, call.stream()>>>(
            call.stage(inputs), call.stage(first), static_cast<int>(count), sums);
        call.launched();
        add_sums<<<1, threads, 0, call.stream()>>>(sums, first.back(), sums + first.back());
        call.launched();
        check(cudaMemcpyAsync(&result, sums + first.back(), sizeof result, cudaMemcpyDeviceToHost,
                              call.stream()),
              call.name());
        check(cudaStreamSynchronize(call.stream()), call.name());
    });
    return result;
}

}  // namespace polyad::kernels::cuda
