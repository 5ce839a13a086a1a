// SPDX-License-Identifier: Apache-2.0
// Runs work on one thread of its own. OpenMP keeps a team of workers per calling thread, so a host whose
// calls wander over many threads (goroutines, thread pools) would grow a team for each; here all heavy work
// of one object comes from one thread, and the team stays one.
//
// Teams that rest cost those that work: where all teams together have more threads than the process has
// cores, libgomp's threads sleep at the end of each parallel region instead of waiting awake, and a decoding
// step, which has hundreds of regions, takes up to two and a half times as long.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

namespace polyad {

/// Makes the calling thread work on one core, and give way to others where the cores are short (on Linux;
/// elsewhere nothing changes).
void work_in_background();

/// A host's thread inside a call: what it does itself it does on one core, without a team of its own that
/// would stay behind. OpenMP's setting of the thread (and MKL's) is afterwards what it was.
class OneCore {
  public:
    OneCore();
    ~OneCore();
    OneCore(const OneCore&) = delete;
    OneCore& operator=(const OneCore&) = delete;

  private:
    const int before_, mkl_before_;
};

class ComputeThread {
  public:
    /// What a piece of work runs inside of; dropped on the thread when the work is done.
    using Scope = std::shared_ptr<void>;

    /// `threads` OpenMP threads for the work; 0 = what OpenMP would use. The thread starts with the first
    /// run(); its team ends when it has had no work for a while. `enter` is called on it before each piece
    /// of work.
    explicit ComputeThread(int threads, std::function<Scope()> enter = {})
        : threads_(threads), enter_(std::move(enter)) {}
    ~ComputeThread();
    ComputeThread(const ComputeThread&) = delete;
    ComputeThread& operator=(const ComputeThread&) = delete;

    /// Runs `work` on the thread and waits for it; what it throws is thrown here. Callers queue up. A call
    /// from the thread itself runs at once.
    void run(const std::function<void()>& work);

  private:
    void loop();

    const int threads_;
    const std::function<Scope()> enter_;
    std::mutex mutex_;
    std::condition_variable wake_, finished_;
    const std::function<void()>* work_ = nullptr;
    std::exception_ptr error_;
    bool busy_ = false, done_ = false, stop_ = false;
    std::thread thread_;
    std::atomic<std::thread::id> id_{};  ///< of thread_, for callers without the lock
};

}  // namespace polyad
