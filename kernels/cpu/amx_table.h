// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/op_table.h"

namespace polyad::kernels::amx {

const OpTable& set();
/// Whether the CPU has AMX tiles for bf16 and the system lets this process use them.
bool runs();

}  // namespace polyad::kernels::amx
