// SPDX-License-Identifier: Apache-2.0
// A device for machines that have none. Its tensors lie in host memory, but their addresses carry a mark that
// makes any direct access crash; ATen's operators and the kernels see through the mark, refuse tensors of two
// devices in one operation as CUDA does, and compute with the CPU's own code. What runs here touches device
// memory through operators and kernels only, and gives the CPU's numbers.
#pragma once

#include <c10/core/Device.h>

namespace polyad {

/// Makes the device known to ATen and to ops_on(); the first call does it, later ones return the same.
at::Device shadow_device();

}  // namespace polyad
