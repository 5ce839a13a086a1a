// SPDX-License-Identifier: Apache-2.0
#include "base/compute_thread.h"

#include <omp.h>
#if defined(__linux__)
#include <sys/resource.h>
#endif

#include <exception>
#include <utility>

namespace polyad {

void work_in_background() {
    omp_set_num_threads(1);
#if defined(__linux__)
    setpriority(PRIO_PROCESS, 0, 10);  // of this thread alone; where it is refused it does not give way
#endif
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
    if (threads_ > 0) omp_set_num_threads(threads_);
    std::unique_lock lock(mutex_);
    for (;;) {
        wake_.wait(lock, [&] { return stop_ || work_; });
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
