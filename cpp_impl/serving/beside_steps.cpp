// SPDX-License-Identifier: Apache-2.0
#include "serving/beside_steps.h"

#include <chrono>
#include <ctime>
#include <system_error>
#include <utility>

#include "backbone/compute_thread.h"

namespace polyad {
namespace {

constexpr double piece_seconds = 0.3e-3, rest_per_work = 3.0;

double cpu_seconds() {
    timespec now{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

}  // namespace

Pace::Pace(const std::atomic<int>& running) : running_(running), rested_(cpu_seconds()) {}

void Pace::rest() {
    const double now = cpu_seconds(), worked = now - rested_;
    if (worked < piece_seconds) return;
    rested_ = now;
    if (running_.load(std::memory_order_relaxed) > 0)
        std::this_thread::sleep_for(std::chrono::duration<double>(rest_per_work * worked));
}

Disposal::~Disposal() {
    {
        const std::lock_guard lock(mutex_);
        stop_ = true;
    }
    wake_.notify_all();
    if (thread_.joinable()) thread_.join();
}

void Disposal::drop(std::shared_ptr<const void> object) {
    if (!object || object.use_count() > 1) return;  // another holder frees it
    {
        const std::lock_guard lock(mutex_);
        try {
            if (!thread_.joinable()) thread_ = std::thread([this] { loop(); });
        } catch (const std::system_error&) {
            return;  // no more threads: freed here
        }
        dropped_.push_back(std::move(object));
    }
    wake_.notify_all();
}

void Disposal::settle() {
    std::unique_lock lock(mutex_);
    idle_.wait(lock, [&] { return dropped_.empty() && !busy_; });
}

void Disposal::loop() {
    work_in_background();
    std::unique_lock lock(mutex_);
    for (;;) {
        wake_.wait(lock, [&] { return stop_ || !dropped_.empty(); });
        if (dropped_.empty()) return;
        busy_ = true;
        {
            std::vector<std::shared_ptr<const void>> all = std::move(dropped_);
            dropped_.clear();
            lock.unlock();
        }
        lock.lock();
        busy_ = false;
        idle_.notify_all();
    }
}

}  // namespace polyad
