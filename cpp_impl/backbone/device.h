// SPDX-License-Identifier: Apache-2.0
// Where tensors live and who computes on them. A backbone's weights and whatever is trained or served over it
// lie on one device; lists of indices, tables the host decides by, and random numbers are made in host
// memory.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <exception>
#include <shared_mutex>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "kernels/op_table.h"

namespace polyad {

/// The kernels of a device, ready to queue on the stream ATen uses there at this moment. Code::unsupported
/// for a device no kernels were registered for.
const kernels::OpTable& ops_on(at::Device device);
inline const kernels::OpTable& ops_of(const at::Tensor& tensor) {
    return ops_on(tensor.device());
}
/// Gives a type of device its kernels: the CUDA library when it is loaded, the tests' own device.
/// `take_error`: the calling thread's first error since the last call, or null.
void register_kernels(at::DeviceType type, const kernels::OpTable& (*ops)(at::Device device),
                      const char* (*take_error)());

/// Throws what a kernel queued by this thread since the last call could not do, if anything.
void check_device(at::Device device);
/// Forgets it: what follows is not to blame for work that was given up.
void forget_device_errors(at::Device device) noexcept;
/// What an error left by a kernel is: Code::out_of_memory or Code::internal.
Code code_of_device_error(std::string_view message);

/// The tensor in host memory, contiguous; itself when it is that already. Waits for the
/// device, and throws what a kernel queued by this thread could not do.
at::Tensor on_host(const at::Tensor& tensor);
/// A list as a tensor [n] on `device`, without waiting for it.
at::Tensor device_list(const std::vector<int32_t>& values, at::Device device);
at::Tensor device_list(const std::vector<int64_t>& values, at::Device device);
at::Tensor device_list(const std::vector<float>& values, at::Device device);
/// A tensor of host memory on `device`, without waiting for it unless it is larger than OpTable::upload
/// sends.
at::Tensor on_device(const at::Tensor& tensor, at::Device device);
/// `bytes` of host memory as the first of a contiguous tensor's, queued; `from` may go when it returns.
/// Throws as check_device does.
void upload(const at::Tensor& to, const void* from, size_t bytes);

/// The stream the calling thread queues its work for `device` on.
c10::Stream current_stream(at::Device device);

/// While it lives, the calling thread queues its work for `device` on that device, and on `stream` (a
/// cudaStream_t) when that is not null. A CPU device changes nothing. Left by an exception, it forgets the
/// device's errors.
class DeviceScope {
  public:
    explicit DeviceScope(at::Device device, void* stream = nullptr);
    explicit DeviceScope(const c10::Stream& stream);
    ~DeviceScope();
    DeviceScope(const DeviceScope&) = delete;
    DeviceScope& operator=(const DeviceScope&) = delete;

  private:
    at::Device device_, before_;
    c10::Stream stream_before_;
    const int exceptions_ = std::uncaught_exceptions();
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
