// SPDX-License-Identifier: Apache-2.0
// Numbers that follow from the step alone. `step` counts finished optimiser steps everywhere.
#pragma once

#include <cstdint>

#include "skills/temperature.h"  // tau_at, which routers follow by themselves

namespace polyad {

enum class ScheduleKind { linear, cosine, constant };

/// Rises from 0 to 1 over `warmup` steps, then falls linearly to 0 at `total`.
double linear_warmup_decay(int64_t step, int64_t warmup, int64_t total);
/// The same rise, then half a cosine down to 0 at `total`.
double cosine_warmup_decay(int64_t step, int64_t warmup, int64_t total);
/// The same rise, then 1.
double constant_after_warmup(int64_t step, int64_t warmup);
/// Factor on every group's learning rate.
double learning_rate_factor(ScheduleKind kind, int64_t step, int64_t warmup, int64_t total);

/// Coefficient a of w <- a w + (1 - a) / S: a router slides to the uniform mix over its last `interp` steps
/// (MHR-mu, arXiv 2211.03831).
double uniform_interpolation(int64_t total, int64_t interp, int64_t step);

}  // namespace polyad
