// SPDX-License-Identifier: Apache-2.0
#include "backbone/compute_thread.h"

#include <ATen/Parallel.h>
#include <omp.h>
#if defined(__linux__)
#include <sys/resource.h>
#endif

#include <chrono>
#include <exception>
#include <utility>

// Of the MKL inside LibTorch, where it has one: a thread's own setting (0 = none) goes before OpenMP's.
extern "C" __attribute__((weak)) int MKL_Set_Num_Threads_Local(int count);

namespace polyad {
namespace {

constexpr std::chrono::milliseconds idle_team{100};  ///< steps in a loop follow each other faster

/// For the calling thread's parallel regions from now on; 0 leaves the choice. Returns MKL's setting before.
int use_threads(int count) {
    // LibTorch sets OpenMP's count, and MKL's, to its own when a thread comes to one of its loops for the
    // first time.
    at::internal::lazy_init_num_threads();  // ours, inlined
    at::get_num_threads();                  // its own
    if (count == 0) return 0;
    omp_set_num_threads(count);
    return MKL_Set_Num_Threads_Local ? MKL_Set_Num_Threads_Local(count) : 0;
}

}  // namespace

void work_in_background() {
    use_threads(1);
#if defined(__linux__)
    setpriority(PRIO_PROCESS, 0, 10);  // of this thread alone; where it is refused it does not give way
#endif
}

OneCore::OneCore() : before_(omp_get_max_threads()), mkl_before_(use_threads(1)) {}

OneCore::~OneCore() {
    omp_set_num_threads(before_);
    if (MKL_Set_Num_Threads_Local) MKL_Set_Num_Threads_Local(mkl_before_);
}

ComputeThread::~ComputeThread() {
    {
        std::lock_guard lock(mutex_);
        stop_ = true;
    }
    wake_.notify_all();
    if (!thread_.joinable()) return;
    // The last reference to an object can be dropped by its own work.
    if (thread_.get_id() == std::this_thread::get_id())
        thread_.detach();
    else
        thread_.join();
}

void ComputeThread::run(const std::function<void()>& work) {
    if (id_ == std::this_thread::get_id()) return work();
    std::unique_lock lock(mutex_);
    finished_.wait(lock, [&] { return !busy_; });
    if (!thread_.joinable()) {
        thread_ = std::thread([this] { loop(); });
        id_ = thread_.get_id();
    }
    busy_ = true;
    done_ = false;
    work_ = &work;
    wake_.notify_all();
    finished_.wait(lock, [&] { return done_; });
    busy_ = false;
    done_ = false;
    const std::exception_ptr error = std::exchange(error_, nullptr);
    lock.unlock();
    finished_.notify_all();
    if (error) std::rethrow_exception(error);
}

void ComputeThread::loop() {
    const auto called = [&] { return stop_ || work_; };
    std::unique_lock lock(mutex_);
    for (;;) {
        if (!wake_.wait_for(lock, idle_team, called)) {
            omp_pause_resource_all(omp_pause_soft);  // of this thread's team
            wake_.wait(lock, called);
        }
        if (!work_) return;
        const auto* work = std::exchange(work_, nullptr);
        lock.unlock();
        std::exception_ptr error;
        try {
            use_threads(threads_);
            const Scope scope = enter_ ? enter_() : nullptr;
            (*work)();
        } catch (...) {
            error = std::current_exception();
        }
        lock.lock();
        error_ = error;
        done_ = true;
        finished_.notify_all();
    }
}

}  // namespace polyad
