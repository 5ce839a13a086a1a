// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "base/random.h"

namespace polyad {

/// Keep mask [rows, width] divided by its probability, float32. Drawn from 16 bits an entry; every row has
/// its own place in the stream, so the result does not depend on the number of threads.
at::Tensor dropout_mask(Generator::State start, int64_t rows, int64_t width, double dropout,
                        at::Device device);

}  // namespace polyad
