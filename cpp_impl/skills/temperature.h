// SPDX-License-Identifier: Apache-2.0
// The temperature of a relaxed router, which falls with the optimiser steps.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace polyad {

/// max(tau0 exp(-rate step), tau_min); `step` counts finished optimiser steps (arXiv 2205.12701).
inline double tau_at(double tau0, double rate, double tau_min, int64_t step) {
    return std::max(tau0 * std::exp(-rate * static_cast<double>(step)), tau_min);
}

}  // namespace polyad
