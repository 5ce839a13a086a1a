// SPDX-License-Identifier: Apache-2.0
#include "evaluation/linkage.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"

namespace polyad {
namespace {

/// Points on a line, their distances, row-major.
std::vector<double> on_a_line(const std::vector<double>& points) {
    std::vector<double> out;
    for (const double a : points)
        for (const double b : points) out.push_back(std::abs(a - b));
    return out;
}

TEST(Linkage, AveragesOverAllMembers) {
    // 0, 1 and 10, 13: pairs at 1 and 3, joined at the mean of 10, 13, 9, 12.
    const auto merges = average_linkage(on_a_line({0, 1, 10, 13}), 4);
    ASSERT_EQ(merges.size(), 3u);
    EXPECT_EQ(merges[0].left, 0);
    EXPECT_EQ(merges[0].right, 1);
    EXPECT_EQ(merges[0].height, 1.0);
    EXPECT_EQ(merges[1].height, 3.0);
    EXPECT_EQ(merges[2].left, 4);
    EXPECT_EQ(merges[2].right, 5);
    EXPECT_EQ(merges[2].height, 11.0);
    EXPECT_EQ(merges[2].size, 4);
}

TEST(Linkage, WeighsClustersBySize) {
    // {0, 1, 2} meets 9 at (9 + 8 + 7) / 3, not at the mean of pairwise means.
    const auto merges = average_linkage(on_a_line({0, 1, 2.5, 9}), 4);
    EXPECT_DOUBLE_EQ(merges[1].height, 2.0);
    EXPECT_DOUBLE_EQ(merges[2].height, (9.0 + 8.0 + 6.5) / 3.0);
}

TEST(Linkage, OrdersLeavesAndCuts) {
    const auto merges = average_linkage(on_a_line({5, 0, 5.5, 0.25, 20}), 5);
    EXPECT_EQ(cut_tree(merges, 5, 3), (std::vector<int>{0, 1, 0, 1, 2}));
    EXPECT_EQ(cut_tree(merges, 5, 1), (std::vector<int>{0, 0, 0, 0, 0}));
    EXPECT_EQ(cut_tree(merges, 5, 5), (std::vector<int>{0, 1, 2, 3, 4}));
    const auto order = leaf_order(merges, 5);
    ASSERT_EQ(order.size(), 5u);
    const auto place = [&](int leaf) { return std::find(order.begin(), order.end(), leaf) - order.begin(); };
    EXPECT_EQ(std::abs(place(0) - place(2)), 1);
    EXPECT_EQ(std::abs(place(1) - place(3)), 1);
    EXPECT_EQ(leaf_order({}, 1), std::vector<int>{0});
}

TEST(Linkage, RefusesWhatIsNoTable) {
    EXPECT_THROW(average_linkage(std::vector<double>{0, 1, 1}, 2), Error);
    EXPECT_THROW(average_linkage(std::vector<double>{0, NAN, NAN, 0}, 2), Error);
    EXPECT_THROW(cut_tree({}, 1, 2), Error);
    EXPECT_TRUE(average_linkage({}, 0).empty());
}

}  // namespace
}  // namespace polyad
