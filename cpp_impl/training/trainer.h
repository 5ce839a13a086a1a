// SPDX-License-Identifier: Apache-2.0
// Trains a skillset by steps the host drives. A step either happens whole or not at all: when it throws,
// parameters, optimiser, random state and data position are what they were.
#pragma once

#include <atomic>
#include <deque>
#include <filesystem>
#include <future>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/random.h"
#include "data/dataset.h"
#include "data/sampler.h"
#include "io/bundle.h"
#include "routing/skillset.h"
#include "training/config.h"
#include "training/encoded_data.h"
#include "training/optimiser.h"

namespace polyad {

struct Progress {
    static constexpr double unknown = std::numeric_limits<double>::quiet_NaN();

    int64_t step = 0, total_steps = 0;
    double epoch = 0.0;                ///< epochs finished, with fraction
    double loss = unknown;             ///< mean negative log likelihood per answer token of the last step
    double learning_rate = 0.0;        ///< of the skills group in the last step
    double gradient_norm = unknown;    ///< before clipping
    double validation_loss = unknown;  ///< last measured
    double best_validation_loss = unknown;
    int64_t tokens = 0;              ///< real tokens processed so far
    double tokens_per_second = 0.0;  ///< of the last steps
    double seconds_left = unknown;
    int64_t truncated_rows = 0;  ///< rows so far whose prompt was cut
    bool done = false;
    bool stopped_early = false;
};

class Trainer {
  public:
    /// Every task of `dataset` with training examples must be in the skillset (Code::unknown_task). Answers
    /// are encoded here, so that one that is too long is refused before training begins, with its task and
    /// example.
    Trainer(std::shared_ptr<Skillset> skillset, std::shared_ptr<const Dataset> dataset, const Json& config);
    /// Gives the memory its steps went round in back to the system.
    ~Trainer();

    /// One optimiser step, and the validation and checkpoint that fall due with it. Code::numeric_error (NaN
    /// or infinite loss or gradient, with step and task), Code::cancelled, Code::wrong_state (already done).
    /// Cancelled during the validation, the step itself stands and the next call validates first;
    /// Code::io_error of a checkpoint leaves the step standing too. One caller at a time.
    Progress step();
    /// What step() returned last.
    const Progress& progress() const { return progress_; }
    /// The step in progress, or the next one, throws Code::cancelled; stepping may go on after. Any thread.
    void cancel() { cancelled_ = true; }

    /// Everything needed to go on bit for bit, in one file written atomically (docs/bundle.md, key
    /// "checkpoint").
    void save_checkpoint(const std::filesystem::path& path) const;
    /// Goes on from a checkpoint of the same backbone, skillset configuration, data and training
    /// configuration; otherwise Code::invalid_config or Code::backbone_mismatch names the first difference
    /// and nothing is changed.
    void resume(const std::filesystem::path& path);

    /// {"config": with every default, "progress", "history": {"step", "loss", "learning_rate",
    /// "gradient_norm"}, "validation": {"step", "loss"}}.
    Json report() const;

    const std::shared_ptr<Skillset>& skillset() const { return skillset_; }
    const TrainingConfig& config() const { return config_; }

  private:
    struct StepRecord {
        double loss, learning_rate, gradient_norm;
    };
    struct ValidationRecord {  ///< both records are rows of float64 tables in a checkpoint
        double step;
        double loss;
    };
    using Rows = std::vector<TrainingRow>;
    struct Ahead {
        std::vector<Draw> draws;
        std::optional<Rows> rows;  ///< none when one of them is refused
    };

    void check_cancelled();
    void encode_validation();
    Rows encode(const std::vector<Draw>& draws);
    /// The rows of one optimiser step; those of the next are encoded beside it.
    Rows draw_step();
    void encode_ahead();
    /// Forwards of at most `rows` rows and max_tokens_per_batch tokens.
    std::vector<Rows> split(const Rows& all, int rows) const;
    /// Gradients and loss of one optimiser step; parameters stay. Updates `next`.
    void compute_step(Progress& next, int64_t& tokens);
    /// Adds the gradients of one forward; returns the sum of its negative log likelihoods.
    double accumulate(const Rows& rows, int64_t activation_bytes, double answer_tokens_of_step,
                      double share_of_step);
    double mean_validation_loss();
    /// Measures, keeps the best weights, decides about stopping early.
    void validate();
    /// Ends training when nothing is left to do.
    void finish_if_over();
    void measure_speed(double seconds, int64_t tokens);
    [[noreturn]] void refuse_number(const std::string& what, const std::vector<int>& dataset_tasks) const;
    Json checkpoint_state() const;
    void restore(const Bundle& bundle, const std::string& file);

    std::shared_ptr<Skillset> skillset_;
    std::shared_ptr<const Dataset> dataset_;
    TrainingConfig config_;
    EncodedData data_;
    Sampler sampler_;
    Optimiser optimiser_;
    Generator noise_;
    Progress progress_;
    int64_t warmup_steps_ = 0, validation_every_ = 0;
    Rows validation_rows_;
    bool validation_due_ = false;
    int validations_without_gain_ = 0;
    std::vector<at::Tensor> best_;  ///< per optimiser_.state(); empty before the first validation
    std::vector<StepRecord> history_;
    std::vector<ValidationRecord> validations_;
    std::deque<std::pair<double, int64_t>> recent_;  ///< seconds and tokens of the last steps
    bool truncation_told_ = false;  ///< the first cut prompt is logged, the rest only counted
    std::atomic<bool> cancelled_{false};
    std::future<Ahead> ahead_;  ///< the last member: it reads the others, and is waited for when it goes
};

}  // namespace polyad
