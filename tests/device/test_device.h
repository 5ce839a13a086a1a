// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "backbone/cuda.h"
#include "device/shadow_device.h"

namespace polyad {

/// "shadow" = the tests' own device, else what a context's option takes: "cpu", "cuda", "cuda:N".
inline at::Device test_device(const std::string& name) {
    return name == "shadow" ? shadow_device() : open_device(name);
}

}  // namespace polyad
