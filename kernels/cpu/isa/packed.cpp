// SPDX-License-Identifier: Apache-2.0
// x W^T for a few tokens, straight from the quantised weights of panels.h. Decoding waits for memory: four
// bits a weight come four times faster than sixteen. bf16 activations are multiplied as 16-bit integers with
// a scale per group of 32 (their error, 2^-16 of the group's largest, is far below bf16's own), float32 ones
// as they are. A group's sum is exact, or runs over its columns in order; groups are added in order: a
// token's result does not depend on the tokens beside it, nor on the number of threads.
#include "kernels/cpu/isa/panels.h"
#include "kernels/cpu/isa/project.h"

namespace polyad::kernels::POLYAD_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int most_tokens = 8;  ///< that share one pass over a panel: their sums fit the registers
#else
constexpr int most_tokens = 4;
#endif
constexpr int parts_of_group = 2;  ///< sums of x are kept per 16 columns

/// The tokens' activations as the kernels read them.
struct Input {
    Input(Float type, const void* x, int64_t n, int64_t columns)
        : columns(columns),
          groups(columns / group_size),
          pairs(type == Float::bf16 ? n * columns / 2 : 0),
          scale(type == Float::bf16 ? n * groups : 0),
          sum(n * groups * parts_of_group),
          whole(type == Float::bf16 ? n * groups * parts_of_group : 0),
          values(type == Float::f32 ? static_cast<const float*>(x) : nullptr) {}

    /// Makes the i-th of n * groups groups from x.
    void prepare(const void* x, int64_t i) const {
        const int64_t t = i / groups, g = i % groups;
        if (values)
            add_up(t, g);
        else
            quantise(static_cast<const bf16*>(x) + t * columns + g * group_size, t, g);
    }

    int64_t columns, groups;
    Scratch<int32_t> pairs;  ///< [n, columns / 2] two 16-bit numbers each
    Scratch<float> scale;    ///< [n, groups] of the pairs
    Scratch<float> sum;      ///< [n, groups, 2] of x
    Scratch<int32_t> whole;  ///< [n, groups, 2] of the 16-bit numbers
    const float* values;     ///< x itself when it is float32

  private:
    void add_up(int64_t t, int64_t g) const {
        const float* x = values + t * columns + g * group_size;
        for (int part = 0; part < parts_of_group; ++part) {
            vf s{};
            for (int i = 0; i < 16; i += lanes) s += load(x + part * 16 + i);
            sum[(t * groups + g) * parts_of_group + part] = polyad::kernels::POLYAD_ISA::sum(s);
        }
    }

    void quantise(const bf16* x, int64_t t, int64_t g) const {
        vf v[group_size / lanes];
        vu top{};
        for (int i = 0; i < group_size / lanes; ++i) {
            v[i] = load(x + i * lanes);
            const vu size = bits_of(v[i]) & 0x7fffffffu;  // as bits, so that NaN is the largest
            top = (size > top) ? size : top;
        }
        uint32_t lane_top[lanes], most_bits = 0;
        std::memcpy(lane_top, &top, sizeof top);
        for (int i = 0; i < lanes; ++i) most_bits = lane_top[i] > most_bits ? lane_top[i] : most_bits;
        float largest;
        std::memcpy(&largest, &most_bits, 4);
        const float inverse = largest > 0 ? 32767.0f / largest : 0.0f;  // 0 for NaN: the scale carries it
        const float s = largest / 32767.0f;
        int16_t* out = reinterpret_cast<int16_t*>(pairs.get() + (t * columns + g * group_size) / 2);
        float totals[parts_of_group] = {};
        for (int i = 0; i < group_size / lanes; ++i) {
            // Adding 1.5 * 2^23 rounds to the nearest integer, which is then found in the low bits.
            const vi q = (vi)(bits_of(v[i] * inverse + 12582912.0f) - 0x4b400000u);
            const vs words = __builtin_convertvector(q, vs);
            std::memcpy(out + i * lanes, &words, sizeof words);
            totals[i * lanes / 16] += polyad::kernels::POLYAD_ISA::sum(floats_of(q));  // below 2^24: exact
        }
        scale[t * groups + g] = s;
        for (int part = 0; part < parts_of_group; ++part) {
            whole[(t * groups + g) * parts_of_group + part] = static_cast<int32_t>(totals[part]);
            sum[(t * groups + g) * parts_of_group + part] = s * totals[part];
        }
    }
};

/// Sums of one group of columns: of codes times 16-bit integers.
template <class Codes, class Scales, int Tokens>
struct IntegerSums {
    static constexpr int parts = group_size / Scales::span;
    // A single token's products would wait for each other: two sums take turns.
    static constexpr int turns = Tokens == 1 ? 2 : 1;

    __attribute__((always_inline)) static void group(const uint8_t* codes, const Input& in, int64_t t,
                                                     int64_t g, vf (&out)[parts][Tokens]) {
        vi sums[parts][Tokens][turns];
#pragma GCC unroll 2
        for (int part = 0; part < parts; ++part)
#pragma GCC unroll 8
            for (int i = 0; i < Tokens; ++i) {
                int32_t start = 0;
                if (Codes::offset) {
                    const int32_t* whole = in.whole.get() + ((t + i) * in.groups + g) * parts_of_group;
                    start = -Codes::offset * (parts == 2 ? whole[part] : whole[0] + whole[1]);
                }
                sums[part][i][0] = splat_bits(start);
                if constexpr (turns == 2) sums[part][i][1] = vi{};
            }
        const int32_t* x = in.pairs.get() + (t * in.columns + g * group_size) / 2;
        Codes::pairs(
            codes, [&](int pair, vi w) __attribute__((always_inline)) {
                const int part = pair / (16 / parts);
#pragma GCC unroll 8
                for (int i = 0; i < Tokens; ++i) {
                    vi& s = sums[part][i][pair % turns];
                    s = add_products(s, w, splat_bits(x[i * in.columns / 2 + pair]));
                }
            });
#pragma GCC unroll 2
        for (int part = 0; part < parts; ++part)
#pragma GCC unroll 8
            for (int i = 0; i < Tokens; ++i) {
                vi s = sums[part][i][0];
                if constexpr (turns == 2) s += sums[part][i][1];
                out[part][i] = floats_of(s) * in.scale[(t + i) * in.groups + g];
            }
    }
};

/// The same of codes times float32.
template <class Codes, class Scales, int Tokens>
struct FloatSums {
    static constexpr int parts = group_size / Scales::span;

    __attribute__((always_inline)) static void group(const uint8_t* codes, const Input& in, int64_t t,
                                                     int64_t g, vf (&out)[parts][Tokens]) {
#pragma GCC unroll 2
        for (int part = 0; part < parts; ++part)
#pragma GCC unroll 8
            for (int i = 0; i < Tokens; ++i) out[part][i] = vf{};
        const float* x = in.values + t * in.columns + g * group_size;
        Codes::pairs(
            codes, [&](int pair, vi w) __attribute__((always_inline)) {
                const int part = pair / (16 / parts);
                const vf low = floats_of((w << 16) >> 16) - static_cast<float>(Codes::offset);
                const vf high = floats_of(w >> 16) - static_cast<float>(Codes::offset);
#pragma GCC unroll 8
                for (int i = 0; i < Tokens; ++i) {
                    vf& s = out[part][i];
                    s = fma(low, splat(x[i * in.columns + 2 * pair]), s);
                    s = fma(high, splat(x[i * in.columns + 2 * pair + 1]), s);
                }
            });
    }
};

/// `Tokens` tokens from t on times one panel. On the way `next`, the panel that follows (or null), is asked
/// for: panels are too short for the hardware to run ahead in, and would each be waited for.
template <class Codes, class Scales, int Tokens, template <class, class, int> class Sums>
inline void panel_product(const uint8_t* panel, const uint8_t* next, const Input& in, int64_t t, vf* out) {
    using Group = Sums<Codes, Scales, Tokens>;
    const uint8_t* scales = panel + in.groups * Codes::bytes * lanes;
    const int64_t share = next ? panel_size<Codes, Scales>(in.columns) / in.groups : 0;
    vf total[Tokens];
#pragma GCC unroll 8
    for (int i = 0; i < Tokens; ++i) total[i] = vf{};
    for (int64_t g = 0; g < in.groups; ++g) {
        for (int64_t byte = g * share & -64; byte < (g + 1) * share; byte += 64)
            __builtin_prefetch(next + byte, 0, 3);
        vf sums[Group::parts][Tokens];
        Group::group(panel + g * Codes::bytes * lanes, in, t, g, sums);
#pragma GCC unroll 2
        for (int part = 0; part < Group::parts; ++part) {
            vf scale, minimum;
            Scales::get(scales, g, part, scale, minimum);
#pragma GCC unroll 8
            for (int i = 0; i < Tokens; ++i) {
                total[i] = fma(sums[part][i], scale, total[i]);
                if constexpr (Scales::has_minimum) {
                    const float* x = in.sum.get() + ((t + i) * in.groups + g) * parts_of_group;
                    total[i] = fma(minimum, splat(Group::parts == 2 ? x[part] : x[0] + x[1]), total[i]);
                }
            }
        }
    }
    for (int i = 0; i < Tokens; ++i) out[i] = total[i];
}

using PanelKernel = void (*)(const uint8_t* panel, const uint8_t* next, const Input& in, int64_t t, vf* out);

/// Kernels of one layout for 1, 2, 4 and most tokens.
struct Kernels {
    PanelKernel of[4] = {};
    int64_t panel_size = 0;
};

template <template <class, class, int> class Sums>
Kernels kernels_of(Quant quant, int64_t columns) {
    Kernels k;
    with_layout(quant, [&]<class Codes, class Scales>() {
        k.of[0] = panel_product<Codes, Scales, 1, Sums>;
        k.of[1] = panel_product<Codes, Scales, 2, Sums>;
        k.of[2] = panel_product<Codes, Scales, 4, Sums>;
        k.of[3] = panel_product<Codes, Scales, most_tokens, Sums>;
        k.panel_size = panel_size<Codes, Scales>(columns);
    });
    return k;
}

/// What a call works on beside the weights.
struct Call {
    const int32_t* row_of_token;  ///< [n]
    int64_t most_rank;            ///< between a token's numbers in v
    float* v;                     ///< [branches, n, most_rank] scale A x
};

/// Ranks of a token's pair that one thread multiplies at a time: one token's few sites still feed all
/// threads.
constexpr int32_t rank_piece = 4;
/// Elements of B that are asked for ahead of their panel.
constexpr int64_t b_ahead = 32;

/// A panel's sums of one token with what else belongs to them, stored.
template <class T>
void finish(const PanelBranch& branch, const Call& call, const float* v, int64_t t, int64_t row, vf value) {
    const auto put = [&](auto w) {
        if (branch.bias) value += load(static_cast<const T*>(branch.bias) + row, w);
        if (branch.of_row) {
            const RowFactors& pair = branch.of_row[call.row_of_token[t]];
            const T* b = static_cast<const T*>(pair.b) + row;
            const float* of_token = v + t * call.most_rank;
            if (pair.a)
                for (int32_t r = 0; r < pair.rank; ++r) {
                    __builtin_prefetch(b + r * branch.rows + b_ahead, 0, 3);
                    value = fma(splat(of_token[r]), load(b + r * branch.rows, w), value);
                }
        }
        if (branch.y_type == Float::f32)
            store(static_cast<float*>(branch.y) + t * branch.rows + row, value, w);
        else
            store(static_cast<bf16*>(branch.y) + t * branch.rows + row, value, w);
    };
    if (branch.rows - row >= lanes)
        put(Whole{});
    else
        put(Part{branch.rows - row});
}

template <class T, template <class, class, int> class Sums>
void multiply_all(Float type, const void* x, Rows rows, int64_t columns, const PanelBranch* branches,
                  int32_t count) {
    const int64_t n = rows.begin[rows.count];
    const Input in(type, x, n, columns);
    const Scratch<int32_t> row_of_token(n);
    for (int32_t b = 0; b < rows.count; ++b)
        for (int32_t t = rows.begin[b]; t < rows.begin[b + 1]; ++t) row_of_token[t] = b;
    const Scratch<Kernels> kernels(count);
    const Scratch<int64_t> first(count + 1);  // panel of each branch
    int64_t most_rank = 0, updated = 0;
    first[0] = 0;
    for (int32_t i = 0; i < count; ++i) {
        kernels[i] = kernels_of<Sums>(branches[i].quant, columns);
        first[i + 1] = first[i] + (branches[i].rows + lanes - 1) / lanes;
        if (!branches[i].of_row) continue;
        updated = i + 1;
        for (int32_t b = 0; b < rows.count; ++b)
            if (branches[i].of_row[b].a) most_rank = most(most_rank, branches[i].of_row[b].rank);
    }
    const Scratch<float> v(updated * n * most_rank);
    const Call call{row_of_token.get(), most_rank, v.get()};

    const int64_t panels = first[count], pieces = (most_rank + rank_piece - 1) / rank_piece;
    struct Place {
        int32_t branch;
        int64_t panel;  ///< of the branch
        const uint8_t* data;
    };
    const auto place = [&](int64_t panel) {
        int32_t i = 0;
        while (panel >= first[i + 1]) ++i;
        const int64_t own = panel - first[i];
        return Place{i, own, static_cast<const uint8_t*>(branches[i].panels) + own * kernels[i].panel_size};
    };

#pragma omp parallel if (panels * lanes * columns >= parallel_elements)
    {
        const int64_t thread = thread_number(), threads = team_size();
        const int64_t begin = panels * thread / threads, end = panels * (thread + 1) / threads;
        if (begin < end) ask_for(place(begin).data, kernels[place(begin).branch].panel_size);
#pragma omp for schedule(static) nowait
        for (int64_t i = 0; i < n * in.groups; ++i) in.prepare(x, i);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < updated * n * pieces; ++i) {
            const int64_t of = i / pieces, t = of % n;
            const auto pair_of = [&](int64_t of) {
                const PanelBranch& branch = branches[of / n];
                return branch.of_row ? branch.of_row[call.row_of_token[of % n]] : RowFactors{};
            };
            const RowFactors pair = pair_of(of);
            const int64_t rank = i % pieces * rank_piece, ranks = least(pair.rank - rank, rank_piece);
            if (!pair.a || ranks <= 0) continue;
            const T* a = static_cast<const T*>(pair.a) + rank * columns;
            const auto bytes = static_cast<int64_t>(sizeof(T)) * rank_piece * columns;
            if (rank + rank_piece < pair.rank)
                ask_for(a + rank_piece * columns, bytes);
            else if (of + 1 < updated * n)
                if (const RowFactors then = pair_of(of + 1); then.a) ask_for(then.a, bytes);
            project(static_cast<const T*>(x) + t * columns, columns, a, columns, 1, columns, ranks,
                    pair.scale, call.v + of * most_rank + rank, most_rank);
        }
        for (int64_t panel = begin; panel < end; ++panel) {
            const auto [i, own, data] = place(panel);
            const uint8_t* next = panel + 1 < end ? place(panel + 1).data : nullptr;
            for (int64_t t = 0; t < n;) {
                const int64_t left = n - t;
                const int which = left >= most_tokens ? 3 : left >= 4 ? 2 : left >= 2 ? 1 : 0;
                const int64_t tokens = which == 3 ? most_tokens : int64_t{1} << which;
                vf out[most_tokens];
                kernels[i].of[which](data, t == 0 ? next : nullptr, in, t, out);
                for (int64_t j = 0; j < tokens; ++j)
                    finish<T>(branches[i], call, call.v + i * n * most_rank, t + j, own * lanes, out[j]);
                t += tokens;
            }
        }
    }
}

}  // namespace

void multiply_panels(Float type, const void* x, Rows rows, int64_t columns, const PanelBranch* branches,
                     int32_t count) {
    if (rows.count == 0 || rows.begin[rows.count] == 0) return;
    if (type == Float::bf16)
        multiply_all<bf16, IntegerSums>(type, x, rows, columns, branches, count);
    else
        multiply_all<float, FloatSums>(type, x, rows, columns, branches, count);
}

void multiply_packed(Quant quant, const void* w, const int32_t* source_row, Float type, const void* x,
                     int64_t n, int64_t rows, int64_t columns, void* y) {
    const int64_t bytes = columns / block_of(quant).elements * block_of(quant).bytes;
    const Scratch<float> row(columns);
    for (int64_t r = 0; r < rows; ++r) {
        dequantise(quant, static_cast<const uint8_t*>(w) + (source_row ? source_row[r] : r) * bytes,
                   row.get(), columns);
        for (int64_t t = 0; t < n; ++t) {
            vf total{};
            const auto add = [&](const auto* values) {
                sweep(columns, [&](int64_t k, auto part) {
                    total = fma(load(row.get() + k, part), load(values + t * columns + k, part), total);
                });
            };
            if (type == Float::f32) {
                add(static_cast<const float*>(x));
                static_cast<float*>(y)[t * rows + r] = sum(total);
            } else {
                add(static_cast<const bf16*>(x));
                static_cast<bf16*>(y)[t * rows + r] = rounded(sum(total));
            }
        }
    }
}

}  // namespace polyad::kernels::POLYAD_ISA
