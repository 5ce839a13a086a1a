// SPDX-License-Identifier: Apache-2.0
// The kernels at the shapes of one training step of SmolLM2-135M: 8 ragged rows of about 900 tokens, bf16,
// rank 8. Each benchmark is one layer's worth; POLYAD_ISA and OMP_NUM_THREADS choose set and threads. The
// first two are the machine's limits: bytes read from memory, and multiply-adds on registers.
#include <benchmark/benchmark.h>

#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/op_table.h"

namespace {

using namespace polyad::kernels;

constexpr int64_t width = 576, ffn = 1536;
constexpr int32_t heads = 9, heads_kv = 3, head_dim = 64;
const std::vector<int32_t> row_begin{0, 61, 190, 299, 420, 500, 641, 774, 902};
constexpr int64_t tokens = 902;
/// Inputs and outputs of the seven linears.
const struct {
    int64_t in, out;
} linears[] = {{width, width},
               {width, heads_kv* head_dim},
               {width, heads_kv* head_dim},
               {width, width},
               {width, ffn},
               {width, ffn},
               {ffn, width}};

/// Memory as LibTorch hands it out: it begins with a cache line.
struct Lines : std::allocator<uint16_t> {
    template <class>
    struct rebind {
        using other = Lines;
    };
    uint16_t* allocate(size_t n) {
        return static_cast<uint16_t*>(::operator new (n * sizeof(uint16_t), std::align_val_t{64}));
    }
    void deallocate(uint16_t* p, size_t) { ::operator delete (p, std::align_val_t{64}); }
};
using Halves = std::vector<uint16_t, Lines>;

Halves halves(int64_t n, float scale = 1) {
    std::vector<float> f(static_cast<size_t>(n));
    uint32_t state = 12345;
    for (float& x : f) {
        state = state * 1664525u + 1013904223u;
        x = scale * (static_cast<float>(state >> 8) / 8388608.0f - 1.0f);
    }
    Halves h(f.size());
    ops().to_bf16(f.data(), h.data(), n);
    return h;
}
std::vector<float> floats(int64_t n, float scale = 1) {
    const auto h = halves(n, scale);
    std::vector<float> f(h.size());
    ops().from_bf16(h.data(), f.data(), n);
    return f;
}

void report(benchmark::State& state, double flops, double bytes) {
    using benchmark::Counter;
    const auto per_second = Counter::kIsIterationInvariantRate;
    if (flops > 0) state.counters["FLOP/s"] = Counter(flops, per_second);
    if (bytes > 0) state.counters["B/s"] = Counter(bytes, per_second);
    state.SetLabel(ops().isa);
}

/// Reading far more than the caches hold.
void limit_memory(benchmark::State& state) {
    const int64_t n = int64_t{64} << 20;  // of four bytes
    std::vector<uint32_t> memory(static_cast<size_t>(n), 1);
    uint64_t total = 0;
    for (auto _ : state) {
        uint64_t sum = 0;
#pragma omp parallel for schedule(static) reduction(+ : sum)
        for (int64_t i = 0; i < n; i += 1024) {
            uint32_t part = 0;
            for (int64_t k = 0; k < 1024; ++k) part += memory[static_cast<size_t>(i + k)];
            sum += part;
        }
        total += sum;
    }
    benchmark::DoNotOptimize(total);
    report(state, 0, 4.0 * n);
}

/// The fastest dense product the kernels themselves have: low-rank updates of so high a rank, and so few
/// columns, that everything stays in the first-level cache.
void limit_products(benchmark::State& state) {
    const int64_t d = 256, rank = 64, n = 48 * 64;
    const std::vector<int32_t> begin{0, static_cast<int32_t>(n)}, group{0};
    const auto x = halves(n * d), a = halves(rank * d, 0.05f);
    std::vector<float> u(static_cast<size_t>(n * rank));
    for (auto _ : state)
        ops().low_rank_down(Float::bf16, x.data(), a.data(), group.data(), {begin.data(), 1}, d, rank,
                            u.data());
    report(state, 2.0 * n * d * rank, 0);
}

void rms_norm_forward(benchmark::State& state) {
    const auto x = halves(tokens * width);
    auto y = x;
    const auto w = floats(width);
    std::vector<float> rstd(tokens);
    for (auto _ : state)
        ops().rms_norm(Float::bf16, x.data(), w.data(), 1e-5f, y.data(), rstd.data(), tokens, width);
    report(state, 0, 4.0 * tokens * width);
}
void rms_norm_gradient(benchmark::State& state) {
    const auto x = halves(tokens * width), dy = x;
    auto dx = x;
    const auto w = floats(width), rstd = floats(tokens);
    for (auto _ : state)
        ops().rms_norm_backward(Float::bf16, dy.data(), x.data(), w.data(), rstd.data(), dx.data(), nullptr,
                                0, tokens, width);
    report(state, 0, 6.0 * tokens * width);
}
void add_rms_norm(benchmark::State& state) {
    auto x = halves(tokens * width, 0), y = x;
    const auto delta = x;
    const auto w = floats(width);
    for (auto _ : state)
        ops().add_rms_norm(Float::bf16, x.data(), delta.data(), w.data(), 1e-5f, y.data(), nullptr, tokens,
                           width);
    report(state, 0, 8.0 * tokens * width);
}
void rope(benchmark::State& state) {
    auto q = halves(tokens * width);
    const std::vector<float> cos(4096, 1), sin(4096, 0);
    std::vector<int32_t> position;
    for (int32_t t = 0; t < tokens; ++t) position.push_back(t % 100);
    for (auto _ : state)
        ops().rope(Float::bf16, q.data(), width, cos.data(), sin.data(), position.data(), tokens, heads,
                   head_dim, head_dim, 0);
    report(state, 0, 4.0 * tokens * width);
}
void swiglu_forward(benchmark::State& state) {
    const auto gate = halves(tokens * ffn, 3), up = halves(tokens * ffn);
    auto y = up;
    for (auto _ : state) ops().swiglu(Float::bf16, gate.data(), up.data(), y.data(), tokens * ffn);
    report(state, 0, 6.0 * tokens * ffn);
}
void swiglu_gradient(benchmark::State& state) {
    const auto gate = halves(tokens * ffn, 3), up = halves(tokens * ffn);
    auto dgate = up, dup = up;
    for (auto _ : state)
        ops().swiglu_backward(Float::bf16, up.data(), gate.data(), up.data(), dgate.data(), dup.data(),
                              tokens * ffn);
    report(state, 0, 10.0 * tokens * ffn);
}

/// Self-attention of `begin`'s rows; with `past` > 0 each row is one query behind that many keys.
struct Attend {
    explicit Attend(std::vector<int32_t> rows, int32_t past = 0) : begin(std::move(rows)) {
        const int32_t count = static_cast<int32_t>(begin.size()) - 1, n = begin.back();
        int64_t total = 0;
        for (int32_t b = 0; b < count; ++b) {
            keys.push_back(past ? past : begin[static_cast<size_t>(b) + 1] - begin[static_cast<size_t>(b)]);
            total += keys.back();
        }
        const int64_t stride = heads_kv * head_dim;
        q = o = d_o = dq = halves(n * width);
        k = v = dk = dv = halves(total * stride);
        lse.resize(static_cast<size_t>(n * heads));
        int64_t at = 0;
        for (int32_t b = 0; b < count; ++b) {
            k_row.push_back(k.data() + at);
            v_row.push_back(v.data() + at);
            dk_row.push_back(dk.data() + at);
            dv_row.push_back(dv.data() + at);
            at += keys[static_cast<size_t>(b)] * stride;
            const double queries = begin[static_cast<size_t>(b) + 1] - begin[static_cast<size_t>(b)];
            pairs += queries * keys[static_cast<size_t>(b)] - queries * (queries - 1) / 2;
        }
        args = {Float::bf16,
                count,
                heads,
                heads_kv,
                head_dim,
                begin.data(),
                keys.data(),
                k_row.data(),
                v_row.data(),
                stride,
                0.125f,
                0,
                1,
                nullptr,
                0,
                0,
                1};
        ops().attention(args, q.data(), o.data(), lse.data());
    }
    std::vector<int32_t> begin, keys;
    Halves q, o, d_o, dq, k, v, dk, dv;
    std::vector<float> lse;
    std::vector<const void*> k_row, v_row;
    std::vector<void*> dk_row, dv_row;
    double pairs = 0;  ///< visible (query, key) pairs of one head
    Attention args{};
};

void attention_forward(benchmark::State& state) {
    Attend a(row_begin);
    for (auto _ : state) ops().attention(a.args, a.q.data(), a.o.data(), a.lse.data());
    report(state, 4.0 * a.pairs * heads * head_dim, 0);
}
void attention_gradient(benchmark::State& state) {
    Attend a(row_begin);
    for (auto _ : state)
        ops().attention_backward(a.args, a.q.data(), a.o.data(), a.d_o.data(), a.lse.data(), a.dq.data(),
                                 a.dk_row.data(), a.dv_row.data());
    report(state, 10.0 * a.pairs * heads * head_dim, 0);
}
void attention_decode(benchmark::State& state) {
    Attend a({0, 1, 2, 3, 4, 5, 6, 7, 8}, static_cast<int32_t>(state.range(0)));
    for (auto _ : state) ops().attention(a.args, a.q.data(), a.o.data(), nullptr);
    report(state, 4.0 * a.pairs * heads * head_dim, 4.0 * a.pairs * heads_kv * head_dim);
}

enum Step { down, up, up_gradient, down_gradient };

/// One low-rank kernel over the seven linears; `groups` rows in turn, or all rows one group.
void low_rank(benchmark::State& state, Step step, bool decode) {
    const int64_t rank = state.range(0);
    std::vector<int32_t> begin = row_begin, group;
    if (decode) begin = {0, 1, 2, 3, 4, 5, 6, 7, 8};
    const int32_t rows = static_cast<int32_t>(begin.size()) - 1;
    const int64_t n = begin.back(), groups = state.range(1);
    for (int32_t b = 0; b < rows; ++b) group.push_back(b % static_cast<int32_t>(groups));
    const auto a = halves(groups * ffn * rank, 0.05f), b = a;
    const auto v = floats(n * rank, 0.01f);
    auto u = v, gradient = floats(groups * ffn * rank);
    auto x = halves(n * ffn), y = x;
    double flops = 0, bytes = 0;
    for (const auto& l : linears) {
        const auto d = static_cast<double>(step == down || step == down_gradient ? l.in : l.out);
        flops += 2.0 * static_cast<double>(n * rank) * d * (step == down || step == up ? 1 : 2);
        bytes += 2.0 * static_cast<double>(n) * d *
                 (step == down          ? 1
                  : step == up          ? 2
                  : step == up_gradient ? 1
                                        : 3);
    }
    for (auto _ : state)
        for (const auto& l : linears) {
            const Rows r{begin.data(), rows};
            if (step == down)
                ops().low_rank_down(Float::bf16, x.data(), a.data(), group.data(), r, l.in, rank, u.data());
            else if (step == up)
                ops().low_rank_up(Float::bf16, v.data(), b.data(), group.data(), r, l.out, rank, 1e-3f,
                                  y.data());
            else if (step == up_gradient)
                ops().low_rank_up_backward(Float::bf16, x.data(), v.data(), b.data(), group.data(), r, l.out,
                                           rank, 1.0f, u.data(), gradient.data());
            else
                ops().low_rank_down_backward(Float::bf16, v.data(), x.data(), a.data(), group.data(), r, l.in,
                                             rank, y.data(), gradient.data());
        }
    report(state, flops, bytes);
}

/// One layer's linears decoding `tokens` tokens from quantised weights; bytes are the packed ones. Sixteen
/// layers in turn, so that they come from memory.
void decode_linears(benchmark::State& state, Quant quant, int block, int block_bytes) {
    const int64_t n = state.range(0), layers = 16;
    struct Matrix {
        std::vector<uint8_t> panels;
        PanelBranch branch{};
        int64_t columns;
    };
    std::vector<Matrix> matrices;
    double bytes = 0, flops = 0;
    std::vector<Halves> y;
    for (int64_t layer = 0; layer < layers; ++layer)
        for (const auto& l : linears) {
            // K formats want whole blocks of 256 columns.
            const int64_t in = (l.in + block - 1) / block * block;
            std::vector<uint8_t> raw(static_cast<size_t>(l.out * in / block * block_bytes), 0x31);
            Matrix m{
                std::vector<uint8_t>(static_cast<size_t>(ops().panel_bytes(quant, l.out, in)) + 64), {}, in};
            void* data = m.panels.data();
            size_t room = m.panels.size();
            std::align(64, room - 64, data, room);
            ops().make_panels(quant, raw.data(), nullptr, l.out, in, data);
            m.branch.quant = quant;
            m.branch.panels = data;
            m.branch.rows = l.out;
            m.branch.y_type = Float::bf16;
            y.emplace_back(static_cast<size_t>(n * l.out));
            m.branch.y = y.back().data();
            bytes += static_cast<double>(raw.size());
            flops += 2.0 * static_cast<double>(n * l.out * in);
            matrices.push_back(std::move(m));
        }
    const auto x = halves(n * 1536);
    const int32_t begin[] = {0, static_cast<int32_t>(n)};
    for (auto _ : state)
        for (const Matrix& m : matrices)
            ops().multiply_panels(Float::bf16, x.data(), {begin, 1}, m.columns, &m.branch, 1);
    report(state, flops, bytes);
}

/// One layer's linears over many tokens, forward and the input's gradient, eight layers in turn.
void dense_linears(benchmark::State& state) {
    if (!ops().multiply_dense) return state.SkipWithError("the set leaves dense products to oneDNN");
    const int64_t n = state.range(0), layers = 8;
    std::vector<Halves> weights;
    double flops = 0;
    for (int64_t layer = 0; layer < layers; ++layer)
        for (const auto& l : linears) {
            weights.push_back(halves(l.in * l.out, 0.05f));
            flops += 4.0 * static_cast<double>(n * l.out * l.in);
        }
    const auto x = halves(n * 1536);
    auto y = x;
    for (auto _ : state)
        for (size_t i = 0; i < weights.size(); ++i) {
            const auto& l = linears[i % (sizeof linears / sizeof linears[0])];
            for (const int backward : {0, 1})
                ops().multiply_dense(x.data(), n, {weights[i].data(), l.out, l.in, backward}, 0, y.data());
        }
    report(state, flops, 0);
}

void cross_entropy(benchmark::State& state) {
    const int64_t n = 32, vocab = 49152;
    const auto start = floats(n * vocab, 5);
    auto logits = start;
    const std::vector<int32_t> target(n, 7);
    std::vector<float> nll(n);
    for (auto _ : state) ops().cross_entropy(logits.data(), target.data(), 0.0f, nll.data(), 1, n, vocab);
    report(state, 0, 8.0 * n * vocab);
}
void adamw(benchmark::State& state) {
    const int64_t n = 2442240;  // rank 8 on all linears of 30 layers
    auto p = floats(n), m = p, v = std::vector<float>(static_cast<size_t>(n), 1.0f);
    const auto g = p;
    const AdamwTensor tensor{p.data(), g.data(), m.data(), v.data(), n, 1e-3f, 0.01f, 0.5f, 0.5f};
    for (auto _ : state) ops().adamw(&tensor, 1, 0.9f, 0.999f, 1e-8f, 1.0f);
    report(state, 0, 28.0 * n);
}

BENCHMARK(limit_memory)->UseRealTime();
BENCHMARK(limit_products)->UseRealTime();
BENCHMARK(rms_norm_forward)->UseRealTime();
BENCHMARK(rms_norm_gradient)->UseRealTime();
BENCHMARK(add_rms_norm)->UseRealTime();
BENCHMARK(rope)->UseRealTime();
BENCHMARK(swiglu_forward)->UseRealTime();
BENCHMARK(swiglu_gradient)->UseRealTime();
BENCHMARK(attention_forward)->UseRealTime();
BENCHMARK(attention_gradient)->UseRealTime();
BENCHMARK(attention_decode)->Arg(100)->Arg(1000)->UseRealTime();
#define POLYAD_LOW_RANK(step) \
    BENCHMARK_CAPTURE(low_rank, step, step, false)->Args({8, 1})->Args({8, 8})->Args({64, 1})->UseRealTime()
POLYAD_LOW_RANK(down);
POLYAD_LOW_RANK(up);
POLYAD_LOW_RANK(up_gradient);
POLYAD_LOW_RANK(down_gradient);
BENCHMARK_CAPTURE(low_rank, decode_down, down, true)->Args({8, 1})->Args({8, 8})->UseRealTime();
BENCHMARK_CAPTURE(low_rank, decode_up, up, true)->Args({8, 1})->Args({8, 8})->UseRealTime();
#define POLYAD_DECODE(quant, block, bytes) \
    BENCHMARK_CAPTURE(decode_linears, quant, Quant::quant, block, bytes)->Arg(1)->Arg(8)->UseRealTime()
POLYAD_DECODE(q4_0, 32, 18);
POLYAD_DECODE(q4_1, 32, 20);
POLYAD_DECODE(q8_0, 32, 34);
POLYAD_DECODE(q4_k, 256, 144);
POLYAD_DECODE(q6_k, 256, 210);
BENCHMARK(dense_linears)->Arg(32)->Arg(128)->Arg(800)->UseRealTime();
BENCHMARK(cross_entropy)->UseRealTime();
BENCHMARK(adamw)->UseRealTime();

}  // namespace

BENCHMARK_MAIN();
