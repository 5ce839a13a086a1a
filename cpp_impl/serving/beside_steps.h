// SPDX-License-Identifier: Apache-2.0
// Heavy work on an engine's skillsets that must not hold up its steps: making a version goes in short pieces
// with rests, and a version nobody answers with any more is freed on a thread of its own.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace polyad {

/// One thread's share of the cores while steps run: a quarter of one.
class Pace {
  public:
    /// `running` counts the rows that steps decode; at 0 there is no rest. It outlives the pace.
    explicit Pace(const std::atomic<int>& running);
    /// Between pieces of work of a few hundred microseconds at most.
    void rest();

  private:
    const std::atomic<int>& running_;
    double rested_;  ///< this thread's CPU seconds at the end of the last rest
};

/// Frees what it is given beside the steps. Any thread.
class Disposal {
  public:
    Disposal() = default;
    ~Disposal();
    Disposal(const Disposal&) = delete;
    Disposal& operator=(const Disposal&) = delete;

    /// Lets go of it; where that frees it, later and elsewhere.
    void drop(std::shared_ptr<const void> object);
    /// Returns when everything dropped before is freed.
    void settle();

  private:
    void loop();

    std::mutex mutex_;
    std::condition_variable wake_, idle_;
    std::vector<std::shared_ptr<const void>> dropped_;
    bool busy_ = false, stop_ = false;
    std::thread thread_;  ///< starts with the first object that it has to free
};

}  // namespace polyad
