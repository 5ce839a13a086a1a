// SPDX-License-Identifier: Apache-2.0
// Attention, forward: blocked with online softmax (FlashAttention), or key by key where there are few
// queries.
#include "kernels/cpu/isa/attention_block.h"
#include "kernels/cpu/isa/project.h"

namespace polyad::kernels::POLYAD_ISA {
namespace {

/// Stacked queries up to which packing keys and values costs more than it saves.
constexpr int64_t few_queries = 12;
/// Keys whose memory is asked for ahead of them.
constexpr int64_t ahead = 32;

/// Offsets into one thread's scratch, in floats.
struct Layout {
    int64_t cells, k, v, q_rows, q, s, p, o, gathered, end;

    /// `shared`: floats for gathered keys and values.
    Layout(const Attention& a, int depth, int64_t shared) {
        const int64_t d = a.head_dim, block = block_queries;
        cells = (d + depth - 1) / depth;
        bool packs = false;
        for (int32_t b = 0; b < a.rows; ++b)
            packs |= (a.query_begin[b + 1] - a.query_begin[b]) * (a.heads / a.heads_kv) > few_queries;
        const int64_t all_keys = most_keys(a), keys = packs ? all_keys + 2 : 0;
        int64_t at = 0;
        const auto take = [&](int64_t n) {
            const int64_t here = at;
            at += round_up(n, 16) + 16;
            return here;
        };
        k = take(keys * cells);
        v = take(keys * d);
        q_rows = take(block * round_up(d, 16));
        q = take(cells * block);
        s = take(block_keys * block);
        p = take(block_keys * block);
        o = take(d * block);
        gathered = most(at, few_queries * (all_keys + 2 * round_up(d, 16)) + 64);
        end = gathered + shared;
    }
};

constexpr float ln_2 = 0.693147180559945f;

/// Running maximum (of scores in units of log2(e)) and sum of a lane.
struct Softmax {
    float top[block_queries], total[block_queries], correction[block_queries];
};

/// Vectors of lanes worked side by side: the steps of one exponential wait for each other.
constexpr int together = 4;

template <int Depth, int Vectors>
inline void exponentiate_lanes(int64_t lane, int64_t count, const float* s, float* p, Softmax& state) {
    vf best[Vectors], shift[Vectors], sums[Vectors];
    for (int v = 0; v < Vectors; ++v) best[v] = load(state.top + lane + v * lanes);
    for (int64_t j = 0; j < count; ++j)
        for (int v = 0; v < Vectors; ++v)
            best[v] = larger(load(s + j * block_queries + lane + v * lanes), best[v]);
    for (int v = 0; v < Vectors; ++v) {
        shift[v] = (best[v] == -INFINITY) ? vf{} : best[v];  // nothing seen yet: all probabilities 0, not NaN
        sums[v] = vf{};
    }
    int64_t j = 0;
    for (; j + Depth <= count; j += Depth)
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v) {
            const float* from = s + j * block_queries + lane + v * lanes;
            const vf first = power_of_two(load(from) - shift[v]);
            vf second = {};
            if constexpr (Depth == 2) second = power_of_two(load(from + block_queries) - shift[v]);
            sums[v] += first + second;
            store(p + j / Depth * block_queries + lane + v * lanes, pair_up<Depth>(first, second));
        }
    for (int v = 0; v < Vectors; ++v) {
        const int64_t at = lane + v * lanes;
        if (j < count) {
            const vf first = power_of_two(load(s + j * block_queries + at) - shift[v]);
            sums[v] += first;
            store(p + j / Depth * block_queries + at, pair_up<Depth>(first, vf{}));
        }
        const vf correction = power_of_two(load(state.top + at) - shift[v]);
        store(state.correction + at, correction);
        store(state.total + at, load(state.total + at) * correction + sums[v]);
        store(state.top + at, best[v]);
    }
}

/// Turns scores into probabilities relative to the running maximum, as cells [ceil(count / depth)][lanes].
template <int Depth>
inline void exponentiate(const Block& block, int64_t count, const float* s, float* p, Softmax& state) {
    int64_t lane = 0;
    for (; lane + together * lanes <= block.width; lane += together * lanes)
        exponentiate_lanes<Depth, together>(lane, count, s, p, state);
    for (; lane < block.width; lane += lanes) exponentiate_lanes<Depth, 1>(lane, count, s, p, state);
}

template <class T>
void blocked(const Head<T>& head, const T* q, T* o, float* lse, const Layout& at, float* scratch) {
    constexpr int depth = cell_depth<T>;
    const int64_t d = head.a.head_dim, cells = at.cells;
    head.stretches(0, head.keys, [&](int64_t first, int64_t count, const T* k, const T* v) {
        pack_rows(k, head.kv_stride, count, d, scratch + at.k + first * cells, cells);
        pack_columns(v, head.kv_stride, count, d, scratch + at.v + first / depth * d);
    });
    float *s = scratch + at.s, *p = scratch + at.p, *out = scratch + at.o;
    Softmax state;
    for (int64_t begin = 0; begin < head.stacked; begin += block_queries) {
        const Block block(head, begin);
        pack_lanes(head, block, q, scratch + at.q_rows, cells, scratch + at.q);
        for (int64_t i = 0; i < block.width; ++i) {
            state.top[i] = -INFINITY;
            state.total[i] = 0;
        }
        if (block.key_begin >= block.key_end) std::memset(out, 0, static_cast<size_t>(d * block_queries) * 4);
        for (int64_t key = block.key_begin; key < block.key_end; key += block_keys) {
            const int64_t count = least(block_keys, block.key_end - key);
            multiply_lines<depth>(count, block.width, cells, scratch + at.k + key * cells, cells,
                                  scratch + at.q, block_queries, s, block_queries, false);
            finish_scores(head, block, key, count, s);
            exponentiate<depth>(block, count, s, p, state);
            if (key != block.key_begin)
                for (int64_t c = 0; c < d; ++c)
                    for (int64_t lane = 0; lane < block.width; lane += lanes) {
                        float* x = out + c * block_queries + lane;
                        store(x, load(x) * load(state.correction + lane));
                    }
            multiply<depth>(d, block.width, (count + depth - 1) / depth,
                            {scratch + at.v + key / depth * d, 1, d}, p, block_queries, out, block_queries,
                            key != block.key_begin);
        }
        for (int64_t i = 0; i < block.width; ++i) {
            if (lse && i < block.count) {
                const bool none = state.total[i] == 0;
                lse[block.lse_offset[i]] = none ? -INFINITY : state.top[i] * ln_2 + std::log(state.total[i]);
            }
            state.correction[i] = state.total[i] == 0 ? 0.0f : 1.0f / state.total[i];
        }
        unpack_lanes(head, block, out, state.correction, scratch + at.q_rows, o);
    }
}

/// out[r, :] (+)= sum_j p[r, j] V[j, :] for Rows rows and 4 vectors of V's columns, sums in registers.
template <int Rows, class T>
inline void mix_values(const float* p, int64_t p_stride, const T* v, int64_t v_stride, int64_t keys,
                       float* out, int64_t out_stride, bool add) {
    vf acc[Rows][4];
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
        for (int c = 0; c < 4; ++c) acc[r][c] = add ? load(out + r * out_stride + c * lanes) : vf{};
    for (int64_t j = 0; j < keys; ++j) {
        vf value[4];
#pragma GCC unroll 4
        for (int c = 0; c < 4; ++c) value[c] = load(v + j * v_stride + c * lanes);
#pragma GCC unroll 4
        for (int r = 0; r < Rows; ++r) {
            const vf weight = splat(p[r * p_stride + j]);
#pragma GCC unroll 4
            for (int c = 0; c < 4; ++c) acc[r][c] = fma(weight, value[c], acc[r][c]);
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
        for (int c = 0; c < 4; ++c) store(out + r * out_stride + c * lanes, acc[r][c]);
}

template <class T>
inline void mix_columns(const float* p, int64_t p_stride, int64_t rows, const T* v, int64_t v_stride,
                        int64_t keys, int64_t d, float* out, int64_t out_stride, bool add) {
    int64_t c = 0;
    for (; c + 4 * lanes <= d; c += 4 * lanes) {
        int64_t r = 0;
        for (; r + 3 <= rows; r += 3)
            mix_values<3>(p + r * p_stride, p_stride, v + c, v_stride, keys, out + r * out_stride + c,
                          out_stride, add);
        for (; r < rows; ++r)
            mix_values<1>(p + r * p_stride, p_stride, v + c, v_stride, keys, out + r * out_stride + c,
                          out_stride, add);
    }
    for (int64_t r = 0; r < rows && c < d; ++r) {
        float* to = out + r * out_stride + c;
        if (!add) std::memset(to, 0, static_cast<size_t>(d - c) * 4);
        for (int64_t j = 0; j < keys; ++j) {
            const vf weight = splat(p[r * p_stride + j]);
            sweep(d - c, [&](int64_t i, auto w) {
                store(to + i, fma(weight, load(v + j * v_stride + c + i, w), load(to + i, w)), w);
            });
        }
    }
}

/// Without packing, straight from where keys and values lie: for decoding, where memory is read once anyway.
template <class T>
void direct(const Head<T>& head, const T* q, T* o, float* lse, float* scratch) {
    const int64_t d = head.a.head_dim, width = round_up(d, 16), rows = head.stacked, stride = head.keys;
    auto* queries = reinterpret_cast<T*>(scratch);
    float* out = scratch + rows * width;
    float* scores = out + rows * width;
    int64_t begin = head.keys, end = 0;
    for (int64_t r = 0; r < rows; ++r) {
        std::memcpy(queries + r * d, q + head.offset(r), static_cast<size_t>(d) * sizeof(T));
        if (head.last(r) == head.first(r)) continue;
        begin = least(begin, head.first(r));
        end = most(end, head.last(r));
    }
    if (begin > end) begin = end;
    const int64_t seen = end - begin;
    // A head's part of a token is a few lines, too short a run for the hardware: the next ones are asked for.
    const auto ask = [&](int64_t first, bool values) {
        head.stretches(first, least(first + ahead, end), [&](int64_t, int64_t count, const T* k, const T* v) {
            for (int64_t j = 0; j < count; ++j)
                ask_for((values ? v : k) + j * head.kv_stride, d * static_cast<int64_t>(sizeof(T)));
        });
    };
    head.stretches(begin, end, [&](int64_t first, int64_t count, const T* k, const T*) {
        if (first + count < end)
            ask(first + count, false);
        else
            ask(begin, true);
        project(queries, d, k, head.kv_stride, rows, d, count, head.a.scale, scores + first - begin, stride);
    });
    for (int64_t r = 0; r < rows; ++r) {
        const int64_t first = head.first(r), count = head.last(r) - first;
        float* all = scores + r * stride;
        if (count == 0) {
            std::memset(all, 0, static_cast<size_t>(seen) * 4);
            if (lse) lse[head.lse_offset(r)] = -INFINITY;
            continue;
        }
        float* s = all + first - begin;
        if (head.a.bias) {
            const float* bias = head.bias(r) + first;
            for (int64_t j = 0; j < count; ++j) s[j] += bias[j];
        }
        float top = -INFINITY;
        for (int64_t j = 0; j < count; ++j) top = s[j] > top ? s[j] : top;
        const float shift = top == -INFINITY ? 0.0f : top;
        vf sums = {};
        int64_t j = 0;
        for (; j + lanes <= count; j += lanes) {
            const vf p = exponential(load(s + j) - shift);
            store(s + j, p);
            sums += p;
        }
        float total = sum(sums);
        for (; j < count; ++j) total += s[j] = exponential(splat(s[j] - shift))[0];
        if (lse) lse[head.lse_offset(r)] = total == 0 ? -INFINITY : shift + std::log(total);
        const float scale = total == 0 ? 0.0f : 1.0f / total;
        sweep(count, [&](int64_t i, auto w) { store(s + i, load(s + i, w) * scale, w); });
        std::memset(all, 0, static_cast<size_t>(first - begin) * 4);
        std::memset(s + count, 0, static_cast<size_t>(end - first - count) * 4);
    }
    if (seen == 0) std::memset(out, 0, static_cast<size_t>(rows * width) * 4);
    head.stretches(begin, end, [&](int64_t first, int64_t count, const T*, const T* v) {
        ask(first + count, true);
        mix_columns(scores + first - begin, stride, rows, v, head.kv_stride, count, d, out, width,
                    first != begin);
    });
    for (int64_t r = 0; r < rows; ++r) {
        T* to = o + head.offset(r);
        sweep(d, [&](int64_t i, auto w) { store(to + i, load(out + r * width + i, w), w); });
    }
}

template <class T>
void run(const Attention& a, const int32_t* parent, const T* q, T* o, float* lse) {
    const Layout layout(a, cell_depth<T>, parent ? gathered_floats<T>(most_keys(a), a.head_dim) : 0);
    const int threads = thread_limit();
    const int64_t stride = round_up(layout.end, 16) + 16;
    const Scratch<float> scratch(threads * stride);
    const int64_t tasks = static_cast<int64_t>(a.rows) * a.heads_kv;
#pragma omp parallel for schedule(dynamic) if (attention_work(a) >= 65536)
    for (int64_t task = 0; task < tasks; ++task) {
        Head<T> head(a, task);
        float* mine = scratch.get() + thread_number() * stride;
        if (parent) head.gather(parent, reinterpret_cast<T*>(mine + layout.gathered));
        if (head.stacked <= few_queries)
            direct(head, q, o, lse, mine);
        else
            blocked(head, q, o, lse, layout, mine);
    }
}

}  // namespace

void tree_attention(const Attention& a, const int32_t* parent, const void* q, void* o, float* lse) {
    if (a.type == Float::bf16)
        run(a, parent, static_cast<const bf16*>(q), static_cast<bf16*>(o), lse);
    else
        run(a, parent, static_cast<const float*>(q), static_cast<float*>(o), lse);
}

void attention(const Attention& a, const void* q, void* o, float* lse) {
    tree_attention(a, nullptr, q, o, lse);
}

}  // namespace polyad::kernels::POLYAD_ISA
