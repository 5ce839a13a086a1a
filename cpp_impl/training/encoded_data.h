// SPDX-License-Identifier: Apache-2.0
// A dataset's examples as token ids, each encoded once and when it is first needed.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "data/dataset.h"
#include "data/prompt.h"
#include "routing/skillset.h"

namespace polyad {

struct TrainingRow {
    std::shared_ptr<const EncodedExample> example;
    int task = 0;                       ///< in the skillset's table
    int dataset_task = 0;               ///< in the dataset
    int index = 0;                      ///< of the example in its split
    std::vector<float> intuition = {};  ///< scores of its prompt; empty = none

    /// Input tokens of the packed row: its last answer token is only predicted.
    int64_t tokens() const {
        return static_cast<int64_t>(example->prompt.size() + example->answer.size()) - 1;
    }
};

class EncodedData {
  public:
    /// Both must outlive this.
    EncodedData(const Skillset& skillset, const Dataset& dataset);

    /// One caller at a time.
    TrainingRow row(Split split, int task, int example, int output);
    /// "task 'x', train example 3 ('id')".
    std::string place_of(Split split, const TrainingRow& row) const;

  private:
    struct Entry {
        std::vector<int32_t> prompt;
        int truncated = 0;
    };

    const Skillset& skillset_;
    const Dataset& dataset_;
    std::vector<int>
        skillset_task_;  ///< per dataset task; -1 = not in the table (and without training examples)
    std::vector<std::vector<std::vector<std::vector<int32_t>>>> answers_;  ///< train: [task][example][output]
    std::vector<std::vector<Entry>> prompts_;                              ///< train: [task][example]
    int64_t cached_tokens_ = 0;
};

}  // namespace polyad
