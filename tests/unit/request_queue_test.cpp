// SPDX-License-Identifier: Apache-2.0
#include "serving/request_queue.h"

#include <gtest/gtest.h>

#include <vector>

namespace polyad {
namespace {

std::vector<int> drain(RequestQueue<int>& queue) {
    std::vector<int> out;
    while (!queue.empty()) {
        const int front = queue.front();
        out.push_back(queue.pop());
        EXPECT_EQ(out.back(), front);
    }
    return out;
}

TEST(RequestQueueTest, OneFlowKeepsItsOrder) {
    RequestQueue<int> queue;
    for (int i = 0; i < 5; ++i) queue.push(i, 0, "a", 100 * (i + 1));
    EXPECT_EQ(drain(queue), (std::vector<int>{0, 1, 2, 3, 4}));
}

TEST(RequestQueueTest, HigherPrioritiesComeFirst) {
    RequestQueue<int> queue;
    queue.push(1, 0, "a", 10);
    queue.push(2, -3, "a", 10);
    queue.push(3, 7, "b", 10);
    EXPECT_EQ(queue.front(), 3);
    queue.push(4, 8, "c", 10);
    queue.push(5, 7, "a", 10);
    EXPECT_EQ(drain(queue), (std::vector<int>{4, 3, 5, 1, 2}));
}

TEST(RequestQueueTest, AFloodOfOneTaskDelaysOnlyItself) {
    RequestQueue<int> queue;
    for (int i = 0; i < 100; ++i) queue.push(i, 0, "flood", 256);
    queue.push(1000, 0, "other", 256);
    queue.push(1001, 0, "other", 256);
    queue.push(2000, 0, "third", 256);
    std::vector<int> out = drain(queue);
    // A turn is worth 512 tokens: two of the flood, then both others.
    EXPECT_EQ(std::vector<int>(out.begin(), out.begin() + 6), (std::vector<int>{0, 1, 1000, 1001, 2000, 2}));
    EXPECT_EQ(out.size(), 103u);
}

TEST(RequestQueueTest, LongRequestsPayForTheirLength) {
    RequestQueue<int> queue;
    for (int i = 0; i < 4; ++i) queue.push(i, 0, "long", 2048);
    for (int i = 100; i < 140; ++i) queue.push(i, 0, "short", 128);
    std::vector<int> out = drain(queue);
    // 2,048 tokens of one task are worth sixteen requests of 128 of the other.
    int before = 0;
    for (size_t i = 0; out[i] != 1; ++i) before += out[i] >= 100;
    EXPECT_GE(before, 24);
    EXPECT_LE(before, 40);
    EXPECT_LT(out[20], 200);
}

TEST(RequestQueueTest, ReturnedOnesGoBeforeTheirPriority) {
    RequestQueue<int> queue;
    queue.push(1, 0, "a", 10);
    queue.push(2, 1, "a", 10);
    queue.push_front(3, 0);
    queue.push_front(4, 0);
    EXPECT_EQ(drain(queue), (std::vector<int>{2, 4, 3, 1}));
}

TEST(RequestQueueTest, ErasedOnesLeaveNothingBehind) {
    RequestQueue<int> queue;
    for (int i = 0; i < 30; ++i) queue.push(i, i % 3, i % 2 ? "odd" : "even", 50);
    queue.push_front(30, 1);
    queue.erase_if([](int i) { return i % 2 == 0; });
    EXPECT_EQ(queue.size(), 15u);
    size_t seen = 0;
    queue.for_each([&](int i) {
        EXPECT_EQ(i % 2, 1);
        ++seen;
    });
    EXPECT_EQ(seen, 15u);
    EXPECT_EQ(drain(queue).size(), 15u);
    queue.push(1, 0, "odd", 1);
    queue.erase_if([](int) { return true; });
    EXPECT_TRUE(queue.empty());
}

}  // namespace
}  // namespace polyad
