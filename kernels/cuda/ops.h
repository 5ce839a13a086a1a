// SPDX-License-Identifier: Apache-2.0
// The CUDA twins of the operators (op_table.h, cuda_library.h); library.cu puts them into the tables.
#pragma once

#include <cuda_bf16.h>

#include "kernels/cuda/context.h"
#include "kernels/cuda/cuda_library.h"
#include "kernels/op_table.h"

namespace polyad::kernels::cuda {

/// Runs body with a value of the element type.
template <class Body>
void with_type(Float type, Body&& body) {
    if (type == Float::bf16)
        body(__nv_bfloat16{});
    else
        body(float{});
}

// quant.cu
void dequantise(Quant type, const void* src, float* dst, int64_t n);
void dequantise_bf16(Quant type, const void* src, uint16_t* dst, int64_t n);
void multiply_packed(Quant quant, const void* w, const int32_t* source_row, Float type, const void* x,
                     int64_t n, int64_t rows, int64_t columns, void* y);

// elementwise.cu
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

// attention.cu, attention_backward.cu
void attention(const Attention& a, const void* q, void* o, float* lse);
void attention_backward(const Attention& a, const void* q, const void* o, const void* do_, const float* lse,
                        void* dq, void* const* dk_row, void* const* dv_row);

// low_rank.cu, low_rank_fused.cu
void low_rank_down(Float type, const void* x, const void* a, const int32_t* group_of_row, Rows rows,
                   int64_t d_in, int64_t rank, float* u);
void low_rank_up(Float type, const float* v, const void* b, const int32_t* group_of_row, Rows rows,
                 int64_t d_out, int64_t rank, float scale, void* y);
void low_rank_up_backward(Float type, const void* dy, const float* v, const void* b,
                          const int32_t* group_of_row, Rows rows, int64_t d_out, int64_t rank, float scale,
                          float* dv, float* db);
void low_rank_down_backward(Float type, const float* du, const void* x, const void* a,
                            const int32_t* group_of_row, Rows rows, int64_t d_in, int64_t rank, void* dx,
                            float* da);
void gate(const GateShape& shape, Rows rows, const float* gate, const float* u, float* v);
void gate_backward(const GateShape& shape, Rows rows, const float* gate, const float* u, const float* dv,
                   float* du, float* dgate);
void low_rank_rows(Float type, const void* x, const RowFactors* of_row, Rows rows, int64_t d_in,
                   int64_t d_out, void* y);
void low_rank(Float type, const void* x, const void* a, const void* b, const int32_t* group_of_row, Rows rows,
              int64_t d_in, int64_t d_out, const GateShape& shape, const float* gate, float scale, void* y);
/// low_rank_rows in bf16 for rows of many tokens.
void low_rank_prompts(const void* x, const RowFactors* of_row, Rows rows, int64_t d_in, int64_t d_out,
                      void* y);

// head.cu
void cross_entropy(float* logits, const int32_t* target, float eps, float* nll, int gradient, int64_t n,
                   int64_t vocab);
void sample(const float* logits, const Sampling* options, const int32_t* seen, Rows seen_rows, int64_t n,
            int64_t vocab, int32_t* token);

// optimiser.cu
void adamw(const AdamwTensor* tensors, int64_t count, float beta1, float beta2, float eps, float grad_scale);
double sum_squares(const float* const* x, const int64_t* n, int64_t count);

// mixing.cu
void mix_factors(Float type, const FactorMix& mix, const float* bank, const float* weights, int add,
                 void* out);
void mix_factors_backward(const FactorMix& mix, const float* bank, const float* weights, const float* dout,
                          float* dbank, float* dweights);
void nearest(const float* points, const float* centroids, int64_t n, int64_t clusters, int64_t width,
             int spherical, int32_t* member);

}  // namespace polyad::kernels::cuda
