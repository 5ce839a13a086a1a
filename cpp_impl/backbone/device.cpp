// SPDX-License-Identifier: Apache-2.0
#include "backbone/device.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <c10/core/AutogradState.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>

#include <array>
#include <atomic>
#include <cstring>

#include "backbone/cuda.h"
#include "backbone/device_error.h"
#include "base/error.h"

namespace polyad {
namespace {

using OpsOn = const kernels::OpTable& (*)(at::Device);
constexpr auto types = static_cast<size_t>(at::DeviceType::COMPILE_TIME_MAX_DEVICE_TYPES);
std::array<std::atomic<OpsOn>, types> registered{};
std::array<std::atomic<const char* (*)()>, types> errors{};

c10::Stream no_stream() {
    return c10::Stream(c10::Stream::DEFAULT, at::Device(at::kCPU));
}

/// The calling thread's first error since the last time, or null.
const char* take_error(at::Device device) {
    const auto take = errors[static_cast<size_t>(device.type())].load(std::memory_order_acquire);
    return take ? take() : nullptr;
}

template <class T>
at::Tensor make_list(const std::vector<T>& values, at::ScalarType type, at::Device device) {
    if (device.is_cpu()) return at::tensor(values, type);
    at::Tensor out =
        at::empty({static_cast<int64_t>(values.size())}, at::TensorOptions().dtype(type).device(device));
    upload(out, values.data(), values.size() * sizeof(T));
    return out;
}

}  // namespace

const kernels::OpTable& ops_on(at::Device device) {
    if (device.is_cpu()) return kernels::ops();
    const OpsOn ops = registered[static_cast<size_t>(device.type())].load(std::memory_order_acquire);
    if (!ops) fail(Code::unsupported, "there are no kernels for tensors on device ", device.str());
    return ops(device);
}

void register_kernels(at::DeviceType type, const kernels::OpTable& (*ops)(at::Device device),
                      const char* (*take_error)()) {
    errors[static_cast<size_t>(type)].store(take_error, std::memory_order_release);
    registered[static_cast<size_t>(type)].store(ops, std::memory_order_release);
}

Code code_of_device_error(std::string_view message) {
    const bool full = message.find("out of memory") != std::string_view::npos ||
                      message.find("out of device memory") != std::string_view::npos;
    return full ? Code::out_of_memory : Code::internal;
}

void check_device(at::Device device) {
    const char* error = take_error(device);
    if (!error) return;
    const std::string message = error;
    fail(code_of_device_error(message), "on device ", device.str(), ": ", message);
}

void forget_device_errors(at::Device device) noexcept {
    take_error(device);
}

at::Tensor on_host(const at::Tensor& tensor) {
    const at::Tensor out = tensor.to(at::kCPU).contiguous();
    check_device(tensor.device());  // now that all that was queued for it has run
    return out;
}

at::Tensor device_list(const std::vector<int32_t>& values, at::Device device) {
    return make_list(values, at::kInt, device);
}

at::Tensor device_list(const std::vector<int64_t>& values, at::Device device) {
    return make_list(values, at::kLong, device);
}

at::Tensor device_list(const std::vector<float>& values, at::Device device) {
    return make_list(values, at::kFloat, device);
}

at::Tensor on_device(const at::Tensor& tensor, at::Device device) {
    if (device.is_cpu() || !tensor.is_cpu()) return tensor.to(device);
    const at::Tensor from = tensor.contiguous();
    at::Tensor out = at::empty(from.sizes(), from.options().device(device));
    upload(out, from.const_data_ptr(), from.nbytes());
    return out;
}

void upload(const at::Tensor& to, const void* from, size_t bytes) {
    POLYAD_CHECK(to.is_contiguous() && bytes <= to.nbytes());
    if (bytes == 0) return;
    if (to.is_cpu()) {
        std::memcpy(to.data_ptr(), from, bytes);
        return;
    }
    ops_of(to).upload(to.data_ptr(), from, static_cast<int64_t>(bytes));
    check_device(to.device());  // indices that did not arrive would be read all the same
}

c10::Stream current_stream(at::Device device) {
    return device.is_cpu() ? no_stream() : c10::impl::VirtualGuardImpl(device.type()).getStream(device);
}

DeviceScope::DeviceScope(at::Device device, void* stream)
    : device_(device), before_(device), stream_before_(no_stream()) {
    if (device_.is_cpu()) return;
    const c10::impl::VirtualGuardImpl guard(device_.type());
    before_ = guard.exchangeDevice(device_);
    stream_before_ = guard.getStream(device_);
    if (stream) guard.exchangeStream(cuda_stream(device_, stream));
}

DeviceScope::DeviceScope(const c10::Stream& stream) : DeviceScope(stream.device()) {
    if (!device_.is_cpu()) c10::impl::VirtualGuardImpl(device_.type()).exchangeStream(stream);
}

DeviceScope::~DeviceScope() {
    if (device_.is_cpu()) return;
    if (std::uncaught_exceptions() > exceptions_) forget_device_errors(device_);
    const c10::impl::VirtualGuardImpl guard(device_.type());
    guard.exchangeStream(stream_before_);
    guard.uncheckedSetDevice(before_);
}

void wait_for(at::Device device) {
    if (device.is_cpu()) return;
    const std::shared_lock lock(waiting_for_devices());
    c10::impl::VirtualGuardImpl(device.type()).synchronizeDevice(device.index());
}

std::shared_mutex& waiting_for_devices() {
    static std::shared_mutex mutex;
    return mutex;
}

std::string out_of_device_memory(const std::exception& error) {
    const auto* full = dynamic_cast<const c10::OutOfMemoryError*>(&error);
    if (!full) return {};
    std::string message = full->what_without_backtrace();
    return message.substr(0, message.find(" See documentation"));
}

void run_backward(const at::Tensor& loss) {
    struct OneThread {
        const bool before = c10::AutogradState::get_tls_state().get_multithreading_enabled();
        OneThread() { c10::AutogradState::get_tls_state().set_multithreading_enabled(false); }
        ~OneThread() { c10::AutogradState::get_tls_state().set_multithreading_enabled(before); }
    } one_thread;
    note_backward();
    loss.backward();
}

}  // namespace polyad
