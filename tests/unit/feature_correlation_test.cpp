// SPDX-License-Identifier: Apache-2.0
#include "evaluation/feature_correlation.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"

namespace polyad {
namespace {

TEST(FeatureCorrelation, IsPearsonsOfEveryPairOfColumns) {
    // Two route columns, two features, four tasks.
    const std::vector<double> routes = {1, 4, 2, 3, 3, 2, 4, 1}, features = {0, 1, 0, 0, 1, 0, 1, 1};
    const std::vector<double> got = feature_correlation(routes, features, 4);
    ASSERT_EQ(got.size(), 4u);
    // Of (1,2,3,4) with (0,0,1,1): covariance 2, lengths sqrt(5) and 1; with (1,0,0,1): 0.
    EXPECT_NEAR(got[0], 2 / std::sqrt(5.0), 1e-12);
    EXPECT_NEAR(got[1], 0.0, 1e-12);
    EXPECT_NEAR(got[2], -2 / std::sqrt(5.0), 1e-12);
    EXPECT_NEAR(got[3], 0.0, 1e-12);
}

TEST(FeatureCorrelation, SaysWhatHasNone) {
    const std::vector<double> flat = {1, 1, 1}, rising = {1, 2, 3};
    EXPECT_TRUE(std::isnan(feature_correlation(flat, rising, 3)[0]));
    EXPECT_THROW(feature_correlation(rising, rising, 2), Error);
    EXPECT_THROW(feature_correlation({}, rising, 3), Error);
    EXPECT_THROW(feature_correlation(std::vector<double>{1.0}, std::vector<double>{1.0}, 1), Error);
    const std::vector<double> bad = {1, NAN, 3};
    EXPECT_THROW(feature_correlation(bad, rising, 3), Error);
}

}  // namespace
}  // namespace polyad
