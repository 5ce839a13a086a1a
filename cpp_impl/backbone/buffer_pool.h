// SPDX-License-Identifier: Apache-2.0
// Memory for activations and gradients that goes round from step to step: pages given back to the system come
// back as page faults, tens of thousands per step. The pool never holds more than what was in use at once at
// the most and an eighth of that.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace polyad {

/// An uninitialised contiguous tensor; its memory returns to the pool with the last reference. Small ones,
/// and those of other devices than the CPU, are plain at::empty. Any thread.
at::Tensor new_buffer(at::IntArrayRef sizes, const at::TensorOptions& options);
at::Tensor new_buffer_like(const at::Tensor& t);
/// Zeros.
at::Tensor new_zeros(at::IntArrayRef sizes, const at::TensorOptions& options);

/// Uninitialised memory for what stays (weights, cached keys), on the CPU side by side in pages as large as
/// the system has them; it goes back to the system with the last reference.
at::Tensor new_lasting(at::IntArrayRef sizes, const at::TensorOptions& options);

struct BufferUse {
    int64_t live_bytes, idle_bytes;  ///< handed out; waiting
    int64_t taken_from_system;       ///< bytes so far that the pool did not have
};
BufferUse buffer_use();

/// Gives idle memory back to the system (training is over).
void release_idle_buffers();

}  // namespace polyad
