// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <exception>
#include <string>

namespace polyad {

/// LibTorch's message, which names the sizes, when `error` says that a device's memory is used up; else
/// empty.
std::string out_of_device_memory(const std::exception& error);

}  // namespace polyad
