// SPDX-License-Identifier: Apache-2.0
// Every kernel behind one table of plain functions: pointers, strides and sizes, no LibTorch. The CPU entry
// is the reference of its CUDA twin. Tensors are dense row-major unless a stride is given; `bf16` is the
// upper half of a float32. Where an activation pointer is `void*`, `Float` says how it is stored; arithmetic
// is float32 throughout. Kernels parallelise with OpenMP over the calling thread's setting and allocate
// nothing that outlives the call.
#pragma once

#include <cstddef>
#include <cstdint>

namespace polyad::kernels {

enum class Float : int { f32 = 0, bf16 = 1 };

/// ggml block types by ggml's own numbers.
enum class Quant : int {
    f32 = 0,
    f16 = 1,
    q4_0 = 2,
    q4_1 = 3,
    q5_0 = 6,
    q5_1 = 7,
    q8_0 = 8,
    q2_k = 10,
    q3_k = 11,
    q4_k = 12,
    q5_k = 13,
    q6_k = 14,
    iq4_nl = 20,
    iq4_xs = 23,
    bf16 = 30,
};

/// Rows of a ragged batch: row b is tokens [row_begin[b], row_begin[b + 1]).
struct Rows {
    const int32_t* begin;  ///< [count + 1]
    int32_t count;
};

/// Causal attention of ragged rows. Row b has nq[b] query tokens; they are the last ones of the row's nk[b]
/// keys. q, o: [N, heads, head_dim] packed by row; k, v of row b start at k_row[b], v_row[b] with `kv_stride`
/// elements between tokens (heads_kv * head_dim when packed).
struct Attention {
    Float type;
    int32_t rows, heads, heads_kv, head_dim;
    const int32_t* query_begin;  ///< [rows + 1] offsets of each row's queries in q and o
    const int32_t* key_count;    ///< [rows]
    const void* const* k_row;    ///< [rows]
    const void* const* v_row;    ///< [rows]
    int64_t kv_stride;
    float scale;
    int32_t window;  ///< sliding window: a query sees keys with 0 <= q - k < window; 0 = unlimited
    int32_t causal;  ///< 0: every query sees every key (encoders, cross-attention)
    const float*
        bias;  ///< optional [heads, max_query, max_key] added to scores by position (T5); null = none
    int64_t bias_query_stride, bias_head_stride;
    int32_t query_position0_is_tail;  ///< 1: query i of row b stands at position key_count[b] - nq + i
                                      ///< (causal); 0: i
    /// A cache that grows keeps a row in pages: with page_tokens > 0 (even) k_row and v_row are not read, and
    /// token j of row b is token j % page_tokens of page[page_begin[b] + j / page_tokens], whose keys start
    /// k_offset and whose values v_offset elements into it. One page that holds the whole row is the same as
    /// k_row and v_row. Not for attention_backward.
    int32_t page_tokens = 0;
    const int32_t* page_begin = nullptr;  ///< [rows] a row's first entry in `page`
    const void* const* page = nullptr;
    int64_t k_offset = 0, v_offset = 0;
};

/// Where rows of a cache lie, in one piece each or in pages as Attention has them (entries may be written).
struct CacheRows {
    void* const* row;  ///< [rows], not read with pages
    int32_t page_tokens;
    const int32_t* page_begin;  ///< [rows]
    void* const* page;
    int64_t page_offset;  ///< elements into a page
};

/// One row's plain low-rank pair, wherever it lies.
struct RowFactors {
    const void* a;  ///< [rank, d_in]; null: no update for this row
    const void* b;  ///< [rank, d_out], the up projection transposed
    int32_t rank;
    float scale;
};

/// Factors mixed from a bank of skills, one per group:
///     out[g, i, c] = sum_k w[g, split, k] bank[skill[g, k], i, c]
struct FactorMix {
    int64_t groups, skills, rows, columns;  ///< bank [skills, rows, columns], float32
    const int32_t* skill;        ///< [groups, chosen]; null: every group reads all skills, in order
    int64_t chosen;              ///< skills per group; `skills` when `skill` is null
    int64_t splits;              ///< w [groups, splits, chosen]
    int32_t split_rows;          ///< splits are contiguous blocks of rows (1) or of columns (0)
    int64_t out_group, out_row;  ///< elements between groups and between rows of out
};

/// How a gate acts between the two low-rank products, on u = Down(x) of ranks_in entries.
enum class GateKind : int {
    none = 0,  ///< G = 1
    diagonal =
        1,     ///< `width` entries dividing the ranks: entry w covers ranks [w R / width, (w + 1) R / width)
    full = 2,  ///< ranks_in * ranks_out entries: v_j = sum_i gate[i ranks_out + j] u_i
};
struct GateShape {
    GateKind kind = GateKind::none;
    int32_t per_token = 0;  ///< one line of entries per token; 0: per row
    int64_t ranks_in = 0;   ///< R of Down
    int64_t ranks_out = 0;  ///< R of Up; == ranks_in unless kind is full
    int64_t width = 0;      ///< entries per line
};
/// Most ranks of OpTable::low_rank.
inline constexpr int64_t low_rank_ranks = 4096;

/// One of several linears that read the same x.
struct PanelBranch {
    Quant quant;
    const void* panels;  ///< from make_panels
    int64_t rows;
    const void* bias;          ///< [rows] in x's type, or null
    const RowFactors* of_row;  ///< what low_rank_rows would add, in x's type, d_out = rows; or null
    Float y_type;
    void* y;  ///< [n, rows]
};

/// One tensor's part of an AdamW step; bias1, bias2: what Adam divides its moments by.
struct AdamwTensor {
    float* p;
    const float* g;
    float *m, *v;
    int64_t n;
    float lr, weight_decay, bias1, bias2;
};

/// W [rows, columns], bf16, 32 dividing both: y = x W^T, or where backward != 0 y = x W.
struct DenseWeights {
    const uint16_t* w;
    int64_t rows, columns;
    int backward;
    int64_t outputs() const { return backward ? columns : rows; }
    int64_t depth() const { return backward ? rows : columns; }
};

struct OpTable {
    const char* isa;

    // ---- conversion ----
    /// Expands `n` elements of GGUF blocks (n a multiple of the block size). Bitwise equal to ggml's
    /// references.
    void (*dequantise)(Quant type, const void* src, float* dst, int64_t n);
    void (*dequantise_bf16)(Quant type, const void* src, uint16_t* dst, int64_t n);  // round to nearest even
    /// y[t, :] = x[t, :] W^T for a few tokens, W [rows, columns] still in ggml's blocks: for devices, which
    /// read them as they are; on the CPU this is the plain reference. Row r of W is the source_row[r]-th
    /// stored one (null: the r-th).
    void (*multiply_packed)(Quant quant, const void* w, const int32_t* source_row, Float type, const void* x,
                            int64_t n, int64_t rows, int64_t columns, void* y);
    /// Bytes of W [rows, columns] laid out for multiply_panels by this set; 0 = the format has no such
    /// layout.
    int64_t (*panel_bytes)(Quant quant, int64_t rows, int64_t columns);
    /// Lays W, ggml's blocks row by row, out in panels (null on devices, as all three). Row r of the result
    /// is the source_row[r]-th stored one (null: the r-th). Nothing is rounded.
    void (*make_panels)(Quant quant, const void* w, const int32_t* source_row, int64_t rows, int64_t columns,
                        void* panels);
    /// Every branch's y = x W^T + bias + its rows' updates for a few tokens (decoding), in one parallel
    /// region: the weights come packed through memory, and nothing else is touched twice. float32 x is
    /// multiplied as it is; bf16 x, in groups of 32 columns, as 16-bit integers. x [n, columns] with n the
    /// last of `rows`. A token's result does not depend on the tokens beside it.
    void (*multiply_panels)(Float type, const void* x, Rows rows, int64_t columns,
                            const PanelBranch* branches, int32_t count);
    /// y [n, outputs] (+)= x [n, depth] by dense weights. Sums are float32, rounded once; a token's result
    /// depends neither on the tokens beside it nor on the number of threads. Null in sets that do not
    /// multiply pairs of bf16: a library's product is as fast there.
    void (*multiply_dense)(const uint16_t* x, int64_t n, const DenseWeights& weights, int add, uint16_t* y);
    void (*to_bf16)(const float* src, uint16_t* dst, int64_t n);
    void (*from_bf16)(const uint16_t* src, float* dst, int64_t n);

    // ---- element-wise ----
    /// y = w * x / sqrt(mean(x^2) + eps) per row of `width`; rstd [n] is kept for the backward pass (may be
    /// null).
    void (*rms_norm)(Float type, const void* x, const float* w, float eps, void* y, float* rstd, int64_t n,
                     int64_t width);
    /// dx (+)= gradient through rms_norm; dw [width] accumulates when not null. `add` != 0 adds to dx.
    void (*rms_norm_backward)(Float type, const void* dy, const void* x, const float* w, const float* rstd,
                              void* dx, float* dw, int add, int64_t n, int64_t width);
    /// residual += delta (stored), then y = rms_norm(residual): one pass over memory.
    void (*add_rms_norm)(Float type, void* residual, const void* delta, const float* w, float eps, void* y,
                         float* rstd, int64_t n, int64_t width);
    /// Rotates half-split pairs (i, i + rotary_dim/2) in place. x: [n, heads, head_dim] with `token_stride`
    /// elements between tokens; cos, sin: [*, rotary_dim/2] indexed by position[n]; `inverse` = the backward
    /// rotation.
    void (*rope)(Float type, void* x, int64_t token_stride, const float* cos, const float* sin,
                 const int32_t* position, int64_t n, int32_t heads, int32_t head_dim, int32_t rotary_dim,
                 int inverse);
    /// y = silu(gate) * up.
    void (*swiglu)(Float type, const void* gate, const void* up, void* y, int64_t n);
    void (*swiglu_backward)(Float type, const void* dy, const void* gate, const void* up, void* dgate,
                            void* dup, int64_t n);
    /// y += x.
    void (*add)(Float type, void* y, const void* x, int64_t n);

    /// A key-value cache grows: each row's tokens of fresh [N, width] are copied behind the past[b] tokens
    /// (of `width` elements) that the row has.
    void (*append)(Float type, const void* fresh, Rows rows, const CacheRows& to, const int32_t* past,
                   int64_t width);

    // ---- attention ----
    /// o and, when lse is not null, lse [N, heads] = log-sum-exp of each query's scores (for the backward
    /// pass).
    void (*attention)(const Attention& a, const void* q, void* o, float* lse);
    /// Packed k, v only (k_row[b] = k + offset). dk, dv: same layout as k, v, written.
    void (*attention_backward)(const Attention& a, const void* q, const void* o, const void* do_,
                               const float* lse, void* dq, void* const* dk_row, void* const* dv_row);

    /// The same over rows that share beginnings: row b goes on from row parent[b], an earlier row, or begins
    /// by itself (-1). Its queries see the keys of the whole line, which key_count[b] counts; k_row[b] and
    /// v_row[b] hold as many keys of its own as it has queries, packed. Null on devices that have none:
    /// callers then lay every row out whole.
    void (*tree_attention)(const Attention& a, const int32_t* parent, const void* q, void* o, float* lse);
    void (*tree_attention_backward)(const Attention& a, const int32_t* parent, const void* q, const void* o,
                                    const void* do_, const float* lse, void* dq, void* const* dk_row,
                                    void* const* dv_row);

    // ---- routed low-rank (the one operator) ----
    /// u[t, :] = x[t, :] A_g^T for the group g of t's row (group -1: zeros). A: [groups, rank, d_in] in
    /// `type`.
    void (*low_rank_down)(Float type, const void* x, const void* a, const int32_t* group_of_row, Rows rows,
                          int64_t d_in, int64_t rank, float* u);
    /// y[t, :] += scale * v[t, :] B_g^T. B: [groups, d_out, rank] in `type`. v float32.
    void (*low_rank_up)(Float type, const float* v, const void* b, const int32_t* group_of_row, Rows rows,
                        int64_t d_out, int64_t rank, float scale, void* y);
    /// y[t, :] += scale * (x[t, :] A^T) B with the pair of t's own row, of_row [rows.count] (serving: rows of
    /// one batch belong to different skillsets). No token's result depends on the tokens beside it in
    /// float32.
    void (*low_rank_rows)(Float type, const void* x, const RowFactors* of_row, Rows rows, int64_t d_in,
                          int64_t d_out, void* y);
    /// dv[t, :] = scale * dy[t, :] B_g; db[g] += scale * sum_t dy[t]^T v[t].
    void (*low_rank_up_backward)(Float type, const void* dy, const float* v, const void* b,
                                 const int32_t* group_of_row, Rows rows, int64_t d_out, int64_t rank,
                                 float scale, float* dv, float* db);
    /// dx[t, :] += du[t, :] A_g; da[g] += sum_t du[t]^T x[t].
    void (*low_rank_down_backward)(Float type, const float* du, const void* x, const void* a,
                                   const int32_t* group_of_row, Rows rows, int64_t d_in, int64_t rank,
                                   void* dx, float* da);

    /// v = G u for every token. u [N, ranks_in], v [N, ranks_out], gate [rows or N, width]; kind is not none.
    void (*gate)(const GateShape& shape, Rows rows, const float* gate, const float* u, float* v);
    /// du = G^T dv (written), dgate += what u and dv make of it (null = not wanted).
    void (*gate_backward)(const GateShape& shape, Rows rows, const float* gate, const float* u,
                          const float* dv, float* du, float* dgate);

    /// out (+)= the mix, in `type`; sums are float32. Null on devices that have none.
    void (*mix_factors)(Float type, const FactorMix& mix, const float* bank, const float* weights, int add,
                        void* out);
    /// From dout (laid out like out, float32): dbank [skills, rows, columns] is written, zeros where no group
    /// reads; dweights [groups, splits, chosen] is added to. Either may be null.
    void (*mix_factors_backward)(const FactorMix& mix, const float* bank, const float* weights,
                                 const float* dout, float* dbank, float* dweights);

    // ---- tokens spread over copies of a block; null on devices that have none ----
    /// out[m, :] = w[m] x[row[m], :] for m < n; w null: 1.
    void (*gather_rows)(Float type, const void* x, const int32_t* row, const float* w, int64_t n,
                        int64_t width, void* out);
    /// out[t, :] (+)= sum of w[m] y[m, :] over m = member[begin[t]], ..., member[begin[t + 1] - 1], for t <
    /// n; w null: 1. Sums are float32.
    void (*sum_rows)(Float type, const void* y, const int32_t* begin, const int32_t* member, const float* w,
                     int add, int64_t n, int64_t width, void* out);
    /// dots[m] += <a[row[m], :], b[m, :]> for m < n.
    void (*row_dots)(Float type, const void* a, const int32_t* row, const void* b, int64_t n, int64_t width,
                     float* dots);

    // ---- prompts read by a router, one thread's work each; null on devices that have none ----
    /// attention [n, n] = softmax(x x^T / sqrt(d)), g [d] = mean_i (sum_j attention_ij x_j + x_i). x [n, d].
    void (*attend_span)(Float type, const void* x, int64_t n, int64_t d, float* attention, float* g);
    /// dx [n, d] (written) from dg [d].
    void (*attend_span_backward)(Float type, const void* x, int64_t n, int64_t d, const float* attention,
                                 const float* dg, void* dx);

    // ---- output head ----
    /// Softmax cross-entropy of logits [n, vocab] (float32), label smoothing eps spread over the whole
    /// vocabulary: nll[t] = (1 - eps) * -log p[target] + eps / vocab * sum_v -log p_v. When `gradient` != 0
    /// logits become d nll[t] / d logits. target -1: nll 0, gradient 0.
    void (*cross_entropy)(float* logits, const int32_t* target, float eps, float* nll, int gradient,
                          int64_t n, int64_t vocab);

    // ---- optimiser ----
    /// One AdamW step (decoupled weight decay) of many tensors, gradients multiplied by grad_scale first.
    /// `tensors` in host memory.
    void (*adamw)(const AdamwTensor* tensors, int64_t count, float beta1, float beta2, float eps,
                  float grad_scale);
    /// Sum of squares over `count` tensors x[i] of n[i] elements (both lists in host memory), in double, same
    /// result for any number of threads. Waits for a device.
    double (*sum_squares)(const float* const* x, const int64_t* n, int64_t count);

    // ---- devices alone ----
    /// Copies host memory to the device's, queued; `from` may change or go when it returns. `to` starts where
    /// 16 bytes do. Does not wait for the device, unless there are more than 256 KiB. Null on the CPU.
    void (*upload)(void* to, const void* from, int64_t bytes);
    /// y[t, :] += scale * G(x[t, :] A_g^T) B_g^T, with a and b as low_rank_down and low_rank_up have them:
    /// both products and the gate between them in one, for few tokens (decoding) and at most low_rank_ranks
    /// ranks. `gate` is not read where the kind is none. Null where one after the other is as good (CPUs).
    void (*low_rank)(Float type, const void* x, const void* a, const void* b, const int32_t* group_of_row,
                     Rows rows, int64_t d_in, int64_t d_out, const GateShape& shape, const float* gate,
                     float scale, void* y);
};

/// The best set this CPU can run, or the one POLYAD_ISA names (portable, avx2, avx512, amx). Chosen once.
const OpTable& ops();
/// A given set, or null when this CPU cannot run it (tests).
const OpTable* ops_for(const char* isa);

}  // namespace polyad::kernels
