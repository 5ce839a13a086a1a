// SPDX-License-Identifier: Apache-2.0
#include "backbone/compute_thread.h"

#include <ATen/Parallel.h>
#include <ATen/ops/add.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <gtest/gtest.h>
#include <omp.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"

namespace polyad {
namespace {

using Ids = std::set<int>;

Ids threads_of_the_process() {
    Ids ids;
    for (const auto& one : std::filesystem::directory_iterator("/proc/self/task"))
        ids.insert(std::stoi(one.path().filename()));
    return ids;
}

/// How many of `ids` are threads of this process.
size_t alive(const Ids& ids) {
    const Ids all = threads_of_the_process();
    return static_cast<size_t>(
        std::count_if(ids.begin(), ids.end(), [&](int id) { return all.contains(id); }));
}

/// The threads of a parallel region of the calling thread.
Ids team() {
    Ids ids;
#pragma omp parallel
    {
#pragma omp critical
        ids.insert(gettid());
    }
    return ids;
}

/// A loop and a product, both large enough for LibTorch to share out.
void use_libtorch() {
    const at::Tensor a = at::ones({512, 512});
    EXPECT_EQ(at::mm(a, at::add(a, 1)).const_data_ptr<float>()[5], 1024);
}

/// What use_libtorch() starts on a thread that works alone: nothing.
void expect_no_team() {
    const Ids before = threads_of_the_process();
    use_libtorch();
    Ids after = threads_of_the_process();
    std::erase_if(after, [&](int id) { return before.contains(id); });
    EXPECT_TRUE(after.empty()) << after.size() << " threads more";
    EXPECT_EQ(team().size(), 1u);
}

/// A host that uses LibTorch as well, and has told it so.
class HostOfLibTorch {
  public:
    explicit HostOfLibTorch(int threads) : before_(at::get_num_threads()) { at::set_num_threads(threads); }
    ~HostOfLibTorch() { at::set_num_threads(before_); }
    HostOfLibTorch(const HostOfLibTorch&) = delete;
    HostOfLibTorch& operator=(const HostOfLibTorch&) = delete;

  private:
    const int before_;
};

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
    try {
        compute.run([] { fail(Code::bad_data, "x"); });
        ADD_FAILURE() << "nothing was refused";
    } catch (const Error& e) {
        EXPECT_EQ(e.code(), Code::bad_data) << e.what();
    }
    compute.run([&] { compute.run([&] { ++total; }); });
    EXPECT_EQ(total, 401);
}

TEST(ComputeThread, KeepsItsNumberOfThreadsWhateverLibTorchIsTold) {
    const HostOfLibTorch host(2);
    for (const size_t wanted : {1, 3}) {
        ComputeThread compute(static_cast<int>(wanted));
        compute.run([&] {
            use_libtorch();
            EXPECT_EQ(team().size(), wanted);
        });
    }
    std::thread([] {
        work_in_background();
        expect_no_team();
    }).join();
}

TEST(ComputeThread, ATeamThatHasNoWorkEnds) {
    ComputeThread compute(5);
    for (int round = 0; round < 2; ++round) {  // and comes back with the next work
        Ids ids;
        compute.run([&] { ids = team(); });
        EXPECT_EQ(ids.size(), 5u);
        for (int i = 0; i < 1000 && alive(ids) > 1; ++i)
            std::this_thread::sleep_for(std::chrono::milliseconds(10));
        EXPECT_EQ(alive(ids), 1u) << "round " << round;
    }
}

TEST(OneCore, AHostsThreadGrowsNoTeamAndKeepsItsSetting) {
    const HostOfLibTorch host(2);
    std::thread([] {
        omp_set_num_threads(4);
        { const OneCore first; }  // LibTorch may start threads of its own with a thread's first call
        {
            const OneCore caller;
            expect_no_team();
        }
        EXPECT_EQ(omp_get_max_threads(), 4);
        EXPECT_EQ(team().size(), 4u);
    }).join();
}

}  // namespace
}  // namespace polyad
