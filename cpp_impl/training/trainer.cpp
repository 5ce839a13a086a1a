// SPDX-License-Identifier: Apache-2.0
#include "training/trainer.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <set>
#include <system_error>
#include <utility>

#include "backbone/buffer_pool.h"
#include "backbone/compute_thread.h"
#include "backbone/device.h"
#include "base/error.h"
#include "base/log.h"
#include "evaluation/routing_statistics.h"
#include "training/packed_forward.h"

namespace polyad {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t noise_stream = 0x6E6F697365;  // "noise"
constexpr size_t speed_window = 16;              // steps

double seconds_since(Clock::time_point begin) {
    return std::chrono::duration<double>(Clock::now() - begin).count();
}

}  // namespace

Trainer::Trainer(std::shared_ptr<Skillset> skillset, std::shared_ptr<const Dataset> dataset,
                 const Json& config)
    : skillset_(std::move(skillset)),
      dataset_(std::move(dataset)),
      config_(TrainingConfig::from_json(config)),
      data_(*skillset_, *dataset_),
      sampler_(dataset_->tasks(), Split::train, config_.sampling),
      optimiser_(skillset_->method().parameters(), config_.optimiser),
      noise_(config_.seed, noise_stream) {
    const auto rows_per_step = static_cast<double>(config_.batch_size) * config_.gradient_accumulation;
    const double steps_per_epoch = static_cast<double>(sampler_.epoch_size()) / rows_per_step;
    progress_.total_steps =
        config_.max_steps > 0
            ? config_.max_steps
            : std::max<int64_t>(1, std::llround(std::ceil(config_.epochs * steps_per_epoch)));
    warmup_steps_ = config_.warmup_steps > 0
                        ? config_.warmup_steps
                        : std::llround(config_.warmup_ratio * static_cast<double>(progress_.total_steps));
    validation_every_ = config_.validation_every > 0
                            ? config_.validation_every
                            : std::max<int64_t>(1, std::llround(std::ceil(steps_per_epoch)));
    encode_validation();
}

Trainer::~Trainer() {
    release_idle_buffers();
}

void Trainer::encode_validation() {
    const std::vector<Task>& tasks = dataset_->tasks();
    const auto wanted = static_cast<size_t>(config_.validation_examples);
    bool more = true;
    for (int i = 0; more; ++i) {  // the first of every task, then the second of every task, ...
        more = false;
        for (size_t t = 0; t < tasks.size(); ++t) {
            if (validation_rows_.size() >= wanted) return;
            if (static_cast<size_t>(i) >= tasks[t].examples(Split::validation).size()) continue;
            validation_rows_.push_back(data_.row(Split::validation, static_cast<int>(t), i, 0));
            more = true;
        }
    }
}

void Trainer::check_cancelled() {
    if (cancelled_.exchange(false))
        fail(Code::cancelled, "training was cancelled after step ", progress_.step, " of ",
             progress_.total_steps);
}

Trainer::Rows Trainer::encode(const std::vector<Draw>& draws) {
    Rows rows;
    for (const Draw& draw : draws)
        rows.push_back(data_.row(Split::train, draw.task, draw.example, draw.output));
    return rows;
}

Trainer::Rows Trainer::draw_step() {
    const std::vector<Draw> draws = sampler_.next(config_.batch_size * config_.gradient_accumulation);
    Ahead ahead;
    if (ahead_.valid()) ahead = ahead_.get();
    // Other draws than expected, after a resume or a failed step, or none because one of its rows is refused:
    // the refusal is this step's to give.
    Rows rows = ahead.rows && ahead.draws == draws ? std::move(*ahead.rows) : encode(draws);
    if (progress_.step + 1 < progress_.total_steps) encode_ahead();
    return rows;
}

void Trainer::encode_ahead() {
    auto work = [this, sampler = sampler_,
                 count = config_.batch_size * config_.gradient_accumulation]() mutable {
        work_in_background();
        Ahead ahead;
        try {
            ahead.draws = sampler.next(count);
            ahead.rows = encode(ahead.draws);
        } catch (...) {
            ahead.rows.reset();
        }
        return ahead;
    };
    try {
        ahead_ = std::async(std::launch::async, std::move(work));
    } catch (const std::system_error&) {  // no more threads: the next step encodes its rows itself
    }
}

std::vector<Trainer::Rows> Trainer::split(const Rows& all, int rows) const {
    std::vector<Rows> out;
    int64_t tokens = 0;
    for (const TrainingRow& row : all) {
        const bool too_many =
            config_.max_tokens_per_batch > 0 && tokens + row.tokens() > config_.max_tokens_per_batch;
        if (out.empty() || too_many || static_cast<int>(out.back().size()) == rows) {
            out.emplace_back();
            tokens = 0;
        }
        out.back().push_back(row);
        tokens += row.tokens();
    }
    return out;
}

void Trainer::refuse_number(const std::string& what, const std::vector<int>& dataset_tasks) const {
    std::string names;
    for (int t : std::set<int>(dataset_tasks.begin(), dataset_tasks.end()))
        names += (names.empty() ? "'" : ", '") + dataset_->tasks()[static_cast<size_t>(t)].name + "'";
    throw Error(
        Code::numeric_error,
        text(what, " is not a finite number in step ", progress_.step + 1, ", task ", names,
             "; the parameters are as before the step. A lower learning rate or max_grad_norm helps when it "
             "grew before"),
        text("step ", progress_.step + 1, ", task ", names));
}

double Trainer::accumulate(const Rows& rows, int64_t activation_bytes, double answer_tokens_of_step,
                           double share_of_step) {
    Method& method = skillset_->method();
    PackedForward forward(*skillset_->backbone(), method, rows, Mode::train, &noise_, config_.share_prefixes);
    forward.activation_bytes = activation_bytes;
    const std::unique_ptr<Adaptation> adaptation = method.adapt(forward.route);
    const at::Tensor nll = forward.answer_nll(*skillset_->backbone(), *adaptation, config_.label_smoothing);

    at::Tensor objective = nll.sum().div(answer_tokens_of_step);
    const at::Tensor extra = method.auxiliary_loss(*adaptation);
    if (extra.defined()) objective = objective.add(extra.mul(share_of_step));

    // One wait for the device.
    const at::Tensor values =
        on_host(extra.defined() ? at::cat({nll.detach(), objective.detach().view({1})}) : nll.detach());
    double sum = 0.0;
    std::vector<int> bad_tasks;
    for (int64_t i = 0; i < nll.numel(); ++i) {
        const double value = values.const_data_ptr<float>()[i];
        sum += value;
        if (!std::isfinite(value))
            bad_tasks.push_back(
                rows[static_cast<size_t>(forward.row_of_target[static_cast<size_t>(i)])].dataset_task);
    }
    if (!bad_tasks.empty()) refuse_number("the loss", bad_tasks);

    if (extra.defined() && !std::isfinite(values.const_data_ptr<float>()[nll.numel()])) {
        for (const TrainingRow& row : rows) bad_tasks.push_back(row.dataset_task);
        refuse_number("the auxiliary loss", bad_tasks);
    }
    run_backward(objective);
    return sum;
}

void Trainer::compute_step(Progress& next, int64_t& tokens) {
    const at::AutoGradMode gradients(true);
    const Rows rows = draw_step();
    int64_t answer_tokens = 0;
    for (const TrainingRow& row : rows) {
        answer_tokens += static_cast<int64_t>(row.example->answer.size());
        tokens += row.tokens();
        if (row.example->truncated == 0) continue;
        ++next.truncated_rows;
        if (!std::exchange(truncation_told_, true))
            log(LogLevel::warning,
                text(data_.place_of(Split::train, row), ": the prompt is ", row.example->truncated,
                     " tokens too long and loses its beginning; such rows are counted in the progress"));
    }
    double sum = 0.0;
    const Backbone& backbone = *skillset_->backbone();
    for (const Rows& batch : split(rows, config_.batch_size)) {
        const ForwardPlan plan = plan_forwards(backbone, skillset_->method(), batch, config_.share_prefixes,
                                               config_.activation_memory_mib << 20);
        for (const Rows& part : plan.parts) {
            check_cancelled();
            sum += accumulate(part, plan.activation_bytes, static_cast<double>(answer_tokens),
                              static_cast<double>(part.size()) / static_cast<double>(rows.size()));
        }
    }
    next.loss = sum / static_cast<double>(answer_tokens);
    next.gradient_norm = optimiser_.gradient_norm();
    if (!std::isfinite(next.gradient_norm)) {
        std::vector<int> tasks;
        for (const TrainingRow& row : rows) tasks.push_back(row.dataset_task);
        refuse_number("the gradient", tasks);
    }
    check_cancelled();
}

Progress Trainer::step() {
    if (progress_.done)
        fail(Code::wrong_state, "training is done after ", progress_.step,
             " steps: create a new trainer to go on");
    if (validation_due_) {  // the last call was cancelled in the middle of it
        validate();
        finish_if_over();
        if (progress_.done) return progress_;
    }
    check_cancelled();

    const auto begin = Clock::now();
    const Sampler::State position = sampler_.state();
    const Generator::State noise = noise_.state();
    Progress next = progress_;
    int64_t tokens = 0;
    const double factor =
        learning_rate_factor(config_.schedule, progress_.step, warmup_steps_, progress_.total_steps);
    try {
        compute_step(next, tokens);
        optimiser_.step(factor, clip_factor(next.gradient_norm, config_.max_grad_norm));
    } catch (...) {
        optimiser_.clear_gradients();
        forget_device_errors(skillset_->backbone()->device());
        sampler_.restore(position);
        noise_ = Generator(noise);
        throw;
    }
    optimiser_.clear_gradients();
    skillset_->method().parameters_changed();

    ++next.step;
    next.tokens += tokens;
    next.learning_rate = factor * config_.optimiser.group(ParameterGroup::skills).learning_rate;
    next.epoch = static_cast<double>(sampler_.epoch()) +
                 static_cast<double>(sampler_.position()) / static_cast<double>(sampler_.epoch_size());
    progress_ = next;
    history_.push_back({next.loss, next.learning_rate, next.gradient_norm});
    measure_speed(seconds_since(begin), tokens);

    const bool last = progress_.step >= progress_.total_steps;
    if (!validation_rows_.empty() && (last || progress_.step % validation_every_ == 0)) {
        validation_due_ = true;
        validate();
    }
    finish_if_over();
    if (config_.checkpoint_every > 0 && progress_.step % config_.checkpoint_every == 0 && !progress_.done)
        save_checkpoint(config_.checkpoint);
    return progress_;
}

double Trainer::mean_validation_loss() {
    const at::NoGradGuard no_gradients;
    double sum = 0.0;
    int64_t count = 0;
    for (const Rows& part : split(validation_rows_, 2 * config_.batch_size)) {
        check_cancelled();
        Method& method = skillset_->method();
        const PackedForward forward(*skillset_->backbone(), method, part, Mode::eval, nullptr,
                                    config_.share_prefixes);
        const std::unique_ptr<Adaptation> adaptation = method.adapt(forward.route);
        const at::Tensor nll = on_host(forward.answer_nll(*skillset_->backbone(), *adaptation, 0.0));
        for (int64_t i = 0; i < nll.numel(); ++i) sum += nll.const_data_ptr<float>()[i];
        count += nll.numel();
    }
    return sum / static_cast<double>(count);
}

void Trainer::validate() {
    const double loss = mean_validation_loss();
    validation_due_ = false;
    progress_.validation_loss = loss;
    validations_.push_back({static_cast<double>(progress_.step), loss});
    // Written so that a loss that is no number never counts as better.
    if (loss < progress_.best_validation_loss ||
        (std::isnan(progress_.best_validation_loss) && !std::isnan(loss))) {
        progress_.best_validation_loss = loss;
        validations_without_gain_ = 0;
        if (config_.keep_best) {
            best_.resize(optimiser_.state().size());
            for (size_t i = 0; i < best_.size(); ++i) best_[i] = optimiser_.state()[i].value.detach().clone();
        }
    } else if (++validations_without_gain_ >= config_.early_stop_patience &&
               config_.early_stop_patience > 0) {
        progress_.stopped_early = true;
        log(LogLevel::info, text("stopped early at step ", progress_.step, ": ", validations_without_gain_,
                                 " validations without improvement"));
    }
}

void Trainer::finish_if_over() {
    if (progress_.step < progress_.total_steps && !progress_.stopped_early) return;
    if (!best_.empty()) {
        const at::NoGradGuard no_gradients;
        for (size_t i = 0; i < best_.size(); ++i) optimiser_.state()[i].value.copy_(best_[i]);
        skillset_->method().parameters_changed();
        best_.clear();
    }
    progress_.done = true;
    release_idle_buffers();
    progress_.seconds_left = 0.0;
    Json training = {{"steps", progress_.step},
                     {"tokens", progress_.tokens},
                     {"loss", progress_.loss},
                     {"config", config_.to_json()}};
    if (!validations_.empty()) training["best_validation_loss"] = progress_.best_validation_loss;
    skillset_->metadata()["training"] = std::move(training);
    warn_if_routing_collapsed(*skillset_);
}

void Trainer::measure_speed(double seconds, int64_t tokens) {
    recent_.emplace_back(seconds, tokens);
    if (recent_.size() > speed_window) recent_.pop_front();
    double all_seconds = 0.0;
    int64_t all_tokens = 0;
    for (const auto& [s, t] : recent_) {
        all_seconds += s;
        all_tokens += t;
    }
    progress_.tokens_per_second = all_seconds > 0.0 ? static_cast<double>(all_tokens) / all_seconds : 0.0;
    progress_.seconds_left = all_seconds / static_cast<double>(recent_.size()) *
                             static_cast<double>(progress_.total_steps - progress_.step);
}

Json Trainer::report() const {
    const auto number = [](double value) { return std::isfinite(value) ? Json(value) : Json(); };
    Json history = {{"step", Json::array()},
                    {"loss", Json::array()},
                    {"learning_rate", Json::array()},
                    {"gradient_norm", Json::array()}};
    for (size_t i = 0; i < history_.size(); ++i) {
        history["step"].push_back(i + 1);
        history["loss"].push_back(number(history_[i].loss));
        history["learning_rate"].push_back(history_[i].learning_rate);
        history["gradient_norm"].push_back(number(history_[i].gradient_norm));
    }
    Json validation = {{"step", Json::array()}, {"loss", Json::array()}};
    for (const ValidationRecord& record : validations_) {
        validation["step"].push_back(static_cast<int64_t>(record.step));
        validation["loss"].push_back(number(record.loss));
    }
    Json progress = {{"step", progress_.step},
                     {"total_steps", progress_.total_steps},
                     {"epoch", progress_.epoch},
                     {"loss", number(progress_.loss)},
                     {"validation_loss", number(progress_.validation_loss)},
                     {"best_validation_loss", number(progress_.best_validation_loss)},
                     {"tokens", progress_.tokens},
                     {"truncated_rows", progress_.truncated_rows},
                     {"done", progress_.done},
                     {"stopped_early", progress_.stopped_early}};
    return {{"config", config_.to_json()},
            {"progress", std::move(progress)},
            {"history", std::move(history)},
            {"validation", std::move(validation)}};
}

}  // namespace polyad
