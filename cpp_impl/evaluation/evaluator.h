// SPDX-License-Identifier: Apache-2.0
// Scores a skillset, or the bare backbone with the same prompts, on one split of a dataset: greedy generation
// or label scoring, then exact match and ROUGE-L per task, per category and overall. Driven by steps; every
// step is one batch whose rows come from as many tasks as there are.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backbone/backbone.h"
#include "base/config.h"
#include "data/dataset.h"
#include "data/prompt.h"
#include "evaluation/answer_likelihood.h"
#include "evaluation/text_metrics.h"
#include "routing/skillset.h"

namespace polyad {

enum class EvaluationMode {
    generate,  ///< greedy text
    labels,    ///< rank classification: the label with the best log-probability; free-text tasks generate
};

struct EvaluatorOptions {
    Split split = Split::test;
    EvaluationMode mode = EvaluationMode::generate;
    /// Label scoring: mean log-probability per token (end token included) instead of the sum.
    bool normalize_length = true;
    int max_tokens = 0;                  ///< of a generated answer; 0 = the prompt format's max_answer_tokens
    int batch_size = 16;                 ///< rows per forward
    int64_t max_examples_per_task = 0;   ///< the first ones; 0 = all
    std::vector<std::string> tasks;      ///< only these; empty = all of the dataset
    std::vector<std::string> stop;       ///< a generated answer ends before the first of these
    std::optional<PromptFormat> prompt;  ///< default: the skillset's own
    /// {"split", "mode", "normalize_length", "max_tokens", "batch_size", "max_examples_per_task", "tasks",
    /// "stop", "prompt"}
    static EvaluatorOptions from_json(const Json& object);
};

struct EvaluationProgress {
    int64_t done = 0, total = 0;  ///< examples
    int64_t tokens = 0;           ///< computed so far, prompts and answers
    int64_t truncated = 0;        ///< prompts that were cut
    double tokens_per_second = 0;
    double seconds_left = 0;  ///< estimate; NaN before the first step
    bool finished = false;
};

class Evaluator {
  public:
    /// `skillset` may be null: the backbone alone. Code::unknown_task when the dataset has a task the
    /// skillset's method needs and lacks; Code::bad_data when the split holds no example.
    Evaluator(std::shared_ptr<const Backbone> backbone, std::shared_ptr<Skillset> skillset,
              std::shared_ptr<const Dataset> dataset, EvaluatorOptions options);

    /// Scores the next batch; true when nothing is left. A step that fails changes nothing and can be tried
    /// again. Code::numeric_error names task and example when a score is not a number; Code::cancelled after
    /// cancel().
    bool step(EvaluationProgress* progress = nullptr);
    /// Makes the step in progress, or the next one, end with Code::cancelled. Any thread.
    void cancel() { cancelled_.store(true); }
    bool finished() const { return next_ == items_.size(); }
    EvaluationProgress progress() const;

    /// {"split", "mode", "truncated_prompts", "overall", "categories", "tasks", "predictions"}; scores are
    /// {"count", "exact_match", "rouge_l"} in percent. Code::wrong_state before the end.
    Json result() const;
    /// The same as an aligned table for people.
    std::string table() const;

  private:
    struct Item {
        int task = 0, example = 0;  ///< in the dataset
    };
    struct Outcome {
        std::string prediction;
        TextScore score;
        std::vector<double> label_scores;  ///< one per label of the task; empty when it generated
    };

    const Task& task_of(const Item& item) const { return dataset_->tasks()[static_cast<size_t>(item.task)]; }
    const Example& example_of(const Item& item) const;
    bool ranks_labels(const Item& item) const;
    std::string where(const Item& item) const;
    size_t batch_end();
    void named(const Item& item, const std::function<void()>& work) const;
    void check_cancelled();
    void rank(const std::vector<Item>& items, const std::vector<std::vector<int32_t>>& prompts,
              std::vector<Outcome*>& out);
    void generate(const std::vector<Item>& items, const std::vector<std::vector<int32_t>>& prompts,
                  std::vector<Outcome*>& out);
    void check_context(size_t tokens) const;

    std::shared_ptr<const Backbone> backbone_;
    std::shared_ptr<Skillset> skillset_;
    std::shared_ptr<const Dataset> dataset_;
    EvaluatorOptions options_;
    std::unique_ptr<PromptEncoder> own_prompts_;
    const PromptEncoder* prompts_ = nullptr;
    std::unique_ptr<AnswerLikelihood> likelihood_;
    std::vector<int> task_ids_;  ///< per dataset task its index in the skillset, -1 = none
    std::vector<Item> items_;    ///< in the order they are scored: round robin over the tasks
    std::vector<Outcome> outcomes_;
    size_t next_ = 0;
    int64_t tokens_ = 0, truncated_ = 0;
    double seconds_ = 0;
    std::atomic<bool> cancelled_{false};
};

}  // namespace polyad
