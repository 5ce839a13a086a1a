// SPDX-License-Identifier: Apache-2.0
// Skills mixed into one low-rank factor per group, and back. Both work in pieces of the bank small enough
// that the piece of every skill and every group stays in the first caches: a bank is read from memory once
// however many groups there are.
#include "kernels/cpu/isa/kernels.h"
#include "kernels/cpu/isa/vec.h"

namespace polyad::kernels::POLYAD_ISA {
namespace {

constexpr int64_t piece_elements = 1024;

/// A rectangle of the bank inside one split. Its elements are contiguous in the bank.
struct MixPiece {
    int64_t row, rows, column, columns, split;
    int64_t size() const { return rows * columns; }
};

/// The pieces of a bank, in a fixed order.
class MixPieces {
  public:
    explicit MixPieces(const FactorMix& mix) : mix_(mix) {
        const bool by_column = mix.splits > 1 && !mix.split_rows;
        const int64_t width = by_column ? mix.columns / mix.splits : mix.columns;
        const int64_t height = mix.splits > 1 && mix.split_rows ? mix.rows / mix.splits : mix.rows;
        // Several whole rows, or a part of one: contiguous either way.
        columns_ = least(width, piece_elements);
        rows_ =
            width == mix.columns && columns_ == width ? most(1, least(height, piece_elements / width)) : 1;
        across_ = (width + columns_ - 1) / columns_;
        down_ = (height + rows_ - 1) / rows_;
        width_ = width;
        height_ = height;
    }
    int64_t count() const { return across_ * down_ * mix_.splits; }
    int64_t most_elements() const { return rows_ * columns_; }
    MixPiece operator[](int64_t i) const {
        const int64_t split = i / (across_ * down_), rest = i % (across_ * down_);
        MixPiece piece{};
        piece.split = split;
        piece.row = rest / across_ * rows_;
        piece.rows = least(rows_, height_ - piece.row);
        piece.column = rest % across_ * columns_;
        piece.columns = least(columns_, width_ - piece.column);
        (mix_.split_rows ? piece.row : piece.column) += split * (mix_.split_rows ? height_ : width_);
        return piece;
    }

  private:
    const FactorMix& mix_;
    int64_t rows_, columns_, across_, down_, width_, height_;
};

constexpr int together = 4;  ///< groups, or skills, that share a load

/// to[i][:] = sum_k w[i * w_group + k * w_term] from[k][:] for Count results.
template <int Count>
inline void combine(const float* w, int64_t w_result, int64_t w_term, int64_t terms, const float* from,
                    int64_t from_stride, int64_t n, float* to, int64_t to_stride) {
    sweep(n, [&](int64_t i, auto part) {
        vf acc[Count];
#pragma GCC unroll 4
        for (int r = 0; r < Count; ++r) acc[r] = vf{};
        for (int64_t k = 0; k < terms; ++k) {
            const vf value = load(from + k * from_stride + i, part);
#pragma GCC unroll 4
            for (int r = 0; r < Count; ++r) acc[r] = fma(splat(w[r * w_result + k * w_term]), value, acc[r]);
        }
#pragma GCC unroll 4
        for (int r = 0; r < Count; ++r) store(to + r * to_stride + i, acc[r], part);
    });
}

inline void combine_all(const float* w, int64_t w_result, int64_t w_term, int64_t terms, const float* from,
                        int64_t from_stride, int64_t n, float* to, int64_t to_stride, int64_t results) {
    int64_t r = 0;
    for (; r + together <= results; r += together)
        combine<together>(w + r * w_result, w_result, w_term, terms, from, from_stride, n, to + r * to_stride,
                          to_stride);
    for (; r < results; ++r)
        combine<1>(w + r * w_result, w_result, w_term, terms, from, from_stride, n, to + r * to_stride,
                   to_stride);
}

/// out[i][j] = a[i] . b[j].
template <int Count>
inline void products(const float* a, int64_t a_stride, const float* b, int64_t b_stride, int64_t n,
                     float* out, int64_t out_stride) {
    vf acc[Count][Count];
#pragma GCC unroll 4
    for (int i = 0; i < Count; ++i)
#pragma GCC unroll 4
        for (int j = 0; j < Count; ++j) acc[i][j] = vf{};
    sweep(n, [&](int64_t at, auto part) {
        vf left[Count];
#pragma GCC unroll 4
        for (int i = 0; i < Count; ++i) left[i] = load(a + i * a_stride + at, part);
#pragma GCC unroll 4
        for (int j = 0; j < Count; ++j) {
            const vf right = load(b + j * b_stride + at, part);
#pragma GCC unroll 4
            for (int i = 0; i < Count; ++i) acc[i][j] = fma(left[i], right, acc[i][j]);
        }
    });
    for (int i = 0; i < Count; ++i)
        for (int j = 0; j < Count; ++j) out[i * out_stride + j] = sum(acc[i][j]);
}

inline void all_products(const float* a, int64_t a_stride, int64_t rows, const float* b, int64_t b_stride,
                         int64_t columns, int64_t n, float* out) {
    int64_t i = 0;
    for (; i + together <= rows; i += together) {
        int64_t j = 0;
        for (; j + together <= columns; j += together)
            products<together>(a + i * a_stride, a_stride, b + j * b_stride, b_stride, n,
                               out + i * columns + j, columns);
        for (; j < columns; ++j)
            for (int r = 0; r < together; ++r)
                products<1>(a + (i + r) * a_stride, a_stride, b + j * b_stride, b_stride, n,
                            out + (i + r) * columns + j, columns);
    }
    for (; i < rows; ++i)
        for (int64_t j = 0; j < columns; ++j)
            products<1>(a + i * a_stride, a_stride, b + j * b_stride, b_stride, n, out + i * columns + j,
                        columns);
}

/// Contiguous values of a piece into rows of a group's factor.
template <class T>
inline void put(const MixPiece& piece, const float* values, int64_t row_stride, T* out, bool add) {
    for (int64_t r = 0; r < piece.rows; ++r) {
        const float* from = values + r * piece.columns;
        T* to = out + (piece.row + r) * row_stride + piece.column;
        if (add)
            sweep(piece.columns,
                  [&](int64_t i, auto w) { store(to + i, load(to + i, w) + load(from + i, w), w); });
        else
            sweep(piece.columns, [&](int64_t i, auto w) { store(to + i, load(from + i, w), w); });
    }
}

inline void take(const MixPiece& piece, const float* from, int64_t row_stride, float* values) {
    for (int64_t r = 0; r < piece.rows; ++r) {
        const float* row = from + (piece.row + r) * row_stride + piece.column;
        sweep(piece.columns,
              [&](int64_t i, auto w) { store(values + r * piece.columns + i, load(row + i, w), w); });
    }
}

template <class T>
void mix_all(const FactorMix& mix, const float* bank, const float* weights, bool add, T* out) {
    const MixPieces pieces(mix);
    const int64_t skill_size = mix.rows * mix.columns, most_elements = pieces.most_elements();
    const int64_t results = mix.skill ? 1 : mix.groups, stride = round_up(most_elements, 16) + 16;
    const Scratch<float> scratch(thread_limit() * results * stride);
    const double work = static_cast<double>(mix.groups) * mix.chosen * skill_size;
#pragma omp parallel for schedule(static) if (work >= parallel_elements)
    for (int64_t p = 0; p < pieces.count(); ++p) {
        const MixPiece piece = pieces[p];
        float* values = scratch.get() + thread_number() * results * stride;
        const float* from = bank + piece.row * mix.columns + piece.column;
        const int64_t w_group = mix.splits * mix.chosen;
        const float* w = weights + piece.split * mix.chosen;
        if (!mix.skill)
            combine_all(w, w_group, 1, mix.chosen, from, skill_size, piece.size(), values, stride,
                        mix.groups);
        for (int64_t g = 0; g < mix.groups; ++g) {
            const float* mixed = values + g * stride;
            if (mix.skill) {  // groups read skills of their own
                mixed = values;
                const int32_t* chosen = mix.skill + g * mix.chosen;
                std::memset(values, 0, static_cast<size_t>(piece.size()) * 4);
                for (int64_t k = 0; k < mix.chosen; ++k) {
                    const vf weight = splat(w[g * w_group + k]);
                    const float* one = from + chosen[k] * skill_size;
                    sweep(piece.size(), [&](int64_t i, auto part) {
                        store(values + i, fma(weight, load(one + i, part), load(values + i, part)), part);
                    });
                }
            }
            put(piece, mixed, mix.out_row, out + g * mix.out_group, add);
        }
    }
}

}  // namespace

void mix_factors(Float type, const FactorMix& mix, const float* bank, const float* weights, int add,
                 void* out) {
    if (type == Float::bf16)
        mix_all(mix, bank, weights, add != 0, static_cast<bf16*>(out));
    else
        mix_all(mix, bank, weights, add != 0, static_cast<float*>(out));
}

void mix_factors_backward(const FactorMix& mix, const float* bank, const float* weights, const float* dout,
                          float* dbank, float* dweights) {
    const MixPieces pieces(mix);
    const int64_t skill_size = mix.rows * mix.columns, stride = round_up(pieces.most_elements(), 16) + 16;
    const int64_t terms = mix.groups * mix.chosen, w_group = mix.splits * mix.chosen;
    const Scratch<float> scratch(thread_limit() * mix.groups * stride);
    // Each piece's share of the weights' gradient apart, added in order: the same for any number of threads.
    const Scratch<float> shares(dweights ? pieces.count() * terms : 0);
    const double work = static_cast<double>(terms) * skill_size;
#pragma omp parallel for schedule(static) if (work >= parallel_elements)
    for (int64_t p = 0; p < pieces.count(); ++p) {
        const MixPiece piece = pieces[p];
        float* gradient = scratch.get() + thread_number() * mix.groups * stride;
        for (int64_t g = 0; g < mix.groups; ++g)
            take(piece, dout + g * mix.out_group, mix.out_row, gradient + g * stride);
        const int64_t at = piece.row * mix.columns + piece.column;
        const float* from = bank + at;
        const float* w = weights + piece.split * mix.chosen;
        float* share = dweights ? shares.get() + p * terms : nullptr;
        if (!mix.skill) {
            if (dbank)
                combine_all(w, 1, w_group, mix.groups, gradient, stride, piece.size(), dbank + at, skill_size,
                            mix.skills);
            if (share)
                all_products(gradient, stride, mix.groups, from, skill_size, mix.chosen, piece.size(), share);
            continue;
        }
        for (int64_t s = 0; dbank && s < mix.skills; ++s)
            std::memset(dbank + s * skill_size + at, 0, static_cast<size_t>(piece.size()) * 4);
        for (int64_t g = 0; g < mix.groups; ++g)
            for (int64_t k = 0; k < mix.chosen; ++k) {
                const int64_t offset = mix.skill[g * mix.chosen + k] * skill_size;
                const float* one = gradient + g * stride;
                if (share) products<1>(one, 0, from + offset, 0, piece.size(), share + g * mix.chosen + k, 1);
                if (!dbank) continue;
                const vf weight = splat(w[g * w_group + k]);
                float* to = dbank + offset + at;
                sweep(piece.size(), [&](int64_t i, auto part) {
                    store(to + i, fma(weight, load(one + i, part), load(to + i, part)), part);
                });
            }
    }
    if (!dweights) return;
    for (int64_t p = 0; p < pieces.count(); ++p) {
        float* to = dweights + pieces[p].split * mix.chosen;
        for (int64_t g = 0; g < mix.groups; ++g)
            for (int64_t k = 0; k < mix.chosen; ++k)
                to[g * w_group + k] += shares[p * terms + g * mix.chosen + k];
    }
}

}  // namespace polyad::kernels::POLYAD_ISA
