// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "backbone/recorder.h"
#include "kernels/cuda/cuda_library.h"

namespace polyad {

/// Null in builds that had no CUDA headers, and where LibTorch's allocator is not its own.
std::unique_ptr<Recorder> make_cuda_recorder(const kernels::CudaLibrary& library, at::Device device);

}  // namespace polyad
