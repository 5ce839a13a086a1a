// SPDX-License-Identifier: Apache-2.0
// Which example comes next. An epoch has as many draws as the split has examples; the strategy fixes how many
// of them each task gets, a seeded shuffle fixes their order, and every task walks through its own examples
// without repetition before it starts over. So a draw is a pure function of (seed, how many were drawn
// before): that number is the whole position, and a run resumed from it draws exactly what the uninterrupted
// one would have.
#pragma once

#include <cstdint>
#include <vector>

#include "base/config.h"
#include "data/dataset.h"

namespace polyad {

enum class SamplingStrategy {
    uniform,       ///< every task equally often
    proportional,  ///< by number of examples: each example once per epoch
    temperature,   ///< by examples^(1/t): t = 1 is proportional, large t approaches uniform
};

struct SamplerOptions {
    SamplingStrategy strategy = SamplingStrategy::proportional;
    double temperature = 2.0;
    uint64_t seed = 0;
    /// {"strategy": "uniform|proportional|temperature", "temperature": 1 or more, "seed"}; unknown keys are
    /// refused.
    static SamplerOptions from_json(const Json& object);
    Json to_json() const;
};

/// One row of a batch: indices into the dataset.
struct Draw {
    int task = 0;     ///< in Dataset::tasks()
    int example = 0;  ///< in Task::examples(split)
    int output = 0;   ///< which of the example's valid outputs, drawn anew each time
    bool operator==(const Draw&) const = default;
};

class Sampler {
  public:
    struct State {
        uint64_t seed = 0;
        int64_t drawn = 0;         ///< draws since the start
        uint64_t fingerprint = 0;  ///< of strategy and data, so that another run's position is refused
        bool operator==(const State&) const = default;
        Json to_json() const;
        static State from_json(const Json& object);
    };

    /// `tasks` must outlive the sampler. Tasks without examples in `split` are never drawn; Code::bad_data
    /// when none has any.
    Sampler(const std::vector<Task>& tasks, Split split, const SamplerOptions& options);

    Draw next();
    std::vector<Draw> next(int rows);

    int64_t epoch_size() const { return epoch_size_; }
    int64_t epoch() const { return drawn_ / epoch_size_; }     ///< finished epochs
    int64_t position() const { return drawn_ % epoch_size_; }  ///< draws of the current epoch
    /// Draws each task gets per epoch.
    const std::vector<int64_t>& quotas() const { return quotas_; }

    State state() const;
    /// Code::invalid_argument when the state is of other data or another strategy.
    void restore(const State& state);

  private:
    void prepare(int64_t epoch);

    const std::vector<Task>* tasks_;
    Split split_;
    SamplerOptions options_;
    std::vector<int64_t> quotas_;
    int64_t epoch_size_ = 0;
    uint64_t fingerprint_ = 0;
    int64_t drawn_ = 0;

    // Derived from (seed, drawn_): the current epoch's order of tasks and, per task, its running permutation.
    int64_t prepared_epoch_ = -1;
    std::vector<int32_t> schedule_;
    std::vector<int64_t> consumed_;  ///< per task, draws since the start
    std::vector<int64_t> pass_;      ///< per task, the pass its permutation is of; -1 = none
    std::vector<std::vector<uint32_t>> order_;
};

}  // namespace polyad
