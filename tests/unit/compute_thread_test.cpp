// SPDX-License-Identifier: Apache-2.0
#include "backbone/compute_thread.h"

#include <ATen/Parallel.h>
#include <ATen/ops/add.h>
#include <ATen/ops/ones.h>
#include <gtest/gtest.h>
#include <omp.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <thread>
#include <vector>

#include "base/error.h"

namespace polyad {
namespace {

/// Threads of this process.
int threads_now() {
    int count = 0;
    for (const auto& one : std::filesystem::directory_iterator("/proc/self/task")) count += one.exists();
    return count;
}

/// The same when threads that are on their way out are gone.
int threads_at_rest() {
    for (int before = threads_now();;) {
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
        const int now = threads_now();
        if (now == before) return now;
        before = now;
    }
}

/// A loop large enough for LibTorch to share out.
void use_libtorch() {
    const at::Tensor a = at::ones({512, 512});
    EXPECT_EQ(at::add(a, 1).const_data_ptr<float>()[5], 2);
}

/// How many threads a parallel region of the calling thread has.
int team() {
    std::atomic<int> size{0};
#pragma omp parallel
    ++size;
    return size;
}

TEST(ComputeThread, RunsOneAtATimeAndPassesErrorsOn) {
    ComputeThread compute(1);
    std::atomic<int> inside{0}, most{0}, total{0};
    std::vector<std::thread> callers;
    for (int t = 0; t < 8; ++t)
        callers.emplace_back([&] {
            for (int i = 0; i < 50; ++i)
                compute.run([&] {
                    most = std::max(most.load(), ++inside);
                    ++total;
                    --inside;
                });
        });
    for (auto& caller : callers) caller.join();
    EXPECT_EQ(most, 1);
    EXPECT_EQ(total, 400);
    EXPECT_THROW(compute.run([] { fail(Code::bad_data, "x"); }), Error);
    compute.run([&] { compute.run([&] { ++total; }); });
    EXPECT_EQ(total, 401);
}

TEST(ComputeThread, KeepsItsNumberOfThreadsWhateverLibTorchIsTold) {
    const int before = at::get_num_threads();
    at::set_num_threads(2);  // a host that uses LibTorch as well
    for (const int wanted : {1, 3}) {
        ComputeThread compute(wanted);
        compute.run([&] {
            use_libtorch();
            EXPECT_EQ(at::get_num_threads(), wanted);
            EXPECT_EQ(team(), wanted);
        });
    }
    std::thread([] {
        work_in_background();
        use_libtorch();
        EXPECT_EQ(team(), 1);
    }).join();
    at::set_num_threads(before);
}

TEST(ComputeThread, ATeamThatHasNoWorkEnds) {
    ComputeThread compute(5);
    const int alone = threads_at_rest();
    for (int round = 0; round < 2; ++round) {  // and comes back with the next work
        compute.run([&] {
            EXPECT_EQ(team(), 5);
            EXPECT_GE(threads_now(), alone + 5);
        });
        int now = threads_now();
        for (int i = 0; i < 1000 && now > alone + 1; ++i) {
            std::this_thread::sleep_for(std::chrono::milliseconds(10));
            now = threads_now();
        }
        EXPECT_EQ(now, alone + 1) << "round " << round;
    }
}

TEST(OneCore, AHostsThreadGrowsNoTeamAndKeepsItsSetting) {
    std::thread([] {
        omp_set_num_threads(4);
        const int before = threads_at_rest();
        {
            const OneCore caller;
            use_libtorch();
            EXPECT_EQ(team(), 1);
            EXPECT_EQ(threads_now(), before);
        }
        EXPECT_EQ(omp_get_max_threads(), 4);
    }).join();
}

}  // namespace
}  // namespace polyad
