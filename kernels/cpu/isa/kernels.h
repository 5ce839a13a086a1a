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

}  // namespace polyad::kernels::POLYAD_ISA
