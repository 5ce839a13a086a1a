// SPDX-License-Identifier: Apache-2.0
#include "serving/engine.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "base/error.h"
#include "routing/intuition.h"

namespace polyad {
namespace {

/// Prompt tokens admitted per step, so that running requests never wait long for new ones; one request is
/// always admitted, however long.
constexpr int64_t admitted_tokens_per_step = 2048;
constexpr int64_t default_context = 4096;
/// Resident pairs of one skillset beyond which it mixes its tasks as they are asked for.
constexpr int64_t most_resident_bytes = int64_t{1} << 30;
/// Prefixes kept for later requests where no budget says how much memory there is.
constexpr int64_t default_prefix_bytes = int64_t{256} << 20;

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
    if (options.memory_budget < 0)
        fail(Code::invalid_argument, "memory_budget: ", options.memory_budget,
             " is out of range, allowed: 0 (no budget), or bytes");
    return options.max_batch;
}

}  // namespace

Engine::Engine(std::shared_ptr<const Backbone> backbone, const EngineOptions& options)
    : backbone_(std::move(backbone)),
      options_(options),
      batch_(backbone_, checked_batch(options), context_of(*backbone_, options), options.prefix_cache) {
    options_.max_context = batch_.capacity();
    if (options.merge_hot_task) hot_ = std::make_unique<HotTask>();
    GenerationInput longest;
    longest.sampling.max_tokens = options_.max_context;
    longest.prompt.assign(static_cast<size_t>(backbone_->info().encoder_decoder ? options_.max_context : 1),
                          0);
    whole_cache_ = batch_.bytes_needed(longest) * options_.max_batch;
}

Engine::~Engine() {
    const auto end = [&](const Item& request) {
        request->cancel();
        let_go(request);
    };
    waiting_.for_each(end);
    std::for_each(running_.begin(), running_.end(), end);
}

int64_t Engine::cache_limit() const {
    return options_.memory_budget > 0 ? std::max<int64_t>(options_.memory_budget - *skill_bytes_, 0)
                                      : whole_cache_;
}

void Engine::publish(const std::string& name, const Skillset& skillset) {
    publish(name, snapshot(skillset));
}

std::shared_ptr<const Skillset> Engine::snapshot(const Skillset& skillset) const {
    Pace pace(running_count_);
    return skillset.snapshot([&] { pace.rest(); });
}

void Engine::publish(const std::string& name, std::shared_ptr<const Skillset> skillset) {
    if (name.empty()) fail(Code::invalid_argument, "name: a published skillset needs a name");
    const BackboneInfo& theirs = skillset->backbone()->info();
    if (theirs.fingerprint != backbone_->info().fingerprint)
        fail(Code::backbone_mismatch, "skillset '", name, "' was made for backbone '", theirs.name,
             "', the engine serves '", backbone_->info().name, "'");
    const int64_t budget = options_.memory_budget;
    Pace pace(running_count_);
    const auto served = std::make_shared<ServedSkillset>(
        std::move(skillset), budget > 0 ? std::min(most_resident_bytes, budget / 2) : most_resident_bytes,
        [&] { pace.rest(); });
    disposal_.settle();                              // what is being freed counts no more
    std::shared_ptr<const ServedSkillset> replaced;  // freed outside the lock
    const std::lock_guard lock(mutex_);
    const int64_t largest = needs_.empty() ? 0 : *needs_.rbegin();
    if (budget > 0 && *skill_bytes_ + served->bytes() + largest > budget)
        fail(Code::out_of_memory, "skillset '", name, "' takes ", served->bytes(),
             " bytes; the memory budget of ", budget, " bytes holds ", skill_bytes_->load(),
             " bytes of skillsets (versions that requests still "
             "run on included) and needs ",
             largest, " bytes for the largest request under way");
    served->account(skill_bytes_);
    Published& entry = published_[name];
    replaced = std::exchange(entry.served, served);
    entry.version = ++versions_[name];
}

void Engine::retire(const std::string& name) {
    std::shared_ptr<const ServedSkillset> retired;
    const std::lock_guard lock(mutex_);
    const auto at = published_.find(name);
    if (at == published_.end()) fail(Code::not_found, "no skillset is published as '", name, "'");
    retired = std::move(at->second.served);
    published_.erase(at);
}

std::shared_ptr<const ServedSkillset> Engine::find(const std::string& name) const {
    const std::lock_guard lock(mutex_);
    const auto at = published_.find(name);
    if (at != published_.end()) return at->second.served;
    std::string names;
    size_t listed = 0;
    for (const auto& [other, entry] : published_) {
        if (++listed > 8) break;
        names += (names.empty() ? "" : ", ") + other;
    }
    if (published_.size() > 8) names += ", ...";
    if (versions_.count(name))
        fail(Code::not_found, "skillset '", name,
             "' was retired; there is: ", names.empty() ? "none" : names);
    fail(Code::not_found, "no skillset is published as '", name,
         "'; there is: ", names.empty() ? "none" : names);
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
        input.served = find(options.skillset);
        input.skillset = input.served->shared();
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

void Engine::check_fits(int64_t bytes) const {
    const int64_t limit = cache_limit();
    if (options_.memory_budget > 0 && bytes > limit)
        fail(Code::out_of_memory, "the request needs up to ", bytes, " bytes of cache; the memory budget of ",
             options_.memory_budget, " bytes leaves ", limit, " bytes beside the published skillsets");
}

std::shared_ptr<Request> Engine::submit(const RequestOptions& options) {
    const auto request = std::make_shared<Request>(options);
    request->row_ = std::make_shared<GenerationRow>(*backbone_, make_input(options, request->result_));
    const GenerationInput& input = request->row_->input;
    request->bytes_needed_ = batch_.bytes_needed(input);
    const auto cost = static_cast<int64_t>(input.prompt.size()) + input.sampling.max_tokens;
    std::vector<Item> over;  // freed outside the lock
    const std::lock_guard lock(mutex_);
    check_fits(request->bytes_needed_);
    if (static_cast<int>(waiting_.size()) >= options_.max_queue)  // ended ones give their places back first
        waiting_.erase_if([&](const Item& one) {
            if (!ended(one->state())) return false;
            over.push_back(one);
            count_end(one);
            return true;
        });
    if (static_cast<int>(waiting_.size()) >= options_.max_queue)
        fail(Code::queue_full, "the queue holds ", options_.max_queue,
             " waiting requests already: step the engine");
    waiting_.push(request, options.priority, options.skillset + '\0' + options.task, cost);
    needs_.insert(request->bytes_needed_);
    return request;
}

void Engine::let_go(const Item& request) {
    if (!request->row_) return;
    std::shared_ptr<const ServedSkillset> served = std::move(request->row_->input.served);
    request->row_.reset();
    disposal_.drop(std::move(served));
}

void Engine::count_end(const Item& request) {
    needs_.erase(needs_.find(request->bytes_needed_));
    switch (request->state()) {
        case RequestState::finished:
            ++counters_.finished;
            break;
        case RequestState::failed:
            ++counters_.failed;
            break;
        case RequestState::cancelled:
            ++counters_.cancelled;
            break;
        case RequestState::expired:
            ++counters_.expired;
            break;
        default:
            break;
    }
}

void Engine::drop_ended() {
    std::vector<Item> over;
    std::erase_if(running_, [&](const Item& request) {
        if (!ended(request->state())) return false;
        batch_.remove(*request->row_);
        over.push_back(request);
        return true;
    });
    {
        const size_t ran = over.size();
        const std::lock_guard lock(mutex_);
        waiting_.erase_if([&](const Item& request) {
            if (!ended(request->state())) return false;
            over.push_back(request);
            return true;
        });
        for (size_t i = 0; i < over.size(); ++i) {
            count_end(over[i]);
            if (i < ran) running_needs_ -= over[i]->bytes_needed_;
        }
    }
    for (const Item& request : over) let_go(request);
}

void Engine::drop_old_prefixes() {
    std::erase_if(prefix_versions_, [&](const auto& entry) {
        if (!entry.second.expired()) return false;
        batch_.drop_prefixes(entry.first);
        return true;
    });
}

void Engine::preempt(const Item& request) {
    batch_.suspend(*request->row_);
    std::erase(running_, request);
    const std::lock_guard lock(mutex_);
    ++counters_.preempted;
    running_needs_ -= request->bytes_needed_;
    {
        const std::lock_guard own(request->mutex_);
        if (!ended(request->state_)) request->state_ = RequestState::waiting;
    }
    waiting_.push_front(request, request->priority_);
}

/// Every running row gets the memory of its next token; where there is none, the latest of the lowest
/// priority gives way until there is. The first of the highest priority never does, and alone it always fits.
void Engine::settle_memory() {
    const bool budget = options_.memory_budget > 0;
    int64_t limit = 0, largest = 0;
    {
        const std::lock_guard lock(mutex_);
        limit = cache_limit();
        if (!needs_.empty()) largest = *needs_.rbegin();
    }
    if (budget && limit - merged_bytes() < largest) unmerge();
    if (budget) limit -= merged_bytes();
    batch_.set_limits(limit, budget ? limit : default_prefix_bytes);
    if (!batch_.paged()) return;
    std::vector<Item> order = running_;
    std::stable_sort(order.begin(), order.end(),
                     [](const Item& a, const Item& b) { return a->priority_ > b->priority_; });
    while (!batch_.within_limit() && order.size() > 1) {
        preempt(order.back());
        order.pop_back();
    }
    for (size_t i = 0; i < order.size(); ++i)
        while (i < order.size() && !batch_.make_room(*order[i]->row_)) {
            if (merged_bytes() > 0) {
                limit += budget ? merged_bytes() : 0;
                unmerge();
                batch_.set_limits(limit, budget ? limit : default_prefix_bytes);
                continue;
            }
            preempt(order.back());
            order.pop_back();
        }
}

void Engine::unmerge() {
    batch_.set_merged(nullptr);
    if (hot_) hot_->drop();
}

/// `rows` rows have just been through a step.
void Engine::watch_hot_task(int rows, double seconds, bool decoding) {
    if (!hot_ || running_.empty()) return;
    const GenerationInput& first = running_.front()->row_->input;
    const ResidentLora* lora = running_.front()->row_->lora();
    const bool same = lora && std::all_of(running_.begin(), running_.end(),
                                          [&](const Item& one) { return one->row_->lora() == lora; });
    int64_t room = std::numeric_limits<int64_t>::max();
    if (options_.memory_budget > 0) {
        const std::lock_guard lock(mutex_);
        room = cache_limit() - batch_.cache_bytes() - (needs_.empty() ? 0 : *needs_.rbegin());
    }
    hot_->stepped(same ? first.served : nullptr, first.task, rows, seconds, decoding, batch_.ran_merged(),
                  room);
    batch_.set_merged(hot_->merged());
}

bool Engine::admit_one(const Item& request) {
    if (!batch_.paged()) {
        const std::lock_guard lock(mutex_);
        if (!running_.empty() && running_needs_ + request->bytes_needed_ > cache_limit()) return false;
    }
    batch_.add(request->row_);
    // A page for each row beyond what it needs now, or the newcomer would give way again at once.
    if (batch_.make_room(*request->row_) &&
        (running_.empty() || batch_.spare_pages() > static_cast<int64_t>(running_.size())))
        return true;
    batch_.suspend(*request->row_);
    // Nobody is left to give way: the device has less memory than the budget allows for.
    if (running_.empty())
        fail(Code::out_of_memory, "there is no cache memory for the request's next step: ", batch_.no_room());
    return false;
}

void Engine::admit() {
    int64_t tokens = 0;
    while (batch_.free_slots() > 0 && tokens < admitted_tokens_per_step) {
        Item request;
        {
            const std::lock_guard lock(mutex_);
            if (waiting_.empty()) return;
            const GenerationRow& next = *waiting_.front()->row_;
            const auto length = static_cast<int64_t>(next.input.prompt.size() + next.tokens.size());
            if (tokens > 0 && tokens + length > admitted_tokens_per_step) return;
            tokens += length;
            request = waiting_.pop();
        }
        const GenerationRow& row = *request->row_;
        bool runs = false;
        std::exception_ptr error;
        try {
            runs = admit_one(request);
        } catch (...) {
            error = std::current_exception();
        }
        if (error) {
            request->end(RequestState::failed, FinishReason::failed, error);
            {
                const std::lock_guard lock(mutex_);
                count_end(request);
            }
            let_go(request);
            continue;
        }
        const std::lock_guard lock(mutex_);
        if (!runs) return waiting_.push_front(request, request->priority_);
        running_needs_ += request->bytes_needed_;
        request->order_ = ++admissions_;
        running_.push_back(request);
        if (row.input.served) prefix_versions_[row.input.served->id()] = row.input.served;
        if (row.tokens.empty() && row.cached_tokens() > 0) {
            ++counters_.prefix_hits;
            counters_.prefix_tokens += row.cached_tokens();
        }
        const std::lock_guard own(request->mutex_);
        request->result_.cached_tokens = row.cached_tokens();
        if (!ended(request->state_)) request->state_ = RequestState::running;
    }
}

void Engine::deliver(const Item& request) {
    GenerationRow& row = *request->row_;
    {
        const std::lock_guard lock(request->mutex_);
        if (!ended(request->state_)) {
            request->result_.text += row.piece;
            auto& tokens = request->result_.tokens;
            tokens.insert(tokens.end(), row.tokens.begin() + static_cast<std::ptrdiff_t>(tokens.size()),
                          row.tokens.end());
        }
    }
    if (!row.finished()) return;
    const bool failed = row.reason == FinishReason::failed;
    request->end(failed ? RequestState::failed : RequestState::finished, row.reason, row.error);
    {
        const std::lock_guard lock(mutex_);
        running_needs_ -= request->bytes_needed_;
        count_end(request);  // as cancelled or expired when that came first
    }
    let_go(request);
}

int Engine::step() {
    drop_ended();
    drop_old_prefixes();
    settle_memory();
    admit();
    if (!batch_.empty()) {
        const auto begin = std::chrono::steady_clock::now();
        int64_t prompt_tokens = 0;
        for (const Item& request : running_)
            if (request->row_->tokens.empty())
                prompt_tokens += static_cast<int64_t>(request->row_->input.prompt.size());
        const bool decoding = prompt_tokens == 0;
        batch_.step();
        watch_hot_task(static_cast<int>(running_.size()),
                       std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(),
                       decoding);
        const auto rows = static_cast<int64_t>(running_.size());
        for (const Item& request : running_) deliver(request);
        std::erase_if(running_, [](const Item& request) { return !request->row_; });
        const std::lock_guard lock(mutex_);
        ++counters_.steps;
        counters_.graph_steps = batch_.graph_steps();
        counters_.tokens += rows;
        counters_.prompt_tokens += prompt_tokens;
        counters_.busy_seconds +=
            std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    }
    drop_old_prefixes();
    const std::lock_guard lock(mutex_);
    running_count_ = static_cast<int>(running_.size());
    cache_bytes_ = batch_.paged() ? batch_.cache_bytes() : running_needs_;
    prefix_bytes_ = batch_.prefix_bytes();
    return running_count_.load() + static_cast<int>(waiting_.size());
}

Json Engine::stats() const {
    disposal_.settle();
    const std::lock_guard lock(mutex_);
    Json skillsets = Json::object();
    for (const auto& [name, entry] : published_)
        skillsets[name] = {{"version", entry.version},
                           {"tasks", entry.served->skillset().tasks().size()},
                           {"bytes", entry.served->bytes()}};
    const double seconds = counters_.busy_seconds;
    return {{"skillsets", std::move(skillsets)},
            {"waiting", waiting_.size()},
            {"running", running_count_.load()},
            {"steps", counters_.steps},
            {"graph_steps", counters_.graph_steps},
            {"finished", counters_.finished},
            {"failed", counters_.failed},
            {"cancelled", counters_.cancelled},
            {"expired", counters_.expired},
            {"preempted", counters_.preempted},
            {"prompt_tokens", counters_.prompt_tokens},
            {"tokens", counters_.tokens},
            {"tokens_per_second", seconds > 0.0 ? static_cast<double>(counters_.tokens) / seconds : 0.0},
            {"max_batch", options_.max_batch},
            {"max_context", options_.max_context},
            {"memory",
             {{"budget", options_.memory_budget},
              {"skills", skill_bytes_->load()},
              {"cache", cache_bytes_},
              {"cache_shared", prefix_bytes_},
              {"merged", merged_bytes()}}},
            {"prefix_cache", {{"hits", counters_.prefix_hits}, {"tokens", counters_.prefix_tokens}}}};
}

}  // namespace polyad
