// SPDX-License-Identifier: Apache-2.0
// Plain low-rank pairs of many owners in one call: what a batch of requests for different skills costs at a
// site. A thread takes a row's tokens through both products, so nothing waits between them; a decoded token
// reads its pair once from where it lies, longer rows pack B first.
#include "kernels/cpu/isa/kernels.h"
#include "kernels/cpu/isa/project.h"

namespace polyad::kernels::POLYAD_ISA {
namespace {

constexpr int64_t piece_tokens = 48;
/// Tokens up to which packing B costs more than it saves.
constexpr int64_t few_tokens = 4;
/// Multiply-adds from which a second thread pays.
constexpr double parallel_work = 40e3;

/// y [d] += v [rank] B [rank, d], sums in float32 and one rounding.
template <int Vectors, class T>
inline void add_columns(const float* v, int64_t rank, const T* b, int64_t d, T* y) {
    vf acc[Vectors];
#pragma GCC unroll 4
    for (int c = 0; c < Vectors; ++c) acc[c] = load(y + c * lanes);
    for (int64_t r = 0; r < rank; ++r) {
        const vf weight = splat(v[r]);
#pragma GCC unroll 4
        for (int c = 0; c < Vectors; ++c) acc[c] = fma(weight, load(b + r * d + c * lanes), acc[c]);
    }
#pragma GCC unroll 4
    for (int c = 0; c < Vectors; ++c) store(y + c * lanes, acc[c]);
}

template <class T>
void add_token(const float* v, int64_t rank, const T* b, int64_t d, T* y) {
    int64_t c = 0;
    for (; c + 4 * lanes <= d; c += 4 * lanes) add_columns<4>(v, rank, b + c, d, y + c);
    for (; c + lanes <= d; c += lanes) add_columns<1>(v, rank, b + c, d, y + c);
    if (c == d) return;
    const Part part{d - c};
    vf acc = load(y + c, part);
    for (int64_t r = 0; r < rank; ++r) acc = fma(splat(v[r]), load(b + r * d + c, part), acc);
    store(y + c, acc, part);
}

/// The same for many tokens: B as columns of cells, v as rows of cells.
template <class T>
void add_tokens(const float* v, int64_t tokens, int64_t rank, const T* b, int64_t d, T* y) {
    constexpr int depth = cell_depth<T>;
    const int64_t cells = (rank + depth - 1) / depth, stride = round_up(d, lanes), whole = d / lanes * lanes;
    const Scratch<float> packed(cells * stride), left(tokens * cells);
    for (int64_t i = 0; i < cells; ++i) {
        const int64_t r = i * depth;
        column_cells<T>(b + r * d, depth == 2 && r + 1 < rank ? b + (r + 1) * d : nullptr, d,
                        packed.get() + i * stride);
        for (int64_t c = d; c < stride; ++c) packed[i * stride + c] = 0;
    }
    for (int64_t t = 0; t < tokens; ++t) row_cells<T>(v + t * rank, rank, left.get() + t * cells);
    // As many columns at a time as keep their part of B in the first-level cache.
    const int64_t chunk = most(8192 / most(cells, 1) / 64 * 64, 64);
    for (int64_t c = 0; c < whole; c += chunk)
        for (int64_t t = 0; t < tokens; t += tile_rows)
            multiply<depth>(least(tile_rows, tokens - t), least(chunk, whole - c), cells,
                            {left.get() + t * cells, cells, 1}, packed.get() + c, stride, y + t * d + c, d,
                            true);
    if (whole == d) return;
    const Part part{d - whole};
    for (int64_t t = 0; t < tokens; ++t) {
        T* to = y + t * d + whole;
        float tail[lanes];
        store(tail, load(to, part));
        multiply<depth>(1, lanes, cells, {left.get() + t * cells, cells, 1}, packed.get() + whole, stride,
                        tail, static_cast<int64_t>(lanes), true);
        store(to, load(tail), part);
    }
}

template <class T>
void run(const T* x, const RowFactors* of_row, Rows rows, int64_t d_in, int64_t d_out, T* y) {
    int64_t pieces = 0;
    double work = 0;
    for (int32_t b = 0; b < rows.count; ++b) {
        if (!of_row[b].a) continue;
        const int64_t tokens = rows.begin[b + 1] - rows.begin[b];
        pieces += (tokens + piece_tokens - 1) / piece_tokens;
        work += static_cast<double>(tokens) * of_row[b].rank * (d_in + d_out);
    }
    struct Piece {
        int32_t row, begin, end;
    };
    const Scratch<Piece> piece(pieces + 1);
    int64_t count = 0;
    for (int32_t b = 0; b < rows.count; ++b)
        for (int32_t t = rows.begin[b]; of_row[b].a && t < rows.begin[b + 1]; t += piece_tokens)
            piece[count++] = {b, t, static_cast<int32_t>(least(rows.begin[b + 1], t + piece_tokens))};
#pragma omp parallel for schedule(static) if (count > 1 && work >= parallel_work)
    for (int64_t i = 0; i < count; ++i) {
        const auto [row, begin, end] = piece[i];
        const RowFactors& pair = of_row[row];
        const int64_t tokens = end - begin, rank = pair.rank;
        if (tokens <= few_tokens) {
            // A decoded token reads its pair once.
            ask_for(pair.b, rank * d_out * static_cast<int64_t>(sizeof(T)));
            if (i + 1 < count) {
                const RowFactors& then = of_row[piece[i + 1].row];
                ask_for(then.a, then.rank * d_in * static_cast<int64_t>(sizeof(T)));
            }
        }
        float few[256];
        const Scratch<float> many(tokens * rank > 256 ? tokens * rank : 0);
        float* u = tokens * rank > 256 ? many.get() : few;
        project(x + begin * d_in, d_in, static_cast<const T*>(pair.a), d_in, tokens, d_in, rank, pair.scale,
                u, rank);
        const auto* b = static_cast<const T*>(pair.b);
        if (tokens > few_tokens) {
            add_tokens(u, tokens, rank, b, d_out, y + begin * d_out);
            continue;
        }
        for (int64_t t = 0; t < tokens; ++t) add_token(u + t * rank, rank, b, d_out, y + (begin + t) * d_out);
    }
}

}  // namespace

void low_rank_rows(Float type, const void* x, const RowFactors* of_row, Rows rows, int64_t d_in,
                   int64_t d_out, void* y) {
    if (type == Float::bf16)
        run(static_cast<const bf16*>(x), of_row, rows, d_in, d_out, static_cast<bf16*>(y));
    else
        run(static_cast<const float*>(x), of_row, rows, d_in, d_out, static_cast<float*>(y));
}

}  // namespace polyad::kernels::POLYAD_ISA
