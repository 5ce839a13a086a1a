// SPDX-License-Identifier: Apache-2.0
// The routed low-rank operator and its gradients, from three products:
//   project   u[t, r]  = sum_k x[t, k] M[r, k]      both operands contiguous along k
//   expand    y[t, :] += sum_r v[t, r] M[r, :]      M packed as columns of cells
//   outer     G[r, :] += sum_t v[t, r] x[t, :]      per block of columns, over all tokens: no two threads
//   share a sum
#include "kernels/cpu/isa/low_rank.h"

#include <type_traits>

#include "kernels/cpu/isa/amx.h"
#include "kernels/cpu/isa/low_rank_packing.h"
#include "kernels/cpu/isa/project.h"

namespace polyad::kernels::POLYAD_ISA {
namespace {

// ---- project ----
/// Where tiles take the other pieces, only those of `few` tokens.
template <class T>
void project_all(const Plan& plan, const T* x, const T* factors, bool by_slot, int64_t d, int64_t rank,
                 float scale, bool only_few, float* u) {
    const double work = static_cast<double>(plan.tokens()) * d * rank;
#pragma omp parallel if (work >= parallel_products)
    plan.each_of_mine([&](const Piece& piece, const Segment& segment) {
        const int64_t tokens = piece.end - piece.begin;
        float* out = u + piece.begin * rank;
        if (only_few && !segment.few) return;
        if (segment.group < 0)
            std::memset(out, 0, static_cast<size_t>(tokens * rank) * 4);
        else
            project(x + piece.begin * d, d, factors + (by_slot ? segment.slot : segment.group) * rank * d, d,
                    tokens, d, rank, scale, out, rank);
    });
}

#if defined(__AMX_BF16__)
/// The pieces of more than `few` tokens on tiles; `cells` holds the factors' [d / 2, rank] cells of each
/// slot.
void project_on_tiles(const Plan& plan, const bf16* x, const float* cells, int64_t d, int64_t rank,
                      float scale, float* u) {
    const double work = static_cast<double>(plan.tokens()) * d * rank;
#pragma omp parallel if (work >= parallel_products)
    {
        Tiles tiles;
        alignas(64) float sums[Tiles::most_rows * Tiles::most_columns];
        plan.each_of_mine([&](const Piece& piece, const Segment& segment) {
            if (segment.few) return;
            if (segment.group < 0) {
                std::memset(u + piece.begin * rank, 0,
                            static_cast<size_t>((piece.end - piece.begin) * rank) * 4);
                return;
            }
            const float* factor = cells + segment.slot * rank * (d / 2);
            for (int64_t t = piece.begin; t < piece.end; t += Tiles::most_rows)
                for (int64_t r = 0; r < rank; r += Tiles::most_columns) {
                    const int64_t m = least(Tiles::most_rows, piece.end - t),
                                  n = least(Tiles::most_columns, rank - r);
                    tiles.multiply(m, n, d / 2, x + t * d, d * 2, factor + r, rank, sums, Tiles::most_columns,
                                   false);
                    for (int64_t j = 0; j < m; ++j)
                        store(u + (t + j) * rank + r, load(sums + j * Tiles::most_columns) * scale, Part{n});
                }
        });
    }
}

/// y [tokens, d] += v M for d a multiple of 16; v and M as for expand().
void expand_on_tiles(Tiles& tiles, const float* v, int64_t rank_cells, const float* m, int64_t stride,
                     int64_t tokens, int64_t d, bf16* y) {
    alignas(64) float sums[Tiles::most_rows * Tiles::most_columns];
    for (int64_t t = 0; t < tokens; t += Tiles::most_rows) {
        const int64_t count = least(Tiles::most_rows, tokens - t);
        for (int64_t c = 0; c < d; c += Tiles::most_columns) {
            tiles.multiply(count, Tiles::most_columns, rank_cells, v + t * rank_cells, rank_cells * 4, m + c,
                           stride, sums, Tiles::most_columns, false);
            for (int64_t j = 0; j < count; ++j) {
                bf16* to = y + (t + j) * d + c;
                store(to, load(to) + load(sums + j * Tiles::most_columns));
            }
        }
    }
}
#endif

// ---- expand ----
/// y [tokens, d] += v M; v as rows of cells, M as columns of cells with `stride` floats (whole vectors)
/// between them.
template <class T>
void expand(const float* v, int64_t rank_cells, const float* m, int64_t stride, int64_t tokens, int64_t d,
            T* y) {
    constexpr int depth = cell_depth<T>;
    const int64_t whole = d / lanes * lanes;
    // As many columns at a time as keep their part of M in the first-level cache.
    const int64_t chunk = most(8192 / rank_cells / 64 * 64, 64);
    for (int64_t c = 0; c < whole; c += chunk)
        for (int64_t t = 0; t < tokens; t += tile_rows)
            multiply<depth>(least(tile_rows, tokens - t), least(chunk, whole - c), rank_cells,
                            {v + t * rank_cells, rank_cells, 1}, m + c, stride, y + t * d + c, d, true);
    if (whole == d) return;
    for (int64_t t = 0; t < tokens; ++t) {
        float tail[lanes];
        multiply<depth>(1, lanes, rank_cells, {v + t * rank_cells, rank_cells, 1}, m + whole, stride, tail,
                        static_cast<int64_t>(lanes), false);
        T* to = y + t * d + whole;
        const Part part{d - whole};
        store(to, load(to, part) + load(tail, part), part);
    }
}

/// Rows of cells of scale * v.
template <class T>
void scaled_cells(const float* v, int64_t tokens, int64_t rank, float scale, float* cells) {
    constexpr int depth = cell_depth<T>;
    using Value = std::conditional_t<depth == 2, bf16, float>;
    auto* out = reinterpret_cast<Value*>(cells);
    const auto scaled = [&](const float* from, Value* to, int64_t count) {
        sweep(count, [&](int64_t i, auto w) { store(to + i, load(from + i, w) * scale, w); });
    };
    if (rank % depth == 0) {  // rows without padding: one long row
        scaled(v, out, tokens * rank);
        return;
    }
    for (int64_t t = 0; t < tokens; ++t) {
        scaled(v + t * rank, out + t * (rank + 1), rank);
        out[t * (rank + 1) + rank] = 0;
    }
}

template <class T>
void expand_all(const Plan& plan, const float* v, float scale, const float* packed, int64_t stride, int64_t d,
                int64_t rank, T* y) {
    const int64_t rank_cells = (rank + cell_depth<T> - 1) / cell_depth<T>;
    const Scratch<float> cells(plan.tokens() * rank_cells);
    scaled_cells<T>(v, plan.tokens(), rank, scale, cells.get());
    const double work = static_cast<double>(plan.tokens()) * d * rank;
#pragma omp parallel if (work >= parallel_products)
    {
        [[maybe_unused]] Tiles tiles;
        plan.each_of_mine([&](const Piece& piece, const Segment& segment) {
            if (segment.group < 0) return;
            const float *own = cells.get() + piece.begin * rank_cells,
                        *m = packed + segment.slot * rank_cells * stride;
            const int64_t tokens = piece.end - piece.begin;
            T* to = y + piece.begin * d;
#if defined(__AMX_BF16__)
            if constexpr (on_tiles<T>)
                if (!segment.few && d % Tiles::most_columns == 0) {
                    expand_on_tiles(tiles, own, rank_cells, m, stride, tokens, d, to);
                    return;
                }
#endif
            expand(own, rank_cells, m, stride, tokens, d, to);
        });
    }
}

// ---- outer ----
constexpr int64_t outer_columns = 128, outer_pairs = 32;

/// v as columns of cells: [token pairs of each segment][rank].
template <class T>
void token_columns(const Plan& plan, const float* v, int64_t rank, float* cells) {
    constexpr int depth = cell_depth<T>;
    for (int64_t i = 0; i < plan.segment_count(); ++i) {
        const Segment& s = plan.segment(i);
        if (s.group < 0) continue;
        for (int64_t t = s.begin; t < s.end; t += depth) {
            float* to = cells + (s.pairs_begin + (t - s.begin) / depth) * rank;
            sweep(rank, [&](int64_t r, auto w) {
                const vf first = load(v + t * rank + r, w);
                const vf second = depth == 2 && t + 1 < s.end ? load(v + (t + 1) * rank + r, w) : vf{};
                store(to + r, pair_up<depth>(first, second), w);
            });
        }
    }
}

#if defined(__AMX_BF16__)
/// v as rows of cells: [rank][token pairs] of each segment.
void token_rows(const Plan& plan, const float* columns, int64_t rank, float* rows) {
    for (int64_t i = 0; i < plan.segment_count(); ++i) {
        const Segment& s = plan.segment(i);
        const int64_t pairs = (s.end - s.begin + 1) / 2, at = s.pairs_begin * rank;
        if (s.group >= 0) transpose(columns + at, rank, pairs, rank, rows + at, pairs);
    }
}
#endif

/// Adds scale * sum [rank][columns] to a gradient: da [rank, d] or, transposed, db [d, rank]; `turned` has
/// room for count * rank floats.
inline void add_gradient(const float* sum, int64_t sum_stride, int64_t rank, int64_t from, int64_t count,
                         int64_t d, float scale, bool transposed, float* turned, float* out) {
    const auto add = [&](const float* values, int64_t n, float* to) {
        sweep(n, [&](int64_t i, auto w) { store(to + i, load(to + i, w) + scale * load(values + i, w), w); });
    };
    if (transposed) {
        transpose(sum, sum_stride, rank, count, turned, rank);
        add(turned, count * rank, out + from * rank);
        return;
    }
    for (int64_t r = 0; r < rank; ++r) add(sum + r * sum_stride, count, out + r * d + from);
}

/// The columns [from, from + count) of one segment's sum over tokens, into sum [rank][outer_columns]. `right`
/// holds the tokens' pairs, zero beyond `count`.
template <class T>
void outer(const Segment& s, const float* cells, int64_t rank, const T* x, int64_t d, int64_t from,
           int64_t count, float* right, float* sum, [[maybe_unused]] Tiles& tiles) {
    constexpr int depth = cell_depth<T>;
    const int64_t width = round_up(count, lanes);
    for (int64_t t = s.begin; t < s.end; t += outer_pairs * depth) {
        const int64_t end = least(s.end, t + outer_pairs * depth);
        for (int64_t k = t; k < end; k += depth)
            column_cells<T>(x + k * d + from, depth == 2 && k + 1 < end ? x + (k + 1) * d + from : nullptr,
                            count, right + (k - t) / depth * outer_columns);
        const int64_t at = (t - s.begin) / depth, pairs = (end - t + depth - 1) / depth;
#if defined(__AMX_BF16__)
        if constexpr (on_tiles<T>) {
            const int64_t all = (s.end - s.begin + depth - 1) / depth;
            for (int64_t r = 0; r < rank; r += Tiles::most_rows)
                for (int64_t c = 0; c < width; c += Tiles::most_columns)
                    tiles.multiply(least(Tiles::most_rows, rank - r), Tiles::most_columns, pairs,
                                   cells + r * all + at, all * 4, right + c, outer_columns,
                                   sum + r * outer_columns + c, outer_columns, t != s.begin);
            continue;
        }
#endif
        multiply<depth>(rank, width, pairs, {cells + at * rank, 1, rank}, right, outer_columns, sum,
                        outer_columns, t != s.begin);
    }
}

template <class T>
void outer_all(const Plan& plan, const float* v, const T* x, int64_t d, int64_t rank, float scale,
               bool transposed, float* gradient) {
    const Scratch<float> columns(plan.pairs() * rank + lanes);
    token_columns<T>(plan, v, rank, columns.get());
    const float* cells = columns.get();
#if defined(__AMX_BF16__)
    const Scratch<float> rows(on_tiles<T> ? plan.pairs() * rank : 0);
    if constexpr (on_tiles<T>) {
        token_rows(plan, columns.get(), rank, rows.get());
        cells = rows.get();
    }
#endif
    // Wide blocks read memory in longer stretches; narrow ones keep every thread busy.
    const int64_t many = 4 * thread_limit();
    const int64_t step = d >= outer_columns * many       ? outer_columns
                         : d >= outer_columns / 2 * many ? outer_columns / 2
                                                         : outer_columns / 4;
    const int64_t stride = (2 * rank + outer_pairs) * outer_columns;
    const Scratch<float> scratch(thread_limit() * stride);
    const double work = static_cast<double>(plan.tokens()) * d * rank;
#pragma omp parallel if (work >= parallel_products)
    {
        Tiles tiles;
        float* sum = scratch.get() + thread_number() * stride;
        float *turned = sum + rank * outer_columns, *right = turned + rank * outer_columns;
#pragma omp for schedule(static)
        for (int64_t from = 0; from < d; from += step) {
            const int64_t count = least(step, d - from);
            if (count % lanes) std::memset(right, 0, static_cast<size_t>(outer_pairs * outer_columns) * 4);
            for (int64_t i = 0; i < plan.segment_count(); ++i) {
                const Segment& s = plan.segment(i);
                if (s.group < 0) continue;
                outer(s, cells + s.pairs_begin * rank, rank, x, d, from, count, right, sum, tiles);
                add_gradient(sum, outer_columns, rank, from, count, d, scale, transposed, turned,
                             gradient + s.group * rank * d);
            }
        }
    }
}

// ---- the four kernels ----
template <class T>
void up(const Plan& plan, const float* v, const T* b, int64_t d, int64_t rank, float scale, T* y) {
    const int64_t stride = round_up(d, rows_at_once), rank_cells = (rank + cell_depth<T> - 1) / cell_depth<T>;
    const Scratch<float> packed(plan.slots() * rank_cells * stride);
    pack_up(plan, b, d, rank, stride, packed.get());
    expand_all(plan, v, scale, packed.get(), stride, d, rank, y);
}

template <class T>
void up_backward(const Plan& plan, const T* dy, const float* v, const T* b, int64_t d, int64_t rank,
                 float scale, float* dv, float* db) {
    bool tiled = false;
#if defined(__AMX_BF16__)
    if constexpr (on_tiles<T>)
        if (dv && d % 2 == 0) {
            const Scratch<float> packed(plan.slots() * rank * (d / 2) + lanes);
            pack_up_pairs(plan, b, d, rank, packed.get());
            project_on_tiles(plan, dy, packed.get(), d, rank, scale, dv);
            tiled = true;
        }
#endif
    if (dv && (!tiled || plan.few())) {
        const Scratch<T> packed(plan.slots() * rank * d);
        transpose_up(plan, b, d, rank, packed.get());
        project_all<T>(plan, dy, packed.get(), true, d, rank, scale, tiled, dv);
    }
    if (db) outer_all(plan, v, dy, d, rank, scale, true, db);
}

template <class T>
void down_backward(const Plan& plan, const float* du, const T* x, const T* a, int64_t d, int64_t rank, T* dx,
                   float* da) {
    if (dx) {
        const int64_t stride = round_up(d, lanes), rank_cells = (rank + cell_depth<T> - 1) / cell_depth<T>;
        const Scratch<float> packed(plan.slots() * rank_cells * stride);
        pack_down(plan, a, d, rank, stride, packed.get());
        expand_all(plan, du, 1.0f, packed.get(), stride, d, rank, dx);
    }
    if (da) outer_all(plan, du, x, d, rank, 1.0f, false, da);
}

inline int depth_of(Float type) {
    return type == Float::bf16 ? cell_depth<bf16> : cell_depth<float>;
}

}  // namespace

void low_rank_down(Float type, const void* x, const void* a, const int32_t* group_of_row, Rows rows,
                   int64_t d_in, int64_t rank, float* u) {
    const Plan plan(group_of_row, rows, depth_of(type));
    bool tiled = false;
#if defined(__AMX_BF16__)
    if (type == Float::bf16 && d_in % 2 == 0 && plan.many()) {
        const Scratch<float> packed(plan.slots() * rank * (d_in / 2) + lanes);
        pack_down_pairs(plan, static_cast<const bf16*>(a), d_in, rank, packed.get());
        project_on_tiles(plan, static_cast<const bf16*>(x), packed.get(), d_in, rank, 1.0f, u);
        if (!plan.few()) return;
        tiled = true;
    }
#endif
    if (type == Float::bf16)
        project_all(plan, static_cast<const bf16*>(x), static_cast<const bf16*>(a), false, d_in, rank, 1.0f,
                    tiled, u);
    else
        project_all(plan, static_cast<const float*>(x), static_cast<const float*>(a), false, d_in, rank, 1.0f,
                    false, u);
}

void low_rank_up(Float type, const float* v, const void* b, const int32_t* group_of_row, Rows rows,
                 int64_t d_out, int64_t rank, float scale, void* y) {
    const Plan plan(group_of_row, rows, depth_of(type));
    if (type == Float::bf16)
        up(plan, v, static_cast<const bf16*>(b), d_out, rank, scale, static_cast<bf16*>(y));
    else
        up(plan, v, static_cast<const float*>(b), d_out, rank, scale, static_cast<float*>(y));
}

void low_rank_up_backward(Float type, const void* dy, const float* v, const void* b,
                          const int32_t* group_of_row, Rows rows, int64_t d_out, int64_t rank, float scale,
                          float* dv, float* db) {
    const Plan plan(group_of_row, rows, depth_of(type));
    if (type == Float::bf16)
        up_backward(plan, static_cast<const bf16*>(dy), v, static_cast<const bf16*>(b), d_out, rank, scale,
                    dv, db);
    else
        up_backward(plan, static_cast<const float*>(dy), v, static_cast<const float*>(b), d_out, rank, scale,
                    dv, db);
}

void low_rank_down_backward(Float type, const float* du, const void* x, const void* a,
                            const int32_t* group_of_row, Rows rows, int64_t d_in, int64_t rank, void* dx,
                            float* da) {
    const Plan plan(group_of_row, rows, depth_of(type));
    if (type == Float::bf16)
        down_backward(plan, du, static_cast<const bf16*>(x), static_cast<const bf16*>(a), d_in, rank,
                      static_cast<bf16*>(dx), da);
    else
        down_backward(plan, du, static_cast<const float*>(x), static_cast<const float*>(a), d_in, rank,
                      static_cast<float*>(dx), da);
}

}  // namespace polyad::kernels::POLYAD_ISA
