// SPDX-License-Identifier: Apache-2.0
// Kernels of one instruction set. Every source in this folder is compiled once per set with POLYAD_ISA naming
// it; cpu/op_table.cpp puts the functions into that set's OpTable.
#pragma once

#include <cstdint>

#include "kernels/op_table.h"

namespace polyad::kernels::POLYAD_ISA {

// dequant.cpp
void dequantise(Quant type, const void* src, float* dst, int64_t n);
void dequantise_bf16(Quant type, const void* src, uint16_t* dst, int64_t n);

// panel_layout.cpp
int64_t panel_bytes(Quant quant, int64_t rows, int64_t columns);
void make_panels(Quant quant, const void* w, const int32_t* source_row, int64_t rows, int64_t columns,
                 void* panels);

// packed.cpp
void multiply_packed(Quant quant, const void* w, const int32_t* source_row, Float type, const void* x,
                     int64_t n, int64_t rows, int64_t columns, void* y);
void multiply_panels(Float type, const void* x, Rows rows, int64_t columns, const PanelBranch* branches,
                     int32_t count);

// dense_product.cpp, of the sets that multiply pairs of bf16
void multiply_dense(const uint16_t* x, int64_t n, const DenseWeights& weights, int add, uint16_t* y);

// elementwise.cpp
void to_bf16(const float* src, uint16_t* dst, int64_t n);
void from_bf16(const uint16_t* src, float* dst, int64_t n);
void rms_norm(Float type, const void* x, const float* w, float eps, void* y, float* rstd, int64_t n,
              int64_t width);
void rms_norm_backward(Float type, const void* dy, const void* x, const float* w, const float* rstd, void* dx,
                       float* dw, int add, int64_t n, int64_t width);
void add_rms_norm(Float type, void* residual, const void* delta, const float* w, float eps, void* y,
                  float* rstd, int64_t n, int64_t width);
void rope(Float type, void* x, int64_t token_stride, const float* cos, const float* sin,
          const int32_t* position, int64_t n, int32_t heads, int32_t head_dim, int32_t rotary_dim,
          int inverse);
void swiglu(Float type, const void* gate, const void* up, void* y, int64_t n);
void swiglu_backward(Float type, const void* dy, const void* gate, const void* up, void* dgate, void* dup,
                     int64_t n);
void add(Float type, void* y, const void* x, int64_t n);
void append(Float type, const void* fresh, Rows rows, const CacheRows& to, const int32_t* past,
            int64_t width);

// attention.cpp, attention_backward.cpp
void attention(const Attention& a, const void* q, void* o, float* lse);
void attention_backward(const Attention& a, const void* q, const void* o, const void* do_, const float* lse,
                        void* dq, void* const* dk_row, void* const* dv_row);

void tree_attention(const Attention& a, const int32_t* parent, const void* q, void* o, float* lse);
void tree_attention_backward(const Attention& a, const int32_t* parent, const void* q, const void* o,
                             const void* do_, const float* lse, void* dq, void* const* dk_row,
                             void* const* dv_row);

// mix_factors.cpp
void mix_factors(Float type, const FactorMix& mix, const float* bank, const float* weights, int add,
                 void* out);
void mix_factors_backward(const FactorMix& mix, const float* bank, const float* weights, const float* dout,
                          float* dbank, float* dweights);

// low_rank.cpp, low_rank_rows.cpp
void low_rank_down(Float type, const void* x, const void* a, const int32_t* group_of_row, Rows rows,
                   int64_t d_in, int64_t rank, float* u);
void low_rank_up(Float type, const float* v, const void* b, const int32_t* group_of_row, Rows rows,
                 int64_t d_out, int64_t rank, float scale, void* y);
void low_rank_rows(Float type, const void* x, const RowFactors* of_row, Rows rows, int64_t d_in,
                   int64_t d_out, void* y);
/// dv or db may be null.
void low_rank_up_backward(Float type, const void* dy, const float* v, const void* b,
                          const int32_t* group_of_row, Rows rows, int64_t d_out, int64_t rank, float scale,
                          float* dv, float* db);
/// dx or da may be null.
void low_rank_down_backward(Float type, const float* du, const void* x, const void* a,
                            const int32_t* group_of_row, Rows rows, int64_t d_in, int64_t rank, void* dx,
                            float* da);

// gate.cpp
void gate(const GateShape& shape, Rows rows, const float* gate, const float* u, float* v);
void gate_backward(const GateShape& shape, Rows rows, const float* gate, const float* u, const float* dv,
                   float* du, float* dgate);

// spread.cpp
void gather_rows(Float type, const void* x, const int32_t* row, const float* w, int64_t n, int64_t width,
                 void* out);
void sum_rows(Float type, const void* y, const int32_t* begin, const int32_t* member, const float* w, int add,
              int64_t n, int64_t width, void* out);
void row_dots(Float type, const void* a, const int32_t* row, const void* b, int64_t n, int64_t width,
              float* dots);

// span_pool.cpp
void attend_span(Float type, const void* x, int64_t n, int64_t d, float* attention, float* g);
void attend_span_backward(Float type, const void* x, int64_t n, int64_t d, const float* attention,
                          const float* dg, void* dx);

// head.cpp
void cross_entropy(float* logits, const int32_t* target, float eps, float* nll, int gradient, int64_t n,
                   int64_t vocab);

// optimiser.cpp
/// bias1 = 1 - beta1^step, bias2 = 1 - beta2^step.
void adamw(const AdamwTensor* tensors, int64_t count, float beta1, float beta2, float eps, float grad_scale);
double sum_squares(const float* const* x, const int64_t* n, int64_t count);

}  // namespace polyad::kernels::POLYAD_ISA
