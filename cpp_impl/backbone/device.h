// SPDX-License-Identifier: Apache-2.0
// Where tensors live and who computes on them. A backbone's weights and whatever is trained or served over it
// lie on one device; lists of indices, tables the host decides by, and random numbers are made in host
// memory.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <shared_mutex>
#include <vector>

#include "kernels/op_table.h"

namespace polyad {

/// The kernels of a device, ready to queue on the stream ATen uses there at this moment. Code::unsupported
/// for a device no kernels were registered for.
const kernels::OpTable& ops_on(at::Device device);
inline const kernels::OpTable& ops_of(const at::Tensor& tensor) {
    return ops_on(tensor.device());
}
/// Gives a type of device its kernels: the CUDA library when it is loaded, the tests' own device.
void register_kernels(at::DeviceType type, const kernels::OpTable& (*ops)(at::Device device));

/// The tensor in host memory, contiguous; itself when it is that already. Waits for the
/// device, and throws what a kernel queued by this thread could not do.
at::Tensor on_host(const at::Tensor& tensor);
/// A list as a tensor [n] on `device`.
at::Tensor device_list(const std::vector<int64_t>& values, at::Device device);
at::Tensor device_list(const std::vector<float>& values, at::Device device);

/// While it lives, the calling thread queues its work for `device` on that device, and on `stream` (a
/// cudaStream_t) when that is not null. A CPU device changes nothing.
class DeviceScope {
  public:
    explicit DeviceScope(at::Device device, void* stream = nullptr);
    ~DeviceScope();
    DeviceScope(const DeviceScope&) = delete;
    DeviceScope& operator=(const DeviceScope&) = delete;

  private:
    at::Device device_, before_;
    c10::Stream stream_before_;
};

/// Returns when everything queued on the device is done; at once for the CPU.
void wait_for(at::Device device);
/// Held shared while a thread waits for a whole device, which no thread may while another records there: held
/// alone meanwhile.
std::shared_mutex& waiting_for_devices();

/// Runs a backward pass on the calling thread, whichever device it is for: kernels then use this thread's
/// OpenMP team and stream, and an error is thrown here.
void run_backward(const at::Tensor& loss);

}  // namespace polyad
