// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

namespace polyad {

/// Rows a product of n rows is computed with. oneDNN compiles a kernel for every number of rows it meets and
/// keeps it; the rows of ragged batches hardly ever add up to the same number twice, which made training half
/// as fast and its memory grow. new_buffer() leaves as much room behind a matrix.
int64_t padded_rows(int64_t n);

/// Through a linear, x W^T, or back through it, x W.
enum class Way { forward, backward };

/// out = x W^T or x W, or out += it. x [N, K], out [N, C], one dtype, no gradients. `room`: the memory
/// behind out's last row is nobody's, so that padded_rows(N) rows may be computed in place where x's memory
/// goes on as well (whatever is there never reaches a row that counts). Without room, or where K is no
/// multiple of 32, the rows are multiplied in pieces: a multiple of 256, then the rest, copied and padded to
/// a multiple of 32. On other devices in one piece. What kernels::OpTable::multiply_dense takes goes there.
void multiply_rows(at::Tensor& out, const at::Tensor& x, const at::Tensor& weight, Way way, bool accumulate,
                   bool room = false);

}  // namespace polyad
