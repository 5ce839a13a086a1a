// SPDX-License-Identifier: Apache-2.0
#include "backbone/recorder.h"

#include <array>
#include <atomic>

namespace polyad {
namespace {

constexpr auto types = static_cast<size_t>(c10::DeviceType::COMPILE_TIME_MAX_DEVICE_TYPES);
std::array<std::atomic<MakeRecorder>, types> registered{};

}  // namespace

std::unique_ptr<Recorder> make_recorder(at::Device device) {
    const MakeRecorder make = registered[static_cast<size_t>(device.type())].load(std::memory_order_acquire);
    return make ? make(device) : nullptr;
}

void register_recorder(at::DeviceType type, MakeRecorder make) {
    registered[static_cast<size_t>(type)].store(make, std::memory_order_release);
}

}  // namespace polyad
