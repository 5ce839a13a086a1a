// SPDX-License-Identifier: Apache-2.0
// A task that is all the traffic, merged into a copy of the weights: W0 + B A once instead of B (A x) for
// every token. Invisible but for speed; results agree within rounding.
#pragma once

#include <ATen/core/Tensor.h>

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "serving/served_skillset.h"

namespace polyad {

class MergedTask final : public Adaptation {
  public:
    /// Heavy, and safe beside running steps. `served` must have pairs of the task.
    MergedTask(std::shared_ptr<const ServedSkillset> served, int task);

    std::vector<LowRank> at(const Site&, const at::Tensor&) override { return {}; }
    at::Tensor weight(const std::string& path) override;

    const ResidentLora* lora() const { return served_->lora(task_); }
    /// Bytes of merged weights a task would take.
    static int64_t bytes(const ServedSkillset& served, int task);

  private:
    std::shared_ptr<const ServedSkillset> served_;
    int task_;
    std::map<std::string, at::Tensor> weights_;  ///< by "<site path>.weight"
};

/// Decides when to merge, by what it measures: a task is merged once it has been every row of `patience`
/// steps that only decoded, and stays so while that makes steps of as many rows faster and nothing else is
/// asked for. One caller at a time.
class HotTask {
  public:
    static constexpr int patience = 64, trial = 16;

    HotTask() = default;
    ~HotTask();
    HotTask(const HotTask&) = delete;
    HotTask& operator=(const HotTask&) = delete;

    /// A step of `rows` rows, which all have the pairs of this version's task, took so long; `decoding`: it
    /// read no prompt; `merged`: it ran on the merged weights. served null: the rows differ. `room`: bytes
    /// there are for a merged copy.
    void stepped(const std::shared_ptr<const ServedSkillset>& served, int task, int rows, double seconds,
                 bool decoding, bool merged, int64_t room);
    /// What rows of that task may run on; null = nothing is merged now.
    const std::shared_ptr<MergedTask>& merged();
    /// Bytes held, or about to be.
    int64_t bytes() const { return bytes_; }
    /// Gives the copy up.
    void drop();

  private:
    using Key = std::pair<int64_t, int>;  ///< version and task
    void begin(const std::shared_ptr<const ServedSkillset>& served, int task);

    std::optional<Key> key_;  ///< every row of the last steps
    int streak_ = 0, other_ = 0;
    int rows_ = 0;  ///< of the steps measured
    std::vector<double> plain_, merged_times_;
    std::set<Key> slower_;  ///< tried, and not faster
    std::shared_ptr<MergedTask> ready_;
    std::optional<Key> of_ready_;
    std::thread making_;
    std::atomic<bool> made_{false};
    std::shared_ptr<MergedTask> product_;  ///< the making thread's, until made_
    std::atomic<int64_t> bytes_{0};
};

}  // namespace polyad
