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

namespace polyad {
namespace {

constexpr std::chrono::milliseconds idle_team{100};  ///< steps in a loop follow each other faster

/// For the calling thread's parallel regions from now on; 0 leaves the choice.
void use_threads(int count) {
    // LibTorch sets OpenMP's count to its own when a thread comes to one of its loops for the first time.
    at::internal::lazy_init_num_threads();  // ours, inlined
    at::get_num_threads();                  // its own
    if (count > 0) omp_set_num_threads(count);
}

}  // namespace

void work_in_background() {
    use_threads(1);
#if defined(__linux__)
    setpriority(PRIO_PROCESS, 0, 10);  // of this thread alone; where it is refused it does not give way
#endif
}

OneCore::OneCore() noexcept : before_(omp_get_max_threads()) {
    use_threads(1);
}

OneCore::~OneCore() {
    omp_set_num_threads(before_);
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
    if (thread_.get_id() == std::this_thread::get_id()) return work();
    std::unique_lock lock(mutex_);
    finished_.wait(lock, [&] { return !busy_; });
    busy_ = true;
    done_ = false;
    work_ = &work;
    if (!thread_.joinable()) thread_ = std::thread([this] { loop(); });
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
    use_threads(threads_);
    const auto called = [&] { return stop_ || work_; };
    std::unique_lock lock(mutex_);
    for (;;) {
        if (!wake_.wait_for(lock, idle_team, called)) {
            omp_pause_resource(omp_pause_soft, omp_get_initial_device());
            wake_.wait(lock, called);
        }
        if (!work_) return;
        const auto* work = std::exchange(work_, nullptr);
        lock.unlock();
        std::exception_ptr error;
        try {
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
