// SPDX-License-Identifier: Apache-2.0
// Work recorded once and queued again in one call: CUDA graphs, as the rest of the core sees them.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <functional>
#include <memory>

namespace polyad {

/// What a Recorder recorded. Keeps the memory of the tensors that were made inside; what was made outside is
/// its owner's to keep.
class Recording {
  public:
    virtual ~Recording() = default;
    /// Queues all of it behind what this thread has queued on the device.
    virtual void play() = 0;
};

/// Recordings of one device share the memory of what they compute on the way: those of one recorder must not
/// play side by side. One caller at a time.
class Recorder {
  public:
    virtual ~Recorder() = default;

    /// Runs `work` where it would be recorded, so that what is made at first use is there. Waits for the
    /// device before and after.
    virtual void rehearse(const std::function<void()>& work) = 0;
    /// Records what `work` queues, and runs nothing of it. Throws what `work` throws, and Code::unsupported
    /// with the reason when something in it cannot be recorded (it waits for the device, or copies to or from
    /// host memory).
    virtual std::unique_ptr<Recording> record(const std::function<void()>& work) = 0;

    /// Kernels that are rehearsed or recorded and given a part of host[0, bytes) read `twin` on the device
    /// instead, whatever it holds when the recording plays. What host memory holds only bounds their launches
    /// (kernels::CudaLibrary::bind).
    virtual void bind(const void* host, size_t bytes, const void* twin) = 0;
    virtual void unbind(const void* host) = 0;
};

/// Null where the device records nothing (the CPU, builds without CUDA's headers).
std::unique_ptr<Recorder> make_recorder(at::Device device);
using MakeRecorder = std::unique_ptr<Recorder> (*)(at::Device device);
/// Beside register_kernels(): the CUDA library's, the tests' own device's.
void register_recorder(at::DeviceType type, MakeRecorder make);

}  // namespace polyad
