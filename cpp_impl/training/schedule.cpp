// SPDX-License-Identifier: Apache-2.0
#include "training/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace polyad {
namespace {

double ratio(int64_t part, int64_t whole) {
    return static_cast<double>(part) / static_cast<double>(std::max<int64_t>(1, whole));
}

}  // namespace

double linear_warmup_decay(int64_t step, int64_t warmup, int64_t total) {
    if (step < warmup) return ratio(step, warmup);
    return std::max(0.0, ratio(total - step, total - warmup));
}

double cosine_warmup_decay(int64_t step, int64_t warmup, int64_t total) {
    if (step < warmup) return ratio(step, warmup);
    const double done = std::min(1.0, ratio(step - warmup, total - warmup));
    return 0.5 * (1.0 + std::cos(std::numbers::pi * done));
}

double constant_after_warmup(int64_t step, int64_t warmup) {
    return step < warmup ? ratio(step, warmup) : 1.0;
}

double learning_rate_factor(ScheduleKind kind, int64_t step, int64_t warmup, int64_t total) {
    switch (kind) {
        case ScheduleKind::linear:
            return linear_warmup_decay(step, warmup, total);
        case ScheduleKind::cosine:
            return cosine_warmup_decay(step, warmup, total);
        case ScheduleKind::constant:
            break;
    }
    return constant_after_warmup(step, warmup);
}

double uniform_interpolation(int64_t total, int64_t interp, int64_t step) {
    const int64_t into = interp - (total - step);
    if (into < 0 || interp == 0) return 1.0;
    return std::cos(std::numbers::pi / 2 * (static_cast<double>(into) / static_cast<double>(interp)));
}

}  // namespace polyad
