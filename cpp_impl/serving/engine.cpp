// SPDX-License-Identifier: Apache-2.0
#include "serving/engine.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "routing/intuition.h"

namespace polyad {
namespace {

/// Prompt tokens admitted per step, so that running requests never wait long for new ones; one request is
/// always admitted, however long.
constexpr int64_t admitted_tokens_per_step = 2048;
constexpr int64_t default_context = 4096;

int context_of(const Backbone& backbone, const EngineOptions& options) {
    const int64_t model = backbone.info().context;
    if (options.max_context == 0) return static_cast<int>(std::min(model, default_context));
    if (options.max_context < 2 || options.max_context > model)
        fail(Code::invalid_argument, "max_context: ", options.max_context,
             " is out of range, allowed: 0, or 2 to ", model, ", what the backbone holds");
    return options.max_context;
}

int checked_batch(const EngineOptions& options) {
    if (options.max_batch < 1 || options.max_batch > 4096)
        fail(Code::invalid_argument, "max_batch: ", options.max_batch,
             " is out of range, allowed: 1 to 4096");
    if (options.max_queue < 1)
        fail(Code::invalid_argument, "max_queue: ", options.max_queue,
             " is out of range, allowed: 1 or more");
    return options.max_batch;
}

bool ended(RequestState state) {
    return state >= RequestState::finished;
}

}  // namespace

Request::Piece Request::poll() {
    const std::lock_guard lock(mutex_);
    Piece out{result_.text.substr(polled_), state_};
    polled_ = result_.text.size();
    return out;
}

RequestState Request::state() const {
    const std::lock_guard lock(mutex_);
    return state_;
}

RequestResult Request::result() const {
    const std::lock_guard lock(mutex_);
    if (!ended(state_)) fail(Code::wrong_state, "the request has not finished yet: step the engine");
    if (error_) std::rethrow_exception(error_);
    return result_;
}

void Request::cancel() {
    end(RequestState::cancelled, FinishReason::cancelled, nullptr);
}

void Request::end(RequestState state, FinishReason reason, std::exception_ptr error) {
    const std::lock_guard lock(mutex_);
    if (ended(state_)) return;
    state_ = state;
    error_ = std::move(error);
    result_.reason = reason;
    result_.seconds = std::chrono::duration<double>(Clock::now() - submitted_).count();
}

Engine::Engine(std::shared_ptr<const Backbone> backbone, const EngineOptions& options)
    : backbone_(std::move(backbone)),
      options_(options),
      batch_(backbone_, checked_batch(options), context_of(*backbone_, options)) {
    options_.max_context = batch_.capacity();
}

Engine::~Engine() {
    for (const auto& request : waiting_) request->cancel();
    for (const auto& request : running_) {
        request->cancel();
        request->row_.reset();
    }
}

void Engine::publish(const std::string& name, const Skillset& skillset) {
    const auto copy = Skillset::load(backbone_, Bytes::copy_of(skillset.save_to_memory(), name));
    if (skillset.intuition())
        if (auto encoder = skillset.intuition()->opened()) copy->set_encoder(std::move(encoder));
    publish(name, std::shared_ptr<const Skillset>(copy));
}

void Engine::publish(const std::string& name, std::shared_ptr<const Skillset> skillset) {
    if (name.empty()) fail(Code::invalid_argument, "name: a published skillset needs a name");
    const BackboneInfo& theirs = skillset->backbone()->info();
    if (theirs.fingerprint != backbone_->info().fingerprint)
        fail(Code::backbone_mismatch, "skillset '", name, "' was made for backbone '", theirs.name,
             "', the engine serves '", backbone_->info().name, "'");
    std::shared_ptr<const Skillset> replaced;  // freed outside the lock
    const std::lock_guard lock(mutex_);
    Published& entry = published_[name];
    replaced = std::exchange(entry.skillset, std::move(skillset));
    entry.version = ++versions_[name];
}

void Engine::retire(const std::string& name) {
    std::shared_ptr<const Skillset> retired;
    const std::lock_guard lock(mutex_);
    const auto at = published_.find(name);
    if (at == published_.end()) fail(Code::not_found, "no skillset is published as '", name, "'");
    retired = std::move(at->second.skillset);
    published_.erase(at);
}

GenerationInput Engine::make_input(const RequestOptions& options, RequestResult& result) const {
    if (options.prompt.has_value() == !options.tokens.empty())
        fail(Code::invalid_argument, "a request needs either prompt or tokens");
    options.sampling.check();
    if (options.sampling.max_tokens >= options_.max_context)
        fail(Code::context_overflow, "max_tokens = ", options.sampling.max_tokens,
             " leaves no room for a prompt in a context of ", options_.max_context, " tokens");
    GenerationInput input;
    input.sampling = options.sampling;
    input.weights = options.weights;
    input.intuition = options.intuition;
    if (!options.skillset.empty()) {
        const std::lock_guard lock(mutex_);
        const auto at = published_.find(options.skillset);
        if (at == published_.end()) {
            std::string names;
            for (const auto& [name, entry] : published_) names += (names.empty() ? "" : ", ") + name;
            fail(Code::not_found, "no skillset is published as '", options.skillset,
                 "'; there is: ", names.empty() ? "none" : names);
        }
        input.skillset = at->second.skillset;
    } else if (!options.task.empty()) {
        fail(Code::invalid_argument, "task '", options.task, "' needs a skillset: none is named");
    }
    if (!options.task.empty()) input.task = input.skillset->task_index(options.task);
    if (!options.prompt) {
        input.prompt = options.tokens;
    } else if (input.skillset) {
        const Task task =
            input.task < 0 ? Task() : input.skillset->tasks()[static_cast<size_t>(input.task)].to_task();
        int truncated = 0;
        input.prompt = input.skillset->prompts().prompt(task, *options.prompt, &truncated);
        input.text = Intuition::text_of(task.instruction, *options.prompt);
        result.truncated = truncated;
    } else {
        PromptFormat format;  // the model's own chat template when it has one
        format.max_tokens = options_.max_context;
        format.max_answer_tokens = options.sampling.max_tokens;
        int truncated = 0;
        input.prompt =
            PromptEncoder(backbone_->tokenizer(), format).prompt(Task(), *options.prompt, &truncated);
        result.truncated = truncated;
    }
    check_input(*backbone_, input, options_.max_context);
    result.prompt_tokens = static_cast<int64_t>(input.prompt.size());
    return input;
}

std::shared_ptr<Request> Engine::submit(const RequestOptions& options) {
    const auto request = std::make_shared<Request>();
    request->row_ = std::make_shared<GenerationRow>(*backbone_, make_input(options, request->result_));
    const std::lock_guard lock(mutex_);
    if (static_cast<int>(waiting_.size()) >=
        options_.max_queue)  // cancelled ones give their places back first
        std::erase_if(waiting_, [&](const auto& one) {
            if (!ended(one->state())) return false;
            ++counters_.cancelled;
            return true;
        });
    if (static_cast<int>(waiting_.size()) >= options_.max_queue)
        fail(Code::queue_full, "the queue holds ", options_.max_queue,
             " waiting requests already: step the engine");
    waiting_.push_back(request);
    return request;
}

void Engine::count_end(RequestState state) {
    switch (state) {
        case RequestState::finished:
            ++counters_.finished;
            break;
        case RequestState::failed:
            ++counters_.failed;
            break;
        case RequestState::cancelled:
            ++counters_.cancelled;
            break;
        default:
            break;
    }
}

void Engine::drop_cancelled() {
    std::erase_if(running_, [&](const std::shared_ptr<Request>& request) {
        if (!ended(request->state())) return false;
        batch_.remove(*request->row_);
        request->row_.reset();
        const std::lock_guard lock(mutex_);
        count_end(RequestState::cancelled);
        return true;
    });
}

void Engine::admit() {
    int64_t tokens = 0;
    while (batch_.free_slots() > 0 && tokens < admitted_tokens_per_step) {
        std::shared_ptr<Request> request;
        {
            const std::lock_guard lock(mutex_);
            if (waiting_.empty()) return;
            const auto next = static_cast<int64_t>(waiting_.front()->row_->input.prompt.size());
            if (tokens > 0 && tokens + next > admitted_tokens_per_step) return;
            request = std::move(waiting_.front());
            waiting_.pop_front();
        }
        RequestState end = RequestState::cancelled;
        {
            const std::lock_guard lock(request->mutex_);
            if (!ended(request->state_)) end = request->state_ = RequestState::running;
        }
        if (end == RequestState::running) {
            try {
                tokens += static_cast<int64_t>(request->row_->input.prompt.size());
                batch_.add(request->row_);
                running_.push_back(request);
                continue;
            } catch (...) {
                end = RequestState::failed;
                request->end(end, FinishReason::failed, std::current_exception());
            }
        }
        request->row_.reset();
        const std::lock_guard lock(mutex_);
        count_end(end);
    }
}

void Engine::deliver(const std::shared_ptr<Request>& request) {
    GenerationRow& row = *request->row_;
    {
        const std::lock_guard lock(request->mutex_);
        if (!ended(request->state_)) {
            request->result_.text += row.piece;
            request->result_.tokens = row.tokens;
        }
    }
    if (!row.finished()) return;
    const bool failed = row.reason == FinishReason::failed;
    request->end(failed ? RequestState::failed : RequestState::finished, row.reason, row.error);
    request->row_.reset();
    const RequestState state = request->state();  // cancelled when that came first
    const std::lock_guard lock(mutex_);
    count_end(state);
}

int Engine::step() {
    drop_cancelled();
    admit();
    if (!batch_.empty()) {
        const auto begin = std::chrono::steady_clock::now();
        int64_t prompt_tokens = 0;
        for (const auto& request : running_)
            if (request->row_->tokens.empty())
                prompt_tokens += static_cast<int64_t>(request->row_->input.prompt.size());
        batch_.step();
        const auto rows = static_cast<int64_t>(running_.size());
        for (const auto& request : running_) deliver(request);
        std::erase_if(running_, [](const auto& request) { return !request->row_; });
        const std::lock_guard lock(mutex_);
        ++counters_.steps;
        counters_.tokens += rows;
        counters_.prompt_tokens += prompt_tokens;
        counters_.busy_seconds +=
            std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    }
    const std::lock_guard lock(mutex_);
    running_count_ = static_cast<int>(running_.size());
    return running_count_ + static_cast<int>(waiting_.size());
}

Json Engine::stats() const {
    const std::lock_guard lock(mutex_);
    Json skillsets = Json::object();
    for (const auto& [name, entry] : published_)
        skillsets[name] = {{"version", entry.version}, {"tasks", entry.skillset->tasks().size()}};
    const double seconds = counters_.busy_seconds;
    return {{"skillsets", std::move(skillsets)},
            {"waiting", waiting_.size()},
            {"running", running_count_},
            {"steps", counters_.steps},
            {"finished", counters_.finished},
            {"failed", counters_.failed},
            {"cancelled", counters_.cancelled},
            {"prompt_tokens", counters_.prompt_tokens},
            {"tokens", counters_.tokens},
            {"tokens_per_second", seconds > 0.0 ? static_cast<double>(counters_.tokens) / seconds : 0.0},
            {"max_batch", options_.max_batch},
            {"max_context", options_.max_context}};
}

}  // namespace polyad
