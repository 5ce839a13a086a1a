// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/op_table.h"

namespace polyad {

/// The CPU's kernels over the shadow device's memory. An address of tensor data that does not carry the
/// device's mark, or one of an index list that does, is Code::internal.
const kernels::OpTable& shadow_ops();

}  // namespace polyad
