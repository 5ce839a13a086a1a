// SPDX-License-Identifier: Apache-2.0
// The CUDA part, loaded when a CUDA device is asked for and not before: LibTorch's libtorch_cuda.so, which
// lies beside the libtorch_cpu.so the core is linked with, and libpolyad_cuda.so with our kernels. A host
// without a GPU never opens either.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

#include "base/config.h"
#include "kernels/cuda/cuda_library.h"

namespace polyad {

/// "cpu", "cuda" (= "cuda:0") or "cuda:N"; loads what a CUDA device needs. memory_budget: most bytes LibTorch
/// may allocate on a CUDA device, 0 = all of it; one number for the process, set by the first call that asks
/// for such a device (another one later: Code::wrong_state). Code::invalid_config for a name that is none,
/// Code::invalid_argument for an index that is not there, Code::unsupported with the reason when nothing can
/// be used: no driver or one too old, no CUDA part beside LibTorch, a CUDA library of another version.
at::Device open_device(const std::string& name, uint64_t memory_budget = 0);

/// {"devices": [{"name": "cpu", "usable"}, {"name": "cuda:0", "usable", "description", "memory", "free",
/// ...}], "cuda": why there is no CUDA device, or null}. Never opens libtorch_cuda.so.
Json list_devices();

/// Operators beyond the common table, made ready as by ops_on(); null on a device that is not CUDA.
const kernels::CudaOps* cuda_ops(at::Device device);

/// LibTorch's stream for a cudaStream_t of the host's.
c10::Stream cuda_stream(at::Device device, void* stream);

/// LibTorch decides at a process's first backward pass whether it has CUDA. Told here, so that asking for a
/// device later gets a clear error.
void note_backward();

}  // namespace polyad
