// SPDX-License-Identifier: Apache-2.0
// The CUDA kernels against what the device can do: copy bandwidth and cuBLAS products measured in the same
// run.
//   cuda_kernels_bench LIBPOLYAD_CUDA [RESULTS.json]
// cuBLAS is taken from the loader's path where it is there (libcublas.so.13); without it product bounds are
// left out.
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "kernels/cuda/cuda_library.h"
#include "kernels/cuda/quant_blocks.h"

namespace polyad::kernels {
namespace {

void check(cudaError_t error) {
    if (error == cudaSuccess) return;
    std::fprintf(stderr, "CUDA: %s\n", cudaGetErrorString(error));
    std::exit(1);
}

const CudaLibrary* library;
cudaStream_t stream;

void check_library() {
    if (const char* error = library->take_error()) {
        std::fprintf(stderr, "library: %s\n", error);
        std::exit(1);
    }
}

/// Device memory of pseudo-random bf16 or float values near one.
__global__ void fill(uint32_t* p, int64_t words, bool halves, float scale) {
    for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < words;
         i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
        uint64_t h = (static_cast<uint64_t>(i) + 0x9e3779b97f4a7c15u) * 0xbf58476d1ce4e5b9u;
        h ^= h >> 31;
        h *= 0x94d049bb133111ebu;
        const float a = scale * (static_cast<float>(h >> 40) * 0x1p-23f - 1.0f);
        const float b = scale * (static_cast<float>(h & 0xffffff) * 0x1p-23f - 1.0f);
        const __nv_bfloat162 pair = __floats2bfloat162_rn(a, b);
        p[i] = halves ? *reinterpret_cast<const uint32_t*>(&pair) : __float_as_uint(a);
    }
}
struct Memory {
    Memory(int64_t bytes, bool halves, float scale = 1) {
        check(cudaMalloc(&p, static_cast<size_t>(bytes)));
        fill<<<1024, 256, 0, stream>>>(static_cast<uint32_t*>(p), bytes / 4, halves, scale);
        check(cudaGetLastError());
    }
    ~Memory() { cudaFree(p); }
    Memory(const Memory&) = delete;
    template <class T = __nv_bfloat16>
    T* at(int64_t i = 0) const {
        return static_cast<T*>(p) + i;
    }
    void* p = nullptr;
};

/// Median seconds of a call, over batches of calls; `call` gets a running number to rotate its memory by.
double seconds(const std::function<void(int)>& call) {
    cudaEvent_t begin, end;
    check(cudaEventCreate(&begin));
    check(cudaEventCreate(&end));
    const auto batch = [&](int first, int count) {
        check(cudaEventRecord(begin, stream));
        for (int i = 0; i < count; ++i) call(first + i);
        check(cudaEventRecord(end, stream));
        check(cudaEventSynchronize(end));
        float ms = 0;
        check(cudaEventElapsedTime(&ms, begin, end));
        return ms / 1e3 / count;
    };
    batch(0, 3);
    check_library();
    const double once = batch(3, 3);
    const int count = std::clamp(static_cast<int>(0.01 / once), 3, 400);
    std::vector<double> all;
    for (int i = 0; i < 7; ++i) all.push_back(batch(i * count, count));
    check_library();
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    std::sort(all.begin(), all.end());
    return all[all.size() / 2];
}
/// The same without launch gaps: the calls as a graph.
double graph_seconds(int calls, const std::function<void(int)>& call) {
    for (int i = 0; i < calls; ++i) call(i);
    check(cudaStreamSynchronize(stream));
    check_library();
    library->graph_begin();
    for (int i = 0; i < calls; ++i) call(i);
    void* graph = library->graph_end();
    check_library();
    const double s = seconds([&](int) { library->graph_launch(graph); }) / calls;
    library->graph_release(graph);
    return s;
}

struct Line {
    std::string name;
    double microseconds, value;
    std::string unit;
    double share;
    std::string of;
    double aim;
};
std::vector<Line> lines;
constexpr double decoding_aim = 0.7, training_aim = 0.6;  ///< shares of the bound

/// `aim`: the share wanted, 0 = none.
void report(const std::string& name, double s, double value, const std::string& unit, double share = 0,
            const std::string& of = "", double aim = 0) {
    lines.push_back({name, s * 1e6, value, unit, share, of, aim});
    std::printf("%-58s %10.1f us %9.1f %-8s", name.c_str(), s * 1e6, value, unit.c_str());
    if (share > 0) std::printf(" %5.2f of %s", share, of.c_str());
    if (share > 0 && aim > 0) std::printf(", %s: at least %.1f", share >= aim ? "met" : "missed", aim);
    std::printf("\n");
    std::fflush(stdout);
}

double bandwidth;  // bytes per second, reads and writes counted

// ---- cuBLAS, by its C interface ----
struct Blas {
    using Create = int (*)(void**);
    using SetStream = int (*)(void*, cudaStream_t);
    using Gemm = int (*)(void*, int, int, int, int, int, const void*, const void*, int, int, const void*, int,
                         int, const void*, void*, int, int, int, int);
    void* handle = nullptr;
    Gemm gemm = nullptr;
    Blas() {
        void* so = nullptr;
        for (const char* name : {"libcublas.so.13", "libcublas.so"})
            if (!so) so = dlopen(name, RTLD_NOW | RTLD_GLOBAL);
        if (!so) return;
        if (reinterpret_cast<Create>(dlsym(so, "cublasCreate_v2"))(&handle) != 0) return;
        reinterpret_cast<SetStream>(dlsym(so, "cublasSetStream_v2"))(handle, stream);
        gemm = reinterpret_cast<Gemm>(dlsym(so, "cublasGemmEx"));
    }
    /// Row-major C [m, n] = beta C + A [m, k] B, A transposed when it lies [k, m], B when it lies [n, k];
    /// bf16 in, C bf16 or float.
    void multiply(int m, int n, int k, const void* a, bool ta, const void* b, bool tb, void* c, bool float_c,
                  float beta) const {
        const float one = 1;
        constexpr int bf16 = 14, f32 = 0, compute_f32 = 68;
        const int error = gemm(handle, tb, ta, n, m, k, &one, b, bf16, tb ? k : n, a, bf16, ta ? m : k, &beta,
                               c, float_c ? f32 : bf16, n, compute_f32, -1);
        if (error) std::fprintf(stderr, "cuBLAS: status %d\n", error), std::exit(1);
    }
};
const Blas* blas;

void bounds() {
    const int64_t bytes = int64_t{2} << 30;
    Memory a(bytes, true), b(bytes, true);
    const double copy =
        seconds([&](int) { check(cudaMemcpyAsync(a.p, b.p, bytes, cudaMemcpyDeviceToDevice, stream)); });
    bandwidth = 2.0 * static_cast<double>(bytes) / copy;
    report("copy of 2 GiB", copy, bandwidth / 1e9, "GB/s");
    if (!blas->gemm) return;
    const int n = 8192;
    Memory c(int64_t{2} * n * n, true);
    const double product =
        seconds([&](int) { blas->multiply(n, n, n, a.p, false, b.p, true, c.p, false, 0); });
    report("cuBLAS bf16 8192 x 8192 x 8192", product, 2.0 * n * n * n / product / 1e12, "TFLOP/s");
}

void decode(int tokens, int d, int rank, int distinct) {
    const auto& op = *library->ops;
    const int64_t pair = int64_t{2} * d * rank;  // elements of a row's a and b
    const int64_t total = pair * distinct * 2;
    const int sets = static_cast<int>(std::max<int64_t>(1, (int64_t{200} << 20) / total));
    Memory factors(total * sets, true, 0.05f), x(int64_t{2} * tokens * d, true),
        y(int64_t{2} * tokens * d, true);
    std::vector<int32_t> begin{0};
    std::vector<std::vector<RowFactors>> rows(static_cast<size_t>(sets));
    for (int t = 0; t < tokens; ++t) begin.push_back(t + 1);
    for (int s = 0; s < sets; ++s)
        for (int t = 0; t < tokens; ++t) {
            const auto* a = factors.at<>((int64_t{s} * distinct + t % distinct) * pair);
            rows[static_cast<size_t>(s)].push_back({a, a + int64_t{d} * rank, rank, 1.0f});
        }
    const double s = graph_seconds(std::max(8, sets), [&](int i) {
        op.low_rank_rows(Float::bf16, x.p, rows[static_cast<size_t>(i % sets)].data(), {begin.data(), tokens},
                         d, d, y.p);
    });
    const double bytes = static_cast<double>(total) + 6.0 * tokens * d;
    report("decode " + std::to_string(tokens) + " tokens, " + std::to_string(distinct) + " skills, d " +
               std::to_string(d) + ", rank " + std::to_string(rank),
           s, bytes / s / 1e9, "GB/s", bytes / s / bandwidth, "copy bandwidth", decoding_aim);
}

/// A gated update of few tokens: in one launch, and as down, gate and up.
void gated(int tokens, int d, int rank, GateKind kind) {
    const auto& op = *library->ops;
    const int64_t width = kind == GateKind::full ? int64_t{rank} * rank : rank;
    Memory a(int64_t{2} * d * rank, true, 0.05f), b(int64_t{2} * d * rank, true, 0.05f);
    Memory x(int64_t{2} * tokens * d, true), y(int64_t{2} * tokens * d, true, 0.01f);
    Memory gate(4 * tokens * width, false), u(int64_t{4} * tokens * rank, false),
        v(int64_t{4} * tokens * rank, false);
    std::vector<int32_t> begin{0};
    for (int t = 0; t < tokens; ++t) begin.push_back(t + 1);
    const std::vector<int32_t> group(static_cast<size_t>(tokens), 0);
    const Rows rows{begin.data(), tokens};
    const GateShape shape{kind, 1, rank, rank, width};
    const std::string what = std::to_string(tokens) + " tokens, d " + std::to_string(d) + ", rank " +
                             std::to_string(rank) + (kind == GateKind::full ? ", full gate" : ", diagonal gate");
    const double bytes = 4.0 * d * rank + 6.0 * tokens * d + 4.0 * static_cast<double>(tokens * width);
    const double one = graph_seconds(32, [&](int) {
        op.low_rank(Float::bf16, x.p, a.p, b.p, group.data(), rows, d, d, shape, gate.at<float>(), 0.5f, y.p);
    });
    report("gated update, " + what, one, bytes / one / 1e9, "GB/s", bytes / one / bandwidth, "copy bandwidth");
    const double three = graph_seconds(32, [&](int) {
        op.low_rank_down(Float::bf16, x.p, a.p, group.data(), rows, d, rank, u.at<float>());
        op.gate(shape, rows, gate.at<float>(), u.at<float>(), v.at<float>());
        op.low_rank_up(Float::bf16, v.at<float>(), b.p, group.data(), rows, d, rank, 0.5f, y.p);
    });
    report("  as down, gate, up", three, bytes / three / 1e9, "GB/s", bytes / three / bandwidth,
           "copy bandwidth");
}

struct Train {
    int tokens, d_in, d_out, rank, rows;
};
void train(const Train& c) {
    const auto& op = *library->ops;
    const int64_t n = c.tokens, r = c.rank, in = c.d_in, out = c.d_out;
    const std::string shape = std::to_string(n) + " tokens, " + std::to_string(in) + " -> " +
                              std::to_string(out) + ", rank " + std::to_string(r) + ", " +
                              std::to_string(c.rows) + " skills";
    Memory x(2 * n * in, true), y(2 * n * out, true, 0.01f), a(2 * c.rows * r * in, true, 0.05f);
    Memory b(2 * c.rows * r * out, true, 0.05f), u(4 * n * r, false), da(4 * c.rows * r * in, false);
    Memory db(4 * c.rows * r * out, false), dv(4 * n * r, false), v16(2 * n * r, true);
    std::vector<int32_t> begin{0}, group;
    for (int i = 0; i < c.rows; ++i) {
        begin.push_back(static_cast<int32_t>(n * (i + 1) / c.rows));
        group.push_back(i);
    }
    const Rows rows{begin.data(), c.rows};
    struct Part {
        const char* name;
        std::function<void(int)> ours, theirs;
        double bytes;
    };
    const double nd_in = 2.0 * static_cast<double>(n * in), nd_out = 2.0 * static_cast<double>(n * out);
    const Part parts[] = {
        {"down",
         [&](int) { op.low_rank_down(Float::bf16, x.p, a.p, group.data(), rows, in, r, u.at<float>()); },
         [&](int) { blas->multiply(c.tokens, c.rank, c.d_in, x.p, false, a.p, true, u.p, true, 0); }, nd_in},
        {"up",
         [&](int) {
             op.low_rank_up(Float::bf16, u.at<float>(), b.p, group.data(), rows, out, r, 1e-3f, y.p);
         },
         [&](int) { blas->multiply(c.tokens, c.d_out, c.rank, v16.p, false, b.p, true, y.p, false, 1); },
         2 * nd_out},
        {"dv",
         [&](int) {
             op.low_rank_up_backward(Float::bf16, y.p, u.at<float>(), b.p, group.data(), rows, out, r, 1,
                                     dv.at<float>(), nullptr);
         },
         [&](int) { blas->multiply(c.tokens, c.rank, c.d_out, y.p, false, b.p, false, dv.p, true, 0); },
         nd_out},
        {"db",
         [&](int) {
             op.low_rank_up_backward(Float::bf16, y.p, u.at<float>(), b.p, group.data(), rows, out, r, 1,
                                     nullptr, db.at<float>());
         },
         [&](int) { blas->multiply(c.d_out, c.rank, c.tokens, y.p, true, v16.p, false, db.p, true, 1); },
         nd_out},
        {"dx",
         [&](int) {
             op.low_rank_down_backward(Float::bf16, dv.at<float>(), x.p, a.p, group.data(), rows, in, r, x.p,
                                       nullptr);
         },
         [&](int) { blas->multiply(c.tokens, c.d_in, c.rank, v16.p, false, a.p, false, x.p, false, 1); },
         2 * nd_in},
        {"da",
         [&](int) {
             op.low_rank_down_backward(Float::bf16, dv.at<float>(), x.p, a.p, group.data(), rows, in, r,
                                       nullptr, da.at<float>());
         },
         [&](int) { blas->multiply(c.rank, c.d_in, c.tokens, v16.p, true, x.p, false, da.p, true, 1); },
         nd_in},
    };
    double ours[2] = {}, theirs[2] = {}, bytes[2] = {};
    for (const Part& part : parts) {
        const int half = &part >= parts + 2;
        const double s = graph_seconds(8, part.ours);
        ours[half] += s;
        bytes[half] += part.bytes;
        double peer = 0;
        if (blas->gemm) theirs[half] += peer = seconds(part.theirs);
        report(std::string("  ") + part.name + " " + shape, s, part.bytes / s / 1e9, "GB/s", peer / s,
               "one cuBLAS product of the shape");
    }
    for (int half = 0; half < 2; ++half) {
        report(std::string(half ? "backward " : "forward ") + shape, ours[half],
               bytes[half] / ours[half] / 1e9, "GB/s", theirs[half] / ours[half], "cuBLAS products",
               training_aim);
        report(std::string(half ? "backward " : "forward ") + shape, ours[half],
               bytes[half] / ours[half] / 1e9, "GB/s", bytes[half] / ours[half] / bandwidth,
               "copy bandwidth");
    }
}

void attend(int rows, int length, int heads, int heads_kv, int d) {
    const int64_t n = int64_t{rows} * length, q_size = n * heads * d, kv_size = n * heads_kv * d;
    Memory q(2 * q_size, true), k(2 * kv_size, true), v(2 * kv_size, true), o(2 * q_size, true),
        d_o(2 * q_size, true);
    Memory dq(2 * q_size, true), dk(2 * kv_size, true), dv(2 * kv_size, true), lse(4 * n * heads, false);
    std::vector<int32_t> begin{0}, count;
    std::vector<const void*> k_row, v_row;
    std::vector<void*> dk_row, dv_row;
    for (int b = 0; b < rows; ++b) {
        const int64_t at = int64_t{b} * length * heads_kv * d;
        k_row.push_back(k.at<>(at)), v_row.push_back(v.at<>(at));
        dk_row.push_back(dk.at<>(at)), dv_row.push_back(dv.at<>(at));
        begin.push_back(begin.back() + length), count.push_back(length);
    }
    Attention a{};
    a.type = Float::bf16;
    a.rows = rows, a.heads = heads, a.heads_kv = heads_kv, a.head_dim = d;
    a.query_begin = begin.data(), a.key_count = count.data(), a.k_row = k_row.data(), a.v_row = v_row.data();
    a.kv_stride = heads_kv * d, a.scale = 1 / std::sqrt(static_cast<float>(d)), a.causal = 1;
    a.query_position0_is_tail = 1;
    const double flops = 2.0 * static_cast<double>(n) * length * heads * d;  // causal: half of 4 n length
    const std::string shape = std::to_string(rows) + " x " + std::to_string(length) + " tokens, " +
                              std::to_string(heads) + "/" + std::to_string(heads_kv) + " heads of " +
                              std::to_string(d);
    double s = seconds([&](int) { library->ops->attention(a, q.p, o.p, lse.at<float>()); });
    report("attention " + shape, s, flops / s / 1e12, "TFLOP/s");
    s = seconds([&](int) {
        library->ops->attention_backward(a, q.p, o.p, d_o.p, lse.at<float>(), dq.p, dk_row.data(),
                                         dv_row.data());
    });
    report("attention backward " + shape, s, 2.5 * flops / s / 1e12, "TFLOP/s");
    // One more token a row.
    for (int b = 0; b < rows; ++b) begin[static_cast<size_t>(b) + 1] = b + 1;
    s = graph_seconds(4, [&](int) { library->ops->attention(a, q.p, o.p, nullptr); });
    const double bytes = 4.0 * static_cast<double>(kv_size);
    report("attention decode " + shape, s, bytes / s / 1e9, "GB/s", bytes / s / bandwidth, "copy bandwidth");
}

void others() {
    const auto& op = *library->ops;
    const int64_t rows = 8192, columns = 4096, n = rows * columns;
    Memory packed(n * 4, false), wide(n * 4, false), x(2 * columns * 16, true), y(2 * rows * 16, true);
    struct Format {
        const char* name;
        Quant quant;
    };
    for (const Format& f : {Format{"q4_0", Quant::q4_0}, Format{"q4_k", Quant::q4_k},
                            Format{"q6_k", Quant::q6_k}, Format{"q8_0", Quant::q8_0}}) {
        const BlockSize shape = cuda::block_shape(f.quant);
        const double bytes = static_cast<double>(n) * shape.bytes / shape.elements;
        double s = seconds([&](int) { op.dequantise_bf16(f.quant, packed.p, wide.at<uint16_t>(), n); });
        report(std::string("dequantise to bf16 ") + f.name, s, (bytes + 2.0 * n) / s / 1e9, "GB/s",
               (bytes + 2.0 * n) / s / bandwidth, "copy bandwidth");
        for (const int tokens : {1, 8}) {
            s = graph_seconds(4, [&](int) {
                op.multiply_packed(f.quant, packed.p, nullptr, Float::bf16, x.p, tokens, rows, columns, y.p);
            });
            report(std::string("multiply_packed ") + f.name + " tokens " + std::to_string(tokens), s,
                   bytes / s / 1e9, "GB/s", bytes / s / bandwidth, "copy bandwidth");
        }
    }
    const int64_t tokens = 2048, vocab = 49152;
    Memory logits(4 * tokens * vocab, false, 4), nll(4 * tokens, false);
    const std::vector<int32_t> target(static_cast<size_t>(tokens), 7);
    double s = seconds([&](int) {
        op.cross_entropy(logits.at<float>(), target.data(), 0, nll.at<float>(), 1, tokens, vocab);
    });
    report("cross_entropy with gradient 2048 x 49152", s, 12.0 * tokens * vocab / s / 1e9, "GB/s",
           12.0 * tokens * vocab / s / bandwidth, "copy bandwidth");
    Memory token(4 * 64, false);
    for (const float temperature : {0.0f, 0.8f}) {
        const std::vector<Sampling> options(16, Sampling{temperature, 50, 0.9f, 1, 0.4});
        const std::vector<int32_t> begin(17, 0);
        s = graph_seconds(4, [&](int) {
            library->more->sample(logits.at<float>(), options.data(), nullptr, {begin.data(), 16}, 16, vocab,
                                  token.at<int32_t>());
        });
        report(temperature > 0 ? "sample 16 x 49152, top-k 50, top-p 0.9" : "sample 16 x 49152, greedy", s,
               16 / s / 1e6, "M tok/s");
    }
    const int64_t many = int64_t{64} << 20;
    Memory p(4 * many, false), g(4 * many, false, 0.01f), m(4 * many, false, 0.01f),
        v(4 * many, false, 0.01f);
    check(cudaMemsetAsync(v.p, 0, static_cast<size_t>(4 * many), stream));
    s = seconds([&](int) {
        const AdamwTensor tensor{p.at<float>(), g.at<float>(), m.at<float>(), v.at<float>(), many,
                                 1e-6f,         0.01f,         0.5f,          0.5f};
        op.adamw(&tensor, 1, 0.9f, 0.999f, 1e-8f, 1);
    });
    report("adamw 64 Mi", s, 28.0 * many / s / 1e9, "GB/s", 28.0 * many / s / bandwidth, "copy bandwidth");
    const int64_t width = 4096, count = 8192;
    s = seconds([&](int) {
        op.add_rms_norm(Float::bf16, logits.p, p.p, g.at<float>(), 1e-5f, m.p, nullptr, count, width);
    });
    report("add_rms_norm 8192 x 4096", s, 8.0 * count * width / s / 1e9, "GB/s",
           8.0 * count * width / s / bandwidth, "copy bandwidth");
    s = graph_seconds(64, [&](int) { op.add(Float::bf16, y.p, x.p, 8); });
    report("a launch in a graph", s, 1 / s / 1e3, "k/s");
}

/// What a call costs the host: small problems, queued without waiting.
void host_costs() {
    const auto& op = *library->ops;
    Memory x(1 << 20, true), y(1 << 20, true), a(1 << 20, true), w(1 << 20, false), u(1 << 20, false);
    const std::vector<int32_t> begin{0, 1, 2, 3, 4}, group{0, 1, 0, 1}, count{9, 9, 9, 9},
        position{8, 8, 8, 8};
    const Rows rows{begin.data(), 4};
    std::vector<RowFactors> factors(4, RowFactors{a.p, a.at<>(8192), 8, 1});
    std::vector<const void*> keys(4, a.p);
    Attention at{};
    at.type = Float::bf16, at.rows = 4, at.heads = 9, at.heads_kv = 3, at.head_dim = 64;
    at.query_begin = begin.data(), at.key_count = count.data(), at.k_row = keys.data(),
    at.v_row = keys.data();
    at.kv_stride = 192, at.scale = 0.125f, at.causal = 1, at.query_position0_is_tail = 1;
    struct Call {
        const char* name;
        std::function<void()> call;
    };
    const Call calls[] = {
        {"add", [&] { op.add(Float::bf16, y.p, x.p, 64); }},
        {"rms_norm", [&] { op.rms_norm(Float::bf16, x.p, w.at<float>(), 1e-5f, y.p, nullptr, 4, 576); }},
        {"rope",
         [&] {
             op.rope(Float::bf16, x.p, 576, w.at<float>(), w.at<float>(), position.data(), 4, 9, 64, 64, 0);
         }},
        {"low_rank_rows", [&] { op.low_rank_rows(Float::bf16, x.p, factors.data(), rows, 576, 576, y.p); }},
        {"low_rank_down",
         [&] { op.low_rank_down(Float::bf16, x.p, a.p, group.data(), rows, 576, 8, u.at<float>()); }},
        {"attention", [&] { op.attention(at, x.p, y.p, nullptr); }},
    };
    for (const Call& one : calls) {
        for (int i = 0; i < 50; ++i) one.call();
        check(cudaStreamSynchronize(stream));
        const auto start = std::chrono::steady_clock::now();
        for (int i = 0; i < 400; ++i) {
            library->set_stream(0, stream);
            one.call();
        }
        const double s =
            std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / 400;
        check(cudaStreamSynchronize(stream));
        check_library();
        report(std::string("host cost of ") + one.name, s, 1 / s / 1e3, "k/s");
    }
}

int run(int argc, char** argv) {
    if (argc < 2) {
        std::fprintf(stderr, "usage: cuda_kernels_bench LIBPOLYAD_CUDA [RESULTS.json]\n");
        return 2;
    }
    void* so = dlopen(argv[1], RTLD_NOW);
    if (!so) return std::fprintf(stderr, "%s\n", dlerror()), 1;
    char why[512] = "";
    library = reinterpret_cast<CudaLibraryFunction>(dlsym(so, POLYAD_CUDA_LIBRARY_SYMBOL))(POLYAD_VERSION,
                                                                                           why, sizeof why);
    CudaDevice device;
    if (!library || library->device_count(why, sizeof why) == 0 ||
        library->device_info(0, &device, why, sizeof why))
        return std::printf("skipped: %s\n", why), 77;
    stream = static_cast<cudaStream_t>(library->stream_create());
    library->set_stream(0, stream);
    check_library();
    std::printf("%s, %.0f GiB, driver CUDA %d.%d\n", device.name,
                static_cast<double>(device.memory) / (1 << 30), device.driver / 1000,
                device.driver % 1000 / 10);
    blas = new Blas;
    if (!blas->gemm) std::printf("no cuBLAS: product bounds are left out\n");
    bounds();
    for (const int tokens : {8, 64, 256})
        for (const int rank : {16, 64}) decode(tokens, 4096, rank, tokens);
    decode(64, 4096, 16, 8);
    decode(8, 576, 8, 8);
    for (const int tokens : {1, 8, 64}) {
        gated(tokens, 4096, 64, GateKind::diagonal);
        gated(tokens, 576, 32, GateKind::full);
    }
    for (const Train& c :
         {Train{8192, 4096, 4096, 16, 8}, Train{8192, 4096, 4096, 64, 8}, Train{8192, 4096, 4096, 128, 8},
          Train{2048, 2048, 8192, 32, 8}, Train{825, 576, 1536, 8, 8}})
        train(c);
    attend(8, 1024, 32, 8, 128);
    attend(8, 1024, 9, 3, 64);
    attend(8, 128, 9, 3, 64);
    attend(64, 2048, 32, 8, 128);
    others();
    host_costs();
    for (const double aim : {decoding_aim, training_aim}) {
        const auto asked = [&](const Line& line) { return line.aim == aim && line.share > 0; };
        const auto met = [&](const Line& line) { return asked(line) && line.share >= aim; };
        std::printf("%s: %d of %d settings met %.1f of the bound\n",
                    aim == decoding_aim ? "decoding" : "training",
                    static_cast<int>(std::count_if(lines.begin(), lines.end(), met)),
                    static_cast<int>(std::count_if(lines.begin(), lines.end(), asked)), aim);
    }
    if (argc > 2) {
        std::FILE* file = std::fopen(argv[2], "w");
        if (!file) return std::perror(argv[2]), 1;
        std::fprintf(file, "{\"device\": \"%s\", \"results\": [", device.name);
        for (size_t i = 0; i < lines.size(); ++i)
            std::fprintf(file,
                         "%s\n {\"name\": \"%s\", \"microseconds\": %.2f, \"value\": %.2f, \"unit\": \"%s\", "
                         "\"share\": "
                         "%.3f, \"of\": \"%s\", \"aim\": %.1f}",
                         i ? "," : "", lines[i].name.c_str(), lines[i].microseconds, lines[i].value,
                         lines[i].unit.c_str(), lines[i].share, lines[i].of.c_str(), lines[i].aim);
        std::fprintf(file, "\n]}\n");
        std::fclose(file);
    }
    return 0;
}

}  // namespace
}  // namespace polyad::kernels

int main(int argc, char** argv) {
    return polyad::kernels::run(argc, argv);
}
