// SPDX-License-Identifier: Apache-2.0
#include "serving/beside_steps.h"

#include <gtest/gtest.h>

#include <chrono>
#include <ctime>

namespace polyad {
namespace {

/// Says on which thread it was freed.
struct Witness {
    explicit Witness(std::atomic<std::thread::id>& freed_on) : freed_on(freed_on) {}
    ~Witness() { freed_on = std::this_thread::get_id(); }
    std::atomic<std::thread::id>& freed_on;
};

void work(double seconds) {
    const auto now = [] {
        timespec t{};
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
        return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
    };
    for (const double begin = now(); now() - begin < seconds;) {
    }
}

double seconds_of_paced_work(int running) {
    const std::atomic<int> rows{running};
    const auto begin = std::chrono::steady_clock::now();
    Pace pace(rows);
    for (int i = 0; i < 20; ++i) {
        work(1e-3);
        pace.rest();
    }
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

TEST(Pace, WorksAQuarterOfTheTimeBesideRunningRows) {
    EXPECT_GE(seconds_of_paced_work(1), 0.079);  // 20 ms of work, three times that of sleep
}

TEST(Disposal, FreesElsewhereAndSettles) {
    std::atomic<std::thread::id> freed_on{};
    Disposal disposal;
    for (int i = 0; i < 3; ++i) {
        freed_on = std::thread::id();
        disposal.drop(std::make_shared<Witness>(freed_on));
        disposal.settle();
        EXPECT_NE(freed_on.load(), std::thread::id());
        EXPECT_NE(freed_on.load(), std::this_thread::get_id());
    }
}

TEST(Disposal, LeavesWhatOthersHold) {
    std::atomic<std::thread::id> freed_on{};
    Disposal disposal;
    auto held = std::make_shared<Witness>(freed_on);
    disposal.drop(held);
    disposal.drop(nullptr);
    disposal.settle();
    EXPECT_EQ(freed_on.load(), std::thread::id());
    held.reset();
    EXPECT_EQ(freed_on.load(), std::this_thread::get_id());
}

TEST(Disposal, FreesEverythingBeforeItGoes) {
    std::atomic<std::thread::id> freed_on[8] = {};
    {
        Disposal disposal;
        for (auto& one : freed_on) disposal.drop(std::make_shared<Witness>(one));
    }
    for (auto& one : freed_on) EXPECT_NE(one.load(), std::thread::id());
}

}  // namespace
}  // namespace polyad
