// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <limits>

#include "boundary.h"

namespace polyad::capi {

/// Nothing done, nothing known.
inline polyad_progress empty_progress() {
    constexpr double unknown = std::numeric_limits<double>::quiet_NaN();
    polyad_progress out{};
    out.struct_size = sizeof out;
    out.loss = out.gradient_norm = out.validation_loss = out.best_validation_loss = out.seconds_left =
        unknown;
    return out;
}

}  // namespace polyad::capi
