// SPDX-License-Identifier: Apache-2.0
// How likely given answers are: the basis of rank classification.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <vector>

#include "backbone/backbone.h"
#include "routing/skillset.h"

namespace polyad {

/// A prompt and the answers to compare; answers are ids with their end token and not empty.
struct Question {
    std::vector<int32_t> prompt;
    std::vector<std::vector<int32_t>> answers;
    int task = -1;                      ///< in the skillset's table
    std::vector<float> intuition = {};  ///< scores of its prompt; empty = none
};

class AnswerLikelihood {
  public:
    /// `skillset` may be null. `batch_size` rows per forward.
    AnswerLikelihood(const Backbone& backbone, const Skillset* skillset, int batch_size)
        : backbone_(backbone), skillset_(skillset), batch_size_(batch_size) {}

    /// True when a row of this task may be cut after its prompt: its skills depend on nothing but the task.
    /// The prompt is then computed once for all its answers; otherwise every answer is a row of its own.
    bool shares_prompts(int task);
    /// Sum of the log-probabilities of each answer's tokens, [question][answer]. `between` runs between
    /// forwards and may throw.
    std::vector<std::vector<double>> score(const std::vector<Question>& questions,
                                           const std::function<void()>& between);
    /// Tokens computed by all calls so far.
    int64_t tokens() const { return tokens_; }

  private:
    /// `of_row` [rows]: whose task and intuition each row has.
    at::Tensor hidden(const Batch& batch, const std::vector<const Question*>& of_row, KvCache* cache,
                      const std::vector<int>& slots);
    void score_whole_rows(const std::vector<const Question*>& questions,
                          const std::vector<std::vector<double>*>& out, const std::function<void()>& between);
    void score_shared_prompts(const std::vector<const Question*>& questions,
                              const std::vector<std::vector<double>*>& out,
                              const std::function<void()>& between);

    const Backbone& backbone_;
    const Skillset* skillset_;
    int batch_size_;
    int64_t tokens_ = 0;
    std::map<int, bool> shares_;  ///< per task
};

}  // namespace polyad
