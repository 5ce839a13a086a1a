// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

namespace polyad {

/// out = x m, or out += x m. x [N, K], m [K, C], out [N, C], one dtype, no gradients.
/// oneDNN compiles a kernel for every number of rows it meets and keeps it; the rows of ragged batches hardly
/// ever add up to the same number twice, which made training half as fast and its memory grow. So rows are
/// multiplied in pieces of few sizes: a multiple of 256, then the rest, padded to a multiple of 32. On other
/// devices in one piece.
void multiply_rows(at::Tensor& out, const at::Tensor& x, const at::Tensor& m, bool accumulate);

}  // namespace polyad
