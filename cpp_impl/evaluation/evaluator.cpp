// SPDX-License-Identifier: Apache-2.0
#include "evaluation/evaluator.h"

#include <c10/core/GradMode.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>

#include "backbone/batch_checks.h"
#include "base/error.h"
#include "evaluation/report.h"
#include "routing/intuition.h"
#include "serving/generate.h"

namespace polyad {
namespace {

/// The answer without the white space around it, up to the stop string if one ended it.
std::string trimmed(std::string source, const std::vector<std::string>& stop) {
    for (const std::string& end : stop)
        if (const size_t at = source.find(end); at != std::string::npos) source.resize(at);
    const size_t begin = source.find_first_not_of(" \t\r\n");
    if (begin == std::string::npos) return "";
    return source.substr(begin, source.find_last_not_of(" \t\r\n") + 1 - begin);
}

/// The skillset's format, or the one given. A backbone without a long context shortens the default.
PromptFormat format_of(const EvaluatorOptions& options, const Backbone& backbone) {
    PromptFormat format = options.prompt.value_or(PromptFormat());
    const int64_t context = backbone.info().context;
    if (!options.prompt && context > 1 && context < format.max_tokens) {
        format.max_tokens = static_cast<int>(context);
        format.max_answer_tokens = std::min(format.max_answer_tokens, std::max(1, format.max_tokens / 2));
    }
    return format;
}

}  // namespace

EvaluatorOptions EvaluatorOptions::from_json(const Json& object) {
    ConfigReader read(object, "evaluation");
    EvaluatorOptions out;
    const std::string split = read.choice("split", "test", {"train", "validation", "test"});
    out.split = split == "train" ? Split::train : split == "test" ? Split::test : Split::validation;
    out.mode = read.choice("mode", "generate", {"generate", "labels"}) == "labels" ? EvaluationMode::labels
                                                                                   : EvaluationMode::generate;
    out.normalize_length = read.boolean("normalize_length", true);
    out.max_tokens = static_cast<int>(read.integer("max_tokens", 0, 0, 1 << 20));
    out.batch_size = static_cast<int>(read.integer("batch_size", out.batch_size, 1, 4096));
    out.max_examples_per_task = read.integer("max_examples_per_task", 0, 0, INT64_MAX);
    out.tasks = read.strings("tasks", {});
    out.stop = read.strings("stop", {});
    if (read.has("prompt")) out.prompt = PromptFormat::from_json(read.object("prompt"));
    read.finish();
    return out;
}

Evaluator::Evaluator(std::shared_ptr<const Backbone> backbone, std::shared_ptr<Skillset> skillset,
                     std::shared_ptr<const Dataset> dataset, EvaluatorOptions options)
    : backbone_(std::move(backbone)),
      skillset_(std::move(skillset)),
      dataset_(std::move(dataset)),
      options_(std::move(options)) {
    check_has_head(*backbone_);
    if (skillset_ && skillset_->backbone() != backbone_)
        fail(Code::invalid_argument,
             "the skillset was opened on another backbone object than the one to evaluate on");
    if (skillset_ && !options_.prompt) {
        prompts_ = &skillset_->prompts();
    } else {
        own_prompts_ =
            std::make_unique<PromptEncoder>(backbone_->tokenizer(), format_of(options_, *backbone_));
        prompts_ = own_prompts_.get();
    }
    if (options_.max_tokens == 0) options_.max_tokens = prompts_->format().max_answer_tokens;

    likelihood_ = std::make_unique<AnswerLikelihood>(*backbone_, skillset_.get(), options_.batch_size);

    const std::vector<Task>& tasks = dataset_->tasks();
    for (const std::string& name : options_.tasks)
        if (dataset_->find(name) < 0)
            fail(Code::unknown_task, "evaluation.tasks: the dataset has no task '", name, "'");
    task_ids_.assign(tasks.size(), -1);
    size_t longest = 0;
    std::vector<size_t> count(tasks.size(), 0);
    for (size_t t = 0; t < tasks.size(); ++t) {
        if (!options_.tasks.empty() &&
            std::find(options_.tasks.begin(), options_.tasks.end(), tasks[t].name) == options_.tasks.end())
            continue;
        count[t] = tasks[t].examples(options_.split).size();
        if (options_.max_examples_per_task > 0)
            count[t] = std::min(count[t], static_cast<size_t>(options_.max_examples_per_task));
        longest = std::max(longest, count[t]);
        if (!skillset_ || count[t] == 0) continue;
        const auto& known = skillset_->tasks();
        const auto entry = std::find_if(known.begin(), known.end(),
                                        [&](const TaskEntry& e) { return e.name == tasks[t].name; });
        if (entry != known.end())
            task_ids_[t] = static_cast<int>(entry - known.begin());
        else if (skillset_->method().needs_task())
            skillset_->task_index(tasks[t].name);  // throws, naming the nearest tasks
    }
    for (size_t e = 0; e < longest; ++e)
        for (size_t t = 0; t < tasks.size(); ++t)
            if (e < count[t]) items_.push_back({static_cast<int>(t), static_cast<int>(e)});
    if (items_.empty())
        fail(Code::bad_data, "the ", split_name(options_.split), " split holds no example to score");
    outcomes_.resize(items_.size());
}

const Example& Evaluator::example_of(const Item& item) const {
    return task_of(item).examples(options_.split)[static_cast<size_t>(item.example)];
}

bool Evaluator::ranks_labels(const Item& item) const {
    return options_.mode == EvaluationMode::labels && !task_of(item).labels.empty();
}

std::string Evaluator::where(const Item& item) const {
    return text("task '", task_of(item).name, "', example '", example_of(item).id, "'");
}

/// Runs `work`; an error of it gets the example's name.
void Evaluator::named(const Item& item, const std::function<void()>& work) const {
    try {
        work();
    } catch (const Error& e) {
        throw Error(e.code(), text(where(item), ": ", e.what()), where(item));
    }
}

void Evaluator::check_cancelled() {
    if (cancelled_.exchange(false))
        fail(Code::cancelled, "the evaluation was cancelled; step again to go on");
}

/// Items of the next batch: as many rows as one forward takes. A ranked example that cannot share its prompt
/// costs one row per label.
size_t Evaluator::batch_end() {
    size_t end = next_, rows = 0;
    while (end < items_.size()) {
        const Item& item = items_[end];
        const bool one_row =
            !ranks_labels(item) || likelihood_->shares_prompts(task_ids_[static_cast<size_t>(item.task)]);
        rows += one_row ? 1 : task_of(item).labels.size();
        if (end > next_ && rows > static_cast<size_t>(options_.batch_size)) break;
        ++end;
    }
    return end;
}

bool Evaluator::step(EvaluationProgress* progress_out) {
    if (finished()) fail(Code::wrong_state, "the evaluation is finished: nothing is left to score");
    check_cancelled();
    const c10::NoGradGuard no_gradients;
    const auto start = std::chrono::steady_clock::now();
    const int64_t tokens_before = tokens_;
    try {
        const size_t end = batch_end();
        std::vector<Outcome> outcomes(end - next_);
        std::vector<Item> ranked, generated;
        std::vector<std::vector<int32_t>> ranked_prompts, generated_prompts;
        std::vector<Outcome*> ranked_out, generated_out;
        int64_t cut_prompts = 0;
        for (size_t i = next_; i < end; ++i) {
            const Item& item = items_[i];
            int truncated = 0;
            std::vector<int32_t> prompt;
            named(item,
                  [&] { prompt = prompts_->prompt(task_of(item), example_of(item).input, &truncated); });
            cut_prompts += truncated > 0;
            const bool ranks = ranks_labels(item);
            (ranks ? ranked : generated).push_back(item);
            (ranks ? ranked_prompts : generated_prompts).push_back(std::move(prompt));
            (ranks ? ranked_out : generated_out).push_back(&outcomes[i - next_]);
        }
        if (!ranked.empty()) rank(ranked, ranked_prompts, ranked_out);
        if (!generated.empty()) generate(generated, generated_prompts, generated_out);
        for (size_t i = next_; i < end; ++i) {
            Outcome& outcome = outcomes[i - next_];
            outcome.score = text_score(outcome.prediction, example_of(items_[i]).outputs);
            outcomes_[i] = std::move(outcome);
        }
        truncated_ += cut_prompts;
        next_ = end;
    } catch (...) {
        tokens_ = tokens_before;
        throw;
    }
    seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (progress_out) *progress_out = progress();
    return finished();
}

EvaluationProgress Evaluator::progress() const {
    EvaluationProgress out;
    out.done = static_cast<int64_t>(next_);
    out.total = static_cast<int64_t>(items_.size());
    out.tokens = tokens_;
    out.truncated = truncated_;
    out.tokens_per_second = seconds_ > 0 ? static_cast<double>(tokens_) / seconds_ : 0.0;
    out.seconds_left =
        out.done > 0 ? seconds_ * static_cast<double>(out.total - out.done) / static_cast<double>(out.done)
                     : std::numeric_limits<double>::quiet_NaN();
    out.finished = finished();
    return out;
}

void Evaluator::rank(const std::vector<Item>& items, const std::vector<std::vector<int32_t>>& prompts,
                     std::vector<Outcome*>& out) {
    std::vector<Question> questions;
    for (size_t i = 0; i < items.size(); ++i) {
        Question question{prompts[i], {}, task_ids_[static_cast<size_t>(items[i].task)], {}};
        named(items[i], [&] {
            if (skillset_)
                question.intuition =
                    skillset_->intuition_of(task_of(items[i]).instruction, example_of(items[i]).input);
            for (const std::string& label : task_of(items[i]).labels)
                question.answers.push_back(prompts_->answer(label));
            size_t longest = 0;
            for (const auto& answer : question.answers) longest = std::max(longest, answer.size());
            check_context(backbone_->info().encoder_decoder ? std::max(question.prompt.size(), longest)
                                                            : question.prompt.size() + longest);
        });
        questions.push_back(std::move(question));
    }
    const int64_t tokens_before = likelihood_->tokens();
    const auto scores = likelihood_->score(questions, [&] { check_cancelled(); });
    tokens_ += likelihood_->tokens() - tokens_before;
    for (size_t i = 0; i < items.size(); ++i) {
        out[i]->label_scores = scores[i];
        for (size_t k = 0; k < scores[i].size(); ++k) {
            double& score = out[i]->label_scores[k];
            if (!std::isfinite(score))
                throw Error(Code::numeric_error,
                            text(where(items[i]), ": the log-probability of a label is ", score),
                            where(items[i]));
            if (options_.normalize_length) score /= static_cast<double>(questions[i].answers[k].size());
        }
        const auto best =
            std::max_element(out[i]->label_scores.begin(), out[i]->label_scores.end());  // ties: the first
        out[i]->prediction =
            task_of(items[i]).labels[static_cast<size_t>(best - out[i]->label_scores.begin())];
    }
}

void Evaluator::check_context(size_t tokens) const {
    const int64_t context = backbone_->info().context;
    if (static_cast<int64_t>(tokens) > context)
        fail(Code::context_overflow, "prompt and answer have ", tokens, " tokens, but the backbone holds ",
             context, "; lower prompt.max_tokens");
}

void Evaluator::generate(const std::vector<Item>& items, const std::vector<std::vector<int32_t>>& prompts,
                         std::vector<Outcome*>& out) {
    std::vector<std::shared_ptr<GenerationRow>> rows;
    size_t capacity = 0;
    for (size_t i = 0; i < items.size(); ++i) {
        GenerationInput input;
        input.skillset = skillset_;
        input.task = task_ids_[static_cast<size_t>(items[i].task)];
        input.prompt = prompts[i];
        input.text = Intuition::text_of(task_of(items[i]).instruction, example_of(items[i]).input);
        const int64_t room = room_for_answer(*backbone_, input);
        named(items[i], [&] {
            if (room < 1)
                fail(Code::context_overflow, "a prompt of ", prompts[i].size(),
                     " tokens leaves no room for an answer, the backbone holds ", backbone_->info().context,
                     "; lower prompt.max_tokens");
        });
        input.sampling.max_tokens = static_cast<int>(std::min<int64_t>(options_.max_tokens, room));
        input.sampling.stop = options_.stop;
        capacity = std::max(capacity, tokens_needed(*backbone_, input));
        rows.push_back(std::make_shared<GenerationRow>(*backbone_, std::move(input)));
    }
    GenerationBatch batch(backbone_, static_cast<int>(rows.size()), static_cast<int>(capacity));
    for (size_t i = 0; i < rows.size(); ++i) named(items[i], [&] { batch.add(rows[i]); });
    while (!batch.empty()) {
        check_cancelled();
        batch.step();
    }
    for (size_t i = 0; i < rows.size(); ++i) {
        if (rows[i]->error) named(items[i], [&] { std::rethrow_exception(rows[i]->error); });
        tokens_ += static_cast<int64_t>(prompts[i].size() + rows[i]->tokens.size());
        out[i]->prediction = trimmed(backbone_->tokenizer()->decode(rows[i]->tokens, true), options_.stop);
    }
}

Json Evaluator::result() const {
    if (!finished())
        fail(Code::wrong_state, "the evaluation is at example ", next_, " of ", items_.size(),
             ": step until it is done");
    std::vector<size_t> order(items_.size());  // report in the dataset's order
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
        return std::pair(items_[a].task, items_[a].example) < std::pair(items_[b].task, items_[b].example);
    });
    ScoreReport report;
    Json predictions = Json::array();
    for (const size_t i : order) {
        const Task& task = task_of(items_[i]);
        const Example& example = example_of(items_[i]);
        const Outcome& outcome = outcomes_[i];
        report.add(task.name, task.category, outcome.score);
        Json entry = {{"task", task.name},
                      {"id", example.id},
                      {"prediction", outcome.prediction},
                      {"references", example.outputs},
                      {"exact_match", outcome.score.exact_match},
                      {"rouge_l", outcome.score.rouge_l}};
        for (size_t k = 0; k < outcome.label_scores.size(); ++k)
            entry["label_scores"][task.labels[k]] = outcome.label_scores[k];
        predictions.push_back(std::move(entry));
    }
    Json out = report.to_json();
    for (auto& [name, entry] : out["tasks"].items())
        entry["mode"] = options_.mode == EvaluationMode::labels &&
                                !dataset_->tasks()[static_cast<size_t>(dataset_->find(name))].labels.empty()
                            ? "labels"
                            : "generate";
    out["split"] = split_name(options_.split);
    out["mode"] = options_.mode == EvaluationMode::labels ? "labels" : "generate";
    out["truncated_prompts"] = truncated_;
    out["prompt"] = prompts_->format().to_json();
    out["predictions"] = std::move(predictions);
    return out;
}

std::string Evaluator::table() const {
    if (!finished())
        fail(Code::wrong_state, "the evaluation is at example ", next_, " of ", items_.size(),
             ": step until it is done");
    ScoreReport report;
    for (size_t i = 0; i < items_.size(); ++i)
        report.add(task_of(items_[i]).name, task_of(items_[i]).category, outcomes_[i].score);
    return report.to_table();
}

}  // namespace polyad
