// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/isa/kernels.h"

#define POLYAD_TEXT_OF(x) #x
#define POLYAD_TEXT(x) POLYAD_TEXT_OF(x)

namespace polyad::kernels::POLYAD_ISA {

extern const OpTable table;
const OpTable table = {
    POLYAD_TEXT(POLYAD_ISA),
    dequantise,
    dequantise_bf16,
    multiply_packed,
    panel_bytes,
    make_panels,
    multiply_panels,
#if defined(__AVX512BF16__)
    multiply_dense,
#else
    nullptr,
#endif
    to_bf16,
    from_bf16,
    rms_norm,
    rms_norm_backward,
    add_rms_norm,
    rope,
    swiglu,
    swiglu_backward,
    add,
    append,
    attention,
    attention_backward,
    tree_attention,
    tree_attention_backward,
    low_rank_down,
    low_rank_up,
    low_rank_rows,
    low_rank_up_backward,
    low_rank_down_backward,
    gate,
    gate_backward,
    mix_factors,
    mix_factors_backward,
    gather_rows,
    sum_rows,
    row_dots,
    attend_span,
    attend_span_backward,
    cross_entropy,
    adamw,
    sum_squares,
    nullptr,  // upload
    nullptr,  // low_rank
};

}  // namespace polyad::kernels::POLYAD_ISA
