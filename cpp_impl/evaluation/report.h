// SPDX-License-Identifier: Apache-2.0
// Scores by task, category and overall, as JSON and as a table.
#pragma once

#include <map>
#include <string>

#include "base/config.h"
#include "evaluation/text_metrics.h"

namespace polyad {

class ScoreReport {
  public:
    /// `category` may be empty.
    void add(const std::string& task, const std::string& category, const TextScore& score);
    /// {"overall", "categories", "tasks"}, each score as {"count", "exact_match", "rouge_l"}; a task also has
    /// its "category".
    Json to_json() const;
    /// Tasks, then categories when there are at least two, then all; columns aligned.
    std::string to_table() const;

  private:
    struct TaskScore {
        std::string category;
        ScoreSum sum;
    };
    ScoreSum overall_;
    std::map<std::string, ScoreSum> categories_;
    std::map<std::string, TaskScore> tasks_;
};

}  // namespace polyad
