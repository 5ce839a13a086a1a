// SPDX-License-Identifier: Apache-2.0
// Attention, backward. One task per (row, key-value head) owns its dk and dv, so nothing is shared between
// threads:
//   P = exp(S - lse)   dV = P^T dO   dP = dO V^T   dS = scale P (dP - rowsum(dO O))   dQ = dS K   dK = dS^T Q
// with S recomputed block by block, lanes = queries as in the forward pass. With shared beginnings a task
// keeps the gradients of its whole line apart; a second pass adds up, token by token, what the rows that go
// on from a row left for it, always in the same order.
#include <type_traits>

#include "kernels/cpu/isa/attention_block.h"
#include "kernels/cpu/isa/project.h"

namespace polyad::kernels::POLYAD_ISA {
namespace {

/// Offsets into one thread's scratch, in floats.
struct Layout {
    int64_t cells, width;  ///< width: head_dim in whole vectors
    int64_t k, v, k_columns, dk, dv, rows, q, d_o, q_columns, d_o_columns, s, dp, p_cells, ds_cells,
        ds_columns, dq, gathered, end;

    /// `shared`: floats for gathered keys and values.
    Layout(const Attention& a, int depth, int64_t shared) {
        const int64_t keys = most_keys(a) + 2, d = a.head_dim, block = block_queries;
        cells = (d + depth - 1) / depth;
        width = round_up(d, 16);
        int64_t at = 0;
        const auto take = [&](int64_t n) {
            const int64_t here = at;
            at += round_up(n, 16) + 16;
            return here;
        };
        k = take(keys * cells);
        v = take(keys * cells);
        k_columns = take((keys / depth + 1) * d);
        dk = take(keys * width);
        dv = take(keys * width);
        rows = take(block * width);
        q = take(cells * block);
        d_o = take(cells * block);
        q_columns = take(block * width);
        d_o_columns = take(block * width);
        s = take(block_keys * block);
        dp = take(block_keys * block);
        p_cells = take(block_keys * block);
        ds_cells = take(block_keys * block);
        ds_columns = take(block_keys * block);
        dq = take(d * block);
        gathered = at;
        end = at + shared;
    }
};

/// A block's rows of q (or do) as columns of cells [width / depth][head_dim in whole vectors], zero padded.
template <class T>
inline void pack_block_columns(const Head<T>& head, const Block& block, const T* from, float* to,
                               int64_t stride) {
    constexpr int depth = cell_depth<T>;
    std::memset(to, 0, static_cast<size_t>(block.width / depth * stride) * 4);
    for (int64_t i = 0; i < block.count; i += depth) {
        const bool second = depth == 2 && i + 1 < block.count;
        column_cells<T>(from + block.offset[i], second ? from + block.offset[i + 1] : nullptr,
                        head.a.head_dim, to + i / depth * stride);
    }
}

/// delta[i] = dot product of rows i of o and do; 0 in unused lanes.
template <class T>
inline void row_products(const Block& block, const T* o, const T* d_o, int64_t d, float* delta) {
    constexpr int rows = 8;
    for (int64_t i = 0; i < block.width; i += rows) {
        vf dot[rows];
        for (int j = 0; j < rows; ++j) {
            dot[j] = vf{};
            if (i + j >= block.count) continue;
            const T *x = o + block.offset[i + j], *y = d_o + block.offset[i + j];
            sweep(d, [&](int64_t c, auto w) { dot[j] = fma(load(x + c, w), load(y + c, w), dot[j]); });
        }
        float sums[rows];
        lane_sums(dot, sums);
        for (int j = 0; j < rows && i + j < block.width; ++j) delta[i + j] = sums[j];
    }
}

/// S^T, dP^T -> P^T and dS^T as rows of cells, dS^T as columns of cells too.
template <int Depth, class CellSource>
inline void differentiate(const Block& block, int64_t count, float scale, const float* lse,
                          const float* delta, const float* s, const float* dp, float* p_cells,
                          float* ds_cells, float* ds_columns) {
    const int64_t stride = block_queries / Depth;
    for (int64_t j = 0; j < count; j += Depth)
        for (int64_t lane = 0; lane < block.width; lane += lanes) {
            const vf shift = load(lse + lane), mean = load(delta + lane);
            vf ds[2] = {};
#pragma GCC unroll 2
            for (int i = 0; i < Depth; ++i) {
                if (j + i >= count) break;
                const int64_t at = (j + i) * block_queries + lane;
                const vf p = power_of_two(load(s + at) - shift);
                ds[i] = p * (load(dp + at) - mean) * scale;
                store(reinterpret_cast<CellSource*>(p_cells + (j + i) * stride) + lane, p);
                store(reinterpret_cast<CellSource*>(ds_cells + (j + i) * stride) + lane, ds[i]);
            }
            store(ds_columns + j / Depth * block_queries + lane, pair_up<Depth>(ds[0], ds[1]));
        }
}

/// dq of a head, and at.dk and at.dv in scratch: [keys][width].
template <class T>
void one(const Head<T>& head, const T* q, const T* o, const T* d_o, const float* lse, T* dq, const Layout& at,
         float* scratch) {
    constexpr int depth = cell_depth<T>;
    // What a cell row is written as: pairs of bf16, else floats.
    using CellSource = std::conditional_t<depth == 2, bf16, float>;
    const int64_t d = head.a.head_dim, cells = at.cells, width = at.width, keys = head.keys;
    pack_rows(head.k, head.kv_stride, keys, d, scratch + at.k, cells);
    pack_rows(head.v, head.kv_stride, keys, d, scratch + at.v, cells);
    pack_columns(head.k, head.kv_stride, keys, d, scratch + at.k_columns);
    std::memset(scratch + at.dk, 0, static_cast<size_t>(keys * width) * 4);
    std::memset(scratch + at.dv, 0, static_cast<size_t>(keys * width) * 4);
    float shift[block_queries], delta[block_queries], ones[block_queries];
    for (float& factor : ones) factor = 1;
    for (int64_t begin = 0; begin < head.stacked; begin += block_queries) {
        const Block block(head, begin);
        for (int64_t i = 0; i < block.width; ++i) {
            shift[i] = i < block.count ? lse[block.lse_offset[i]] * log2_e : 0;
            if (shift[i] == -INFINITY) shift[i] = 0;  // a query that saw nothing
        }
        row_products(block, o, d_o, d, delta);
        pack_lanes(head, block, q, scratch + at.rows, cells, scratch + at.q);
        pack_lanes(head, block, d_o, scratch + at.rows, cells, scratch + at.d_o);
        pack_block_columns(head, block, q, scratch + at.q_columns, width);
        pack_block_columns(head, block, d_o, scratch + at.d_o_columns, width);
        if (block.key_begin >= block.key_end)
            std::memset(scratch + at.dq, 0, static_cast<size_t>(d * block_queries) * 4);
        const int64_t lane_cells = block_queries / depth;
        for (int64_t key = block.key_begin; key < block.key_end; key += block_keys) {
            const int64_t count = least(block_keys, block.key_end - key);
            multiply_lines<depth>(count, block.width, cells, scratch + at.k + key * cells, cells,
                                  scratch + at.q, block_queries, scratch + at.s, block_queries, false);
            finish_scores(head, block, key, count, scratch + at.s);
            multiply_lines<depth>(count, block.width, cells, scratch + at.v + key * cells, cells,
                                  scratch + at.d_o, block_queries, scratch + at.dp, block_queries, false);
            differentiate<depth, CellSource>(block, count, head.a.scale, shift, delta, scratch + at.s,
                                             scratch + at.dp, scratch + at.p_cells, scratch + at.ds_cells,
                                             scratch + at.ds_columns);
            multiply_lines<depth>(count, width, block.width / depth, scratch + at.p_cells, lane_cells,
                                  scratch + at.d_o_columns, width, scratch + at.dv + key * width, width,
                                  true);
            multiply_lines<depth>(count, width, block.width / depth, scratch + at.ds_cells, lane_cells,
                                  scratch + at.q_columns, width, scratch + at.dk + key * width, width, true);
            multiply<depth>(d, block.width, (count + depth - 1) / depth,
                            {scratch + at.k_columns + key / depth * d, 1, d}, scratch + at.ds_columns,
                            block_queries, scratch + at.dq, block_queries, key != block.key_begin);
        }
        unpack_lanes(head, block, scratch + at.dq, ones, scratch + at.rows, dq);
    }
}

/// Tokens of float32 gradients [tokens][width] into dk or dv.
template <class T>
inline void write_keys(const Head<T>& head, const float* from, int64_t width, int64_t tokens, T* to) {
    for (int64_t j = 0; j < tokens; ++j) {
        const float* row = from + j * width;
        T* out = to + j * head.a.kv_stride + head.kv_head * head.a.head_dim;
        sweep(head.a.head_dim, [&](int64_t i, auto w) { store(out + i, load(row + i, w), w); });
    }
}

/// Where each (row, head) keeps the gradients of its line: dk [keys][width], then dv.
class Lines {
  public:
    Lines(const Attention& a, int64_t width) : begin_(a.rows + 1) {
        begin_[0] = 0;
        for (int32_t b = 0; b < a.rows; ++b)
            begin_[b + 1] = begin_[b] + 2 * most(a.key_count[b], 0) * width * a.heads_kv;
    }
    int64_t end(int32_t rows) const { return begin_[rows]; }
    /// Of a head of row `b`; `keys`: its key count.
    int64_t at(int64_t b, int64_t kv_head, int64_t keys, int64_t width) const {
        return begin_[b] + 2 * kv_head * keys * width;
    }

  private:
    Scratch<int64_t> begin_;
};

/// Is `row` in the line that leads to `b`?
inline bool goes_on_from(const int32_t* parent, int64_t b, int64_t row) {
    while (b > row) b = parent[b];
    return b == row;
}

/// Adds to a row's own part of its line what the rows that go on from it left there.
template <class T>
void collect(const Head<T>& head, const int32_t* parent, const Lines& lines, float* all, int64_t width) {
    const int64_t own = (head.keys - head.queries) * width, count = head.queries * width;
    float* mine = all + lines.at(head.row, head.kv_head, head.keys, width);
    for (int64_t b = head.row + 1; b < head.a.rows; ++b) {
        if (!goes_on_from(parent, b, head.row)) continue;
        const int64_t keys = most(head.a.key_count[b], 0);
        const float* more = all + lines.at(b, head.kv_head, keys, width);
        for (int half = 0; half < 2; ++half) {
            float* to = mine + half * head.keys * width + own;
            const float* from = more + half * keys * width + own;
            sweep(count, [&](int64_t i, auto w) { store(to + i, load(to + i, w) + load(from + i, w), w); });
        }
    }
}

template <class T>
void run(const Attention& a, const int32_t* parent, const T* q, const T* o, const T* d_o, const float* lse,
         T* dq, void* const* dk_row, void* const* dv_row) {
    const Layout layout(a, cell_depth<T>, parent ? gathered_floats<T>(most_keys(a), a.head_dim) : 0);
    const int64_t stride = round_up(layout.end, 16) + 16, width = layout.width;
    const Scratch<float> scratch(thread_limit() * stride);
    const int64_t tasks = static_cast<int64_t>(a.rows) * a.heads_kv;
    const Lines lines(a, width);
    const Scratch<float> all(parent ? lines.end(a.rows) : 0);
    const auto write = [&](const Head<T>& head, const float* dk, const float* dv, int64_t tokens) {
        write_keys(head, dk, width, tokens, static_cast<T*>(dk_row[head.row]));
        write_keys(head, dv, width, tokens, static_cast<T*>(dv_row[head.row]));
    };
#pragma omp parallel if (attention_work(a) >= 65536)
    {
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < tasks; ++task) {
            Head<T> head(a, task);
            float* mine = scratch.get() + thread_number() * stride;
            if (parent) head.gather(parent, reinterpret_cast<T*>(mine + layout.gathered));
            one(head, q, o, d_o, lse, dq, layout, mine);
            if (!parent) {
                write(head, mine + layout.dk, mine + layout.dv, head.keys);
                continue;
            }
            float* line = all.get() + lines.at(head.row, head.kv_head, head.keys, width);
            const auto bytes = static_cast<size_t>(head.keys * width) * 4;
            std::memcpy(line, mine + layout.dk, bytes);
            std::memcpy(line + head.keys * width, mine + layout.dv, bytes);
        }
        // Own parts are written by their row alone and read by no other row.
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < (parent ? tasks : 0); ++task) {
            const Head<T> head(a, task);
            collect(head, parent, lines, all.get(), width);
            const float* line = all.get() + lines.at(head.row, head.kv_head, head.keys, width) +
                                (head.keys - head.queries) * width;
            write(head, line, line + head.keys * width, head.queries);
        }
    }
}

}  // namespace

void tree_attention_backward(const Attention& a, const int32_t* parent, const void* q, const void* o,
                             const void* do_, const float* lse, void* dq, void* const* dk_row,
                             void* const* dv_row) {
    if (a.type == Float::bf16)
        run(a, parent, static_cast<const bf16*>(q), static_cast<const bf16*>(o),
            static_cast<const bf16*>(do_), lse, static_cast<bf16*>(dq), dk_row, dv_row);
    else
        run(a, parent, static_cast<const float*>(q), static_cast<const float*>(o),
            static_cast<const float*>(do_), lse, static_cast<float*>(dq), dk_row, dv_row);
}

void attention_backward(const Attention& a, const void* q, const void* o, const void* do_, const float* lse,
                        void* dq, void* const* dk_row, void* const* dv_row) {
    tree_attention_backward(a, nullptr, q, o, do_, lse, dq, dk_row, dv_row);
}

}  // namespace polyad::kernels::POLYAD_ISA
