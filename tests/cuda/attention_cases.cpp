// SPDX-License-Identifier: Apache-2.0
// Ragged attention: device against CPU reference.
#include "tests/cuda/device.h"

namespace polyad::kernels {
namespace {

struct Case {
    std::vector<int32_t> nq, nk;
    int32_t heads, heads_kv, head_dim, window = 0, causal = 1, tail = 1;
    bool bias = false;
    int32_t gap = 0;  ///< elements between a token's keys and the next one's: no backward pass then
};

const Case cases[] = {
    {{5, 17, 1}, {5, 17, 1}, 4, 4, 16},
    {{30, 0, 70}, {30, 0, 70}, 9, 3, 64},
    {{200, 3}, {200, 3}, 3, 1, 64},
    {{33}, {33}, 2, 2, 20},
    {{65, 4}, {65, 4}, 4, 2, 80},
    {{140}, {140}, 2, 1, 128},
    {{90}, {90}, 6, 2, 64, 20},
    {{90}, {90}, 2, 2, 16, 1},
    {{300}, {300}, 4, 2, 64, 70},
    {{1, 1, 2}, {77, 1, 140}, 9, 3, 64},          // decoding
    {{1, 1}, {3000, 700}, 9, 3, 64},              // keys split over blocks
    {{1}, {1500}, 8, 1, 128},                     // the same, wide heads
    {{1, 3}, {77, 9}, 4, 4, 20, 8},               // decoding in a window
    {{20, 70}, {100, 75}, 6, 2, 64},              // a prompt behind a cache
    {{12, 50}, {30, 131}, 4, 4, 64, 0, 0, 0},     // cross-attention
    {{40, 2}, {40, 2}, 3, 3, 64, 0, 1, 1, true},  // biased
    {{25}, {61}, 2, 2, 16, 0, 0, 0, true},
    {{30}, {30}, 80, 1, 16},                            // more heads per key head than a block has rows
    {{21}, {21}, 3, 1, 7},                              // an odd head
    {{20}, {50}, 2, 2, 16, 0, 1, 0},                    // causal from position 0
    {{9}, {4}, 2, 2, 16},                               // more queries than keys: the first see nothing
    {{17}, {17}, 2, 1, 192},                            // heads wider than the blocks'
    {{30, 3}, {30, 50}, 6, 2, 64, 0, 1, 1, false, 64},  // keys and values side by side in one tensor
    {{20}, {40}, 2, 1, 128, 0, 1, 1, false, 24},
    {{5, 1}, {5, 90}, 3, 1, 20, 0, 1, 1, false, 3},  // no whole vectors
    {{7}, {7}, 2, 1, 192, 0, 1, 1, false, 8},
};

int32_t sum(const std::vector<int32_t>& n) {
    int32_t s = 0;
    for (const int32_t x : n) s += x;
    return s;
}

struct Problem {
    Problem(const Case& c, Float t, std::mt19937_64& random, int shift)
        : shape(c),
          type(t),
          stride(c.heads_kv * c.head_dim + c.gap),
          longest(*std::max_element(c.nk.begin(), c.nk.end())),
          q(t, int64_t{sum(c.nq)} * c.heads * c.head_dim, shift),
          k(t, sum(c.nk) * stride, shift),
          v(t, sum(c.nk) * stride, shift),
          d_o(t, q.n(), shift),
          o(t, q.n(), shift),
          dq(t, q.n(), shift),
          dk(t, k.n(), shift),
          dv(t, v.n(), shift),
          lse(Float::f32, int64_t{sum(c.nq)} * c.heads),
          bias(Float::f32, c.bias ? int64_t{c.heads} * (longest + 1) * longest : 1) {
        for (const int32_t n : c.nq) begin.push_back(begin.back() + n);
        for (auto* one : {&q, &k, &v, &d_o, &bias}) one->random(random);
    }
    Attention args(Side s) {
        k_row.clear(), v_row.clear(), dk_row.clear(), dv_row.clear();
        int64_t at = 0;
        for (const int32_t n : shape.nk) {
            k_row.push_back(k.at(s, at * stride)), v_row.push_back(v.at(s, at * stride));
            dk_row.push_back(dk.at(s, at * stride)), dv_row.push_back(dv.at(s, at * stride));
            at += n;
        }
        Attention a{};
        a.type = type;
        a.rows = static_cast<int32_t>(shape.nq.size());
        a.heads = shape.heads, a.heads_kv = shape.heads_kv, a.head_dim = shape.head_dim;
        a.query_begin = begin.data(), a.key_count = shape.nk.data();
        a.k_row = k_row.data(), a.v_row = v_row.data();
        a.kv_stride = stride;
        a.scale = 1 / std::sqrt(static_cast<float>(shape.head_dim));
        a.window = shape.window, a.causal = shape.causal;
        a.bias = shape.bias ? bias.floats(s) : nullptr;
        a.bias_query_stride = longest, a.bias_head_stride = int64_t{longest + 1} * longest;
        a.query_position0_is_tail = shape.tail;
        return a;
    }
    std::string what() const {
        return std::string(name_of(type)) + ", " + std::to_string(shape.nq[0]) + " queries, " +
               std::to_string(shape.nk[0]) + " keys, heads of " + std::to_string(shape.head_dim);
    }

    Case shape;
    Float type;
    int64_t stride;
    int32_t longest;
    std::vector<int32_t> begin{0};
    Array q, k, v, d_o, o, dq, dk, dv, lse, bias;
    std::vector<const void*> k_row, v_row;
    std::vector<void*> dk_row, dv_row;
};

TEST_F(CudaKernels, AttentionForwardAndBackward) {
    for (const Float type : both_types)
        for (const Case& c : cases)
            for (const int shift : {0, 1}) {
                Problem p(c, type, random, shift);
                on_both(p.what(), [&](const OpTable& op, Side s) {
                    const Attention a = p.args(s);
                    op.attention(a, p.q.at(s), p.o.at(s), p.lse.floats(s));
                    if (c.gap > 0) return;
                    op.attention_backward(a, p.q.at(s), p.o.at(s), p.d_o.at(s), p.lse.floats(s), p.dq.at(s),
                                          p.dk_row.data(), p.dv_row.data());
                });
                const double tolerance = type == Float::f32 ? 3e-5 : 2e-2;
                p.o.expect_same(tolerance, "o, " + p.what());
                p.lse.expect_same(type == Float::f32 ? 1e-5 : 1e-3, "lse, " + p.what());
                if (c.gap > 0) continue;
                p.dq.expect_same(tolerance, "dq, " + p.what());
                p.dk.expect_same(tolerance, "dk, " + p.what());
                p.dv.expect_same(tolerance, "dv, " + p.what());
            }
}

TEST_F(CudaKernels, AttentionOverPages) {
    for (const Float type : both_types)
        for (const int32_t page_tokens : {2, 16, 64}) {
            const Case c{{1, 30, 2}, {77, 41, 140}, 6, 2, 64};
            Problem p(c, type, random, 0);
            const int64_t page_size = 2 * page_tokens * p.stride;
            std::vector<int32_t> page_begin;
            int32_t pages = 0;
            for (const int32_t n : c.nk) {
                page_begin.push_back(pages);
                pages += (n + page_tokens - 1) / page_tokens;
            }
            Array store(type, pages * page_size);
            store.random(random);
            on_both(p.what(), [&](const OpTable& op, Side s) {
                std::vector<const void*> page;
                for (int32_t i = 0; i < pages; ++i) page.push_back(store.at(s, (pages - 1 - i) * page_size));
                Attention a = p.args(s);
                a.k_row = a.v_row = nullptr;
                a.page_tokens = page_tokens;
                a.page_begin = page_begin.data();
                a.page = page.data();
                a.v_offset = page_tokens * p.stride;
                op.attention(a, p.q.at(s), p.o.at(s), nullptr);
            });
            p.o.expect_same(type == Float::f32 ? 3e-5 : 2e-2, "pages of " + std::to_string(page_tokens));
        }
}

// A decoding step captured once and replayed with other lengths and positions, which the device's twins
// bring.
TEST_F(CudaKernels, ReplaysAGraphWithBoundArrays) {
    const CudaLibrary& library = *device_library();
    const int32_t rows = 3, most = 600, heads = 6, heads_kv = 2, d = 64, width = heads_kv * d;
    const std::vector<int32_t> begin{0, 1, 2, 3};
    std::vector<int32_t> counts(rows, most), past(rows, most - 1), position(rows, 0);
    Array q(Float::bf16, rows * heads * d), fresh(Float::bf16, rows * width), o(Float::bf16, q.n());
    Array k(Float::bf16, rows * most * width), v(Float::bf16, k.n());
    Array cos(Float::f32, most * d / 2), sin(Float::f32, cos.n());
    for (auto* one : {&q, &fresh, &k, &v, &cos, &sin}) one->random(random);
    const auto step = [&](const OpTable& op, Side s) {
        std::vector<void*> row;
        std::vector<const void*> k_row, v_row;
        for (int32_t b = 0; b < rows; ++b) {
            row.push_back(k.at(s, int64_t{b} * most * width));
            k_row.push_back(row.back());
            v_row.push_back(v.at(s, int64_t{b} * most * width));
        }
        op.rope(Float::bf16, q.at(s), heads * d, cos.floats(s), sin.floats(s), position.data(), rows, heads,
                d, d, 0);
        op.append(Float::bf16, fresh.at(s), {begin.data(), rows}, {row.data(), 0, nullptr, nullptr, 0},
                  past.data(), width);
        Attention a{};
        a.type = Float::bf16;
        a.rows = rows, a.heads = heads, a.heads_kv = heads_kv, a.head_dim = d;
        a.query_begin = begin.data(), a.key_count = counts.data(), a.k_row = k_row.data(),
        a.v_row = v_row.data();
        a.kv_stride = width, a.scale = 0.125f, a.causal = 1, a.query_position0_is_tail = 1;
        op.attention(a, q.at(s), o.at(s), nullptr);
    };
    step(*library.ops, Side::device);  // brings up scratch memory
    Ints twin_counts(rows), twin_past(rows), twin_position(rows);
    library.bind(counts.data(), rows * 4, twin_counts.device);
    library.bind(past.data(), rows * 4, twin_past.device);
    library.bind(position.data(), rows * 4, twin_position.device);
    library.graph_begin();
    step(*library.ops, Side::device);
    void* graph = library.graph_end();
    ASSERT_NE(graph, nullptr) << library.take_error();
    library.unbind(counts.data()), library.unbind(past.data()), library.unbind(position.data());
    for (auto* one : {&q, &k, &v}) one->push();  // undo the steps made so far
    for (const std::vector<int32_t>& now :
         {std::vector<int32_t>{1, 77, 600}, std::vector<int32_t>{200, 3, 500}}) {
        counts = now;
        for (int32_t b = 0; b < rows; ++b) past[b] = position[b] = now[b] - 1;
        library.copy(twin_counts.device, counts.data(), rows * 4);
        library.copy(twin_past.device, past.data(), rows * 4);
        library.copy(twin_position.device, position.data(), rows * 4);
        library.graph_launch(graph);
        step(*ops_for("portable"), Side::host);
        o.expect_same(2e-2, "replay");
        k.expect_same(0, "cache after a replay");
    }
    library.graph_release(graph);
    EXPECT_EQ(library.take_error(), nullptr);
}

}  // namespace
}  // namespace polyad::kernels
