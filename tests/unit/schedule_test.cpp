// SPDX-License-Identifier: Apache-2.0
#include "training/schedule.h"

#include <gtest/gtest.h>

#include <cmath>

namespace polyad {
namespace {

TEST(Schedule, LinearRisesThenFallsToZero) {
    EXPECT_DOUBLE_EQ(linear_warmup_decay(0, 4, 12), 0.0);
    EXPECT_DOUBLE_EQ(linear_warmup_decay(1, 4, 12), 0.25);
    EXPECT_DOUBLE_EQ(linear_warmup_decay(4, 4, 12), 1.0);
    EXPECT_DOUBLE_EQ(linear_warmup_decay(8, 4, 12), 0.5);
    EXPECT_DOUBLE_EQ(linear_warmup_decay(12, 4, 12), 0.0);
    EXPECT_DOUBLE_EQ(linear_warmup_decay(20, 4, 12), 0.0);
    EXPECT_DOUBLE_EQ(linear_warmup_decay(0, 0, 10), 1.0);
    EXPECT_DOUBLE_EQ(linear_warmup_decay(3, 5, 5), 0.6);  // nothing but warm-up
}

TEST(Schedule, CosineFallsSlowlyFirst) {
    EXPECT_DOUBLE_EQ(cosine_warmup_decay(2, 4, 12), 0.5);
    EXPECT_DOUBLE_EQ(cosine_warmup_decay(4, 4, 12), 1.0);
    EXPECT_NEAR(cosine_warmup_decay(6, 4, 12), 0.5 * (1 + std::sqrt(0.5)), 1e-12);
    EXPECT_NEAR(cosine_warmup_decay(8, 4, 12), 0.5, 1e-12);
    EXPECT_NEAR(cosine_warmup_decay(12, 4, 12), 0.0, 1e-12);
    EXPECT_NEAR(cosine_warmup_decay(99, 4, 12), 0.0, 1e-12);
}

TEST(Schedule, KindChoosesTheCurve) {
    EXPECT_DOUBLE_EQ(learning_rate_factor(ScheduleKind::linear, 8, 4, 12), 0.5);
    EXPECT_NEAR(learning_rate_factor(ScheduleKind::cosine, 6, 4, 12), 0.8535533905932737, 1e-12);
    EXPECT_DOUBLE_EQ(learning_rate_factor(ScheduleKind::constant, 11, 4, 12), 1.0);
    EXPECT_DOUBLE_EQ(learning_rate_factor(ScheduleKind::constant, 1, 4, 12), 0.25);
}

TEST(Schedule, TemperatureFallsToItsFloor) {
    EXPECT_DOUBLE_EQ(tau_at(2.0, 0.1, 0.5, 0), 2.0);
    EXPECT_DOUBLE_EQ(tau_at(2.0, 0.1, 0.5, 10), 2.0 * std::exp(-1.0));
    EXPECT_DOUBLE_EQ(tau_at(2.0, 0.1, 0.5, 1000), 0.5);
}

TEST(Schedule, RouterSlidesToTheUniformMix) {
    EXPECT_DOUBLE_EQ(uniform_interpolation(100, 0, 100), 1.0);
    EXPECT_DOUBLE_EQ(uniform_interpolation(100, 20, 79), 1.0);
    EXPECT_DOUBLE_EQ(uniform_interpolation(100, 20, 80), 1.0);
    EXPECT_NEAR(uniform_interpolation(100, 20, 90), std::sqrt(0.5), 1e-12);
    EXPECT_NEAR(uniform_interpolation(100, 20, 100), 0.0, 1e-12);
}

}  // namespace
}  // namespace polyad
