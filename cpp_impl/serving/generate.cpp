// SPDX-License-Identifier: Apache-2.0
#include "serving/generate.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>

#include "backbone/device.h"
#include "base/error.h"
#include "routing/intuition.h"

namespace polyad {
namespace {

/// Prompt tokens read in one step: more would let running rows wait too long and take too much memory.
constexpr size_t prompt_tokens_per_step = 4096;

void check_route(const GenerationInput& input) {
    if (!input.skillset) {
        if (input.task >= 0 || !input.weights.empty() || !input.intuition.empty())
            fail(Code::invalid_argument,
                 "a task, skill weights or an intuition need a skillset: none is given");
        return;
    }
    Method& method = input.skillset->method();
    if (!input.intuition.empty()) {
        const int skills = method.skill_count();
        if (!input.skillset->takes_intuition())
            fail(Code::invalid_argument, "intuition: this skillset's method reads none");
        if (static_cast<int>(input.intuition.size()) != skills)
            fail(Code::invalid_argument, "intuition: ", input.intuition.size(),
                 " scores given, the skillset has ", skills, " skills");
        for (const float score : input.intuition)
            if (!std::isfinite(score))
                fail(Code::invalid_argument, "intuition: an entry is not a finite number");
    }
    const int tasks = static_cast<int>(input.skillset->tasks().size());
    if (!input.weights.empty()) {
        const int skills = method.skill_count();
        if (static_cast<int>(input.weights.size()) != skills)
            fail(Code::invalid_argument, "weights: ", input.weights.size(), " given, the skillset has ",
                 skills, " skills");
        for (const float weight : input.weights)
            if (!std::isfinite(weight))
                fail(Code::invalid_argument, "weights: an entry is not a finite number");
        return;
    }
    if (input.task >= tasks)
        fail(Code::unknown_task, "task ", input.task, ": the skillset has ", tasks, " tasks");
    if (input.task < 0 && method.needs_task())
        fail(Code::unknown_task, "this skillset routes by task: name one of its ", tasks,
             " tasks or give skill weights");
}

/// Scores of the row's prompt, unless the host brought them or the router is not asked.
void make_intuition(GenerationInput& input) {
    if (!input.skillset || !input.skillset->intuition() || !input.intuition.empty() || !input.weights.empty())
        return;
    input.intuition = input.text ? input.skillset->intuition()->scores(*input.text)
                                 : input.skillset->intuition_of(input.prompt);
}

/// The prompt and what a method puts before it.
size_t prompt_positions(const GenerationInput& input) {
    const int prefix = input.skillset ? input.skillset->method().prefix_tokens(input.task) : 0;
    return input.prompt.size() + static_cast<size_t>(prefix);
}

}  // namespace

const char* finish_reason_name(FinishReason reason) {
    switch (reason) {
        case FinishReason::none:
            return "none";
        case FinishReason::end_token:
            return "end_token";
        case FinishReason::stop_string:
            return "stop_string";
        case FinishReason::max_tokens:
            return "max_tokens";
        case FinishReason::cancelled:
            return "cancelled";
        case FinishReason::failed:
            return "failed";
        case FinishReason::expired:
            return "expired";
    }
    return "unknown";
}

size_t tokens_needed(const Backbone& backbone, const GenerationInput& input) {
    const size_t prompt = prompt_positions(input), answer = static_cast<size_t>(input.sampling.max_tokens);
    // The last token of an answer is never read; an encoder-decoder reads a start token before the first.
    return backbone.info().encoder_decoder ? std::max(prompt, answer) : prompt + answer - 1;
}

int64_t room_for_answer(const Backbone& backbone, const GenerationInput& input) {
    const int64_t context = backbone.info().context, prompt = static_cast<int64_t>(prompt_positions(input));
    if (!backbone.info().encoder_decoder) return context - prompt;
    return prompt <= context ? context : 0;
}

void check_input(const Backbone& backbone, const GenerationInput& input, int capacity) {
    input.sampling.check();
    if (!input.sampling.stop.empty() && !backbone.tokenizer())
        fail(Code::unsupported,
             "stop: this backbone came without a tokenizer, so there is no text to stop in");
    if (input.prompt.empty()) fail(Code::invalid_argument, "prompt: at least one token id is needed");
    const int64_t vocab = backbone.info().vocab;
    for (size_t i = 0; i < input.prompt.size(); ++i)
        if (input.prompt[i] < 0 || input.prompt[i] >= vocab)
            fail(Code::invalid_argument, "prompt: tokens[", i, "] = ", input.prompt[i],
                 " is outside the vocabulary [0, ", vocab, ")");
    check_route(input);
    const size_t needed = tokens_needed(backbone, input);
    if (needed > static_cast<size_t>(capacity))
        fail(Code::context_overflow, "a prompt of ", input.prompt.size(),
             " tokens and max_tokens = ", input.sampling.max_tokens, " do not fit into ", capacity,
             " tokens");
}

GenerationRow::GenerationRow(const Backbone& backbone, GenerationInput what)
    : input(std::move(what)),
      text_(backbone.tokenizer(), input.sampling.stop),
      random_(input.sampling.seed) {}

std::vector<int32_t> GenerationRow::next_tokens() const {
    std::vector<int32_t> out;
    const auto prompt = static_cast<int64_t>(input.prompt.size());
    if (read_ < prompt) out.assign(input.prompt.begin() + read_, input.prompt.end());
    out.insert(out.end(), tokens.begin() + std::max<int64_t>(read_ - prompt, 0), tokens.end());
    return out;
}

const ResidentLora* GenerationRow::lora() const {
    return input.served && input.weights.empty() ? input.served->lora(input.task) : nullptr;
}

PrefixRoute GenerationRow::route() const {
    PrefixRoute route{input.served ? input.served->id() : 0, input.task, {}};
    for (const float weight : input.weights) route.weights.push_back(std::bit_cast<uint32_t>(weight));
    return route;
}

GenerationBatch::GenerationBatch(std::shared_ptr<const Backbone> backbone, int slots, int capacity,
                                 bool share_prefixes)
    : backbone_(std::move(backbone)),
      cache_(backbone_->make_cache(slots, capacity)),
      decoder_cache_(dynamic_cast<DecoderCache*>(cache_.get())),
      share_prefixes_(share_prefixes && decoder_cache_) {
    if (decoder_cache_ && !backbone_->device().is_cpu())
        graphs_ = std::make_unique<DecodeGraphs>(backbone_, *decoder_cache_);
    for (int slot = slots; slot > 0; --slot) free_.push_back(slot - 1);
}

void GenerationBatch::set_merged(std::shared_ptr<MergedTask> merged) {
    merged_ = std::move(merged);
    if (graphs_) graphs_->keep_merged(merged_.get());
}

/// A row may read another's prefix, or leave its own, only where what it computes follows from its route and
/// its tokens alone, position by position.
bool GenerationBatch::shares(const GenerationRow& row) const {
    if (!share_prefixes_) return false;
    if (!row.input.skillset) return true;
    const Method& method = row.input.skillset->method();
    return row.input.served && row.input.intuition.empty() && method.prefix_tokens(row.input.task) == 0 &&
           (row.lora() || method.causal());
}

void GenerationBatch::add(std::shared_ptr<GenerationRow> row) {
    check_input(*backbone_, row->input, capacity());
    if (free_.empty()) fail(Code::invalid_argument, "all ", cache_->slots(), " rows of the batch are in use");
    make_intuition(row->input);
    row->slot_ = free_.back();
    free_.pop_back();
    cache_->truncate(row->slot_, 0);
    if (shares(*row)) {
        // The last token is always read again: somebody has to predict the next one.
        const std::vector<int32_t> tokens = row->next_tokens();
        const size_t most = (tokens.size() - 1) / DecoderCache::page_tokens;
        auto pages = prefixes_.find(row->route(), tokens, most);
        row->read_ = static_cast<int64_t>(pages.size()) * DecoderCache::page_tokens;
        if (!row->begun_) row->cached_ = std::min(row->read_, static_cast<int64_t>(row->input.prompt.size()));
        decoder_cache_->adopt(row->slot_, std::move(pages));
    }
    const auto kind = [](const GenerationRow& one) {
        return one.lora() ? nullptr : one.input.skillset.get();
    };
    const auto mate = std::find_if(rows_.rbegin(), rows_.rend(), [&](const auto& other) {
        return kind(*other) == kind(*row) && !other->lora() == !row->lora();
    });
    rows_.insert(mate == rows_.rend() ? rows_.end() : mate.base(), std::move(row));
}

void GenerationBatch::remove(const GenerationRow& row) {
    const auto at =
        std::find_if(rows_.begin(), rows_.end(), [&](const auto& one) { return one.get() == &row; });
    if (at == rows_.end()) return;
    cache_->truncate((*at)->slot_, 0);
    free_.push_back((*at)->slot_);
    (*at)->slot_ = -1;
    rows_.erase(at);
    routings_.clear();  // they refer to the row's skillset and memory, which may go now
}

void GenerationBatch::suspend(GenerationRow& row) {
    remove(row);
    row.read_ = 0;
    row.memory_ = {};
}

bool GenerationBatch::make_room(GenerationRow& row) {
    if (!decoder_cache_) return true;
    int64_t positions = row.unread();
    if (row.read_ == 0)
        positions += static_cast<int64_t>(prompt_positions(row.input) - row.input.prompt.size());
    while (!decoder_cache_->reserve(row.slot_, static_cast<int>(positions)))
        if (!prefixes_.evict()) return false;
    return true;
}

void GenerationBatch::trim_prefixes() {
    while (prefix_bytes() > most_prefix_bytes_ && prefixes_.evict()) {
    }
}

void GenerationBatch::set_limits(int64_t cache, int64_t prefixes) {
    most_prefix_bytes_ = prefixes;
    trim_prefixes();
    if (!decoder_cache_) return;
    if (decoder_cache_->pool().limit() != cache) decoder_cache_->pool().set_limit(cache);
    while (!within_limit() && prefixes_.evict()) {
    }
}

bool GenerationBatch::within_limit() const {
    return !decoder_cache_ || decoder_cache_->pool().bytes() <= decoder_cache_->pool().limit();
}

int64_t GenerationBatch::spare_pages() const {
    if (!decoder_cache_) return std::numeric_limits<int64_t>::max();
    const PagePool& pool = decoder_cache_->pool();
    return (pool.limit() - pool.bytes()) / pool.page_bytes() + static_cast<int64_t>(prefixes_.idle_pages());
}

int64_t GenerationBatch::bytes_needed(const GenerationInput& input) const {
    const auto positions = static_cast<int64_t>(tokens_needed(*backbone_, input));
    if (!backbone_->info().encoder_decoder) return cache_->bytes_for(positions, 0);
    return cache_->bytes_for(input.sampling.max_tokens, static_cast<int64_t>(prompt_positions(input)));
}

int64_t GenerationBatch::prefix_bytes() const {
    return decoder_cache_ ? static_cast<int64_t>(prefixes_.pages()) * decoder_cache_->pool().page_bytes() : 0;
}

std::vector<std::shared_ptr<GenerationRow>> GenerationBatch::step() {
    std::vector<std::shared_ptr<GenerationRow>> stepped = rows_;
    std::map<const Skillset*, std::vector<GenerationRow*>> groups;
    for (const auto& row : stepped) {
        row->piece.clear();
        const Skillset* skillset = row->input.skillset.get();
        groups[skillset && skillset->method().exclusive() ? skillset : nullptr].push_back(row.get());
    }
    for (const auto& [owner, rows] : groups) step_group(owner, rows);
    for (const auto& row : stepped)
        if (row->finished()) remove(*row);
    return stepped;
}

void GenerationBatch::step_group(const Skillset* owner, const std::vector<GenerationRow*>& rows) {
    try {
        forward(routings_[owner], rows);
    } catch (...) {
        // Nobody has advanced. One row may have spoiled it for all: alone, each shows whether it was the one.
        for (GenerationRow* row : rows) {
            try {
                forward(routings_[owner], {row});
            } catch (...) {
                row->error = std::current_exception();
                row->reason = FinishReason::failed;
            }
        }
    }
}

void GenerationBatch::forward(Routing& routing, const std::vector<GenerationRow*>& rows) {
    const at::NoGradGuard no_gradients;
    Batch batch;
    std::vector<int64_t> last;
    std::vector<int> lengths;
    ForwardOptions options;
    bool decoding = true;  // every row goes on by one token
    const bool encodes = backbone_->info().encoder_decoder;
    batch.row_begin.push_back(0);
    if (encodes) batch.source_begin.push_back(0);
    for (const GenerationRow* row : rows) {
        const auto prompt = static_cast<int64_t>(row->input.prompt.size());
        int32_t prompt_tokens = 0;
        if (row->read_ >= prompt && row->unread() == 1) {
            batch.tokens.push_back(row->tokens.back());
        } else {
            decoding = false;
            prompt_tokens = static_cast<int32_t>(std::max<int64_t>(prompt - row->read_, 0));
            if (encodes) {
                batch.source.insert(batch.source.end(), row->input.prompt.begin(), row->input.prompt.end());
                batch.tokens.push_back(backbone_->info().decoder_start);
                batch.tokens.insert(batch.tokens.end(), row->tokens.begin(), row->tokens.end());
            } else {
                const std::vector<int32_t> next = row->next_tokens();
                batch.tokens.insert(batch.tokens.end(), next.begin(), next.end());
            }
        }
        batch.prompt_length.push_back(prompt_tokens);
        batch.row_begin.push_back(batch.size());
        if (encodes) batch.source_begin.push_back(static_cast<int32_t>(batch.source.size()));
        last.push_back(batch.size() - 1);
        options.slots.push_back(row->slot_);
        lengths.push_back(cache_->length(row->slot_));
    }

    ran_merged_ = merged_ && std::all_of(rows.begin(), rows.end(), [&](const GenerationRow* row) {
                      return row->lora() == merged_->lora();
                  });
    options.cache = cache_.get();

    at::Tensor logits;
    std::vector<int32_t> chosen;  // by the device, where it can
    try {
        if (decoding) logits = graph_step(rows);
        if (!logits.defined()) {
            options.adaptation = adapt(routing, rows, batch, decoding);
            const at::Tensor hidden = backbone_->hidden(batch, options);
            logits = backbone_->logits(decoding ? hidden
                                                : hidden.index_select(0, device_list(last, hidden.device())));
        }
        if (samples_on_device(logits.device()))
            chosen = sample_on_device(logits, sampled_rows(rows));
        else
            logits = on_host(logits);
    } catch (...) {
        for (size_t b = 0; b < rows.size(); ++b)
            if (cache_->length(options.slots[b]) > lengths[b]) cache_->truncate(options.slots[b], lengths[b]);
        forget_device_errors(backbone_->device());  // the next forward's rows have nothing to do with them
        throw;
    }
    const auto vocab = static_cast<size_t>(logits.size(1));
    for (size_t b = 0; b < rows.size(); ++b) {
        GenerationRow& row = *rows[b];
        if (batch.prompt_length[b] > 0 && shares(row)) {
            const auto& pages = decoder_cache_->pages(row.slot_);
            prefixes_.insert(row.route(), row.input.prompt,
                             std::span(pages).first(row.input.prompt.size() / DecoderCache::page_tokens));
        }
        row.read_ += row.unread();
        row.begun_ = true;
        try {
            advance(row, chosen.empty()
                             ? pick_token({logits.const_data_ptr<float>() + b * vocab, vocab},
                                          row.input.sampling, row.input.prompt, row.tokens, row.random_)
                             : chosen[b]);
        } catch (...) {
            row.error = std::current_exception();
            row.reason = FinishReason::failed;
        }
    }
    trim_prefixes();
}

/// What the rows' skillsets do to a step; null = nothing.
Adaptation* GenerationBatch::adapt(Routing& routing, const std::vector<GenerationRow*>& rows,
                                   const Batch& batch, bool decoding) {
    if (ran_merged_) return merged_.get();
    const bool reuse = decoding && routing.adaptation && rows.size() == routing.rows.size() &&
                       std::equal(rows.begin(), rows.end(), routing.rows.begin());
    if (!reuse) {
        routing.rows.clear();
        std::vector<RowRoute> routes;
        for (size_t b = 0; b < rows.size(); ++b) {
            GenerationRow& row = *rows[b];
            routes.push_back({row.input.skillset.get(), row.lora(), row.input.task, &row.input.weights,
                              batch.prompt_length[b], &row.memory_, &row.input.intuition});
        }
        routing.adaptation = std::make_unique<MixedAdaptation>(routes, batch);
        if (decoding) routing.rows.assign(rows.begin(), rows.end());
    }
    return routing.adaptation->empty() ? nullptr : routing.adaptation.get();
}

/// Undefined where the step has to launch its kernels itself.
at::Tensor GenerationBatch::graph_step(const std::vector<GenerationRow*>& rows) {
    if (!graphs_) return {};
    std::vector<DecodeRow> steps;
    for (const GenerationRow* row : rows) {
        // What a method computes from the tokens is its own, and may wait for the device.
        if (row->input.skillset && !row->lora()) return {};
        steps.push_back({row->slot_, row->tokens.back(), row->lora() ? row->input.served.get() : nullptr,
                         row->input.task});
    }
    return graphs_->step(steps, ran_merged_ ? merged_ : nullptr);
}

std::vector<SampledRow> GenerationBatch::sampled_rows(const std::vector<GenerationRow*>& rows) {
    std::vector<SampledRow> out;
    for (GenerationRow* row : rows)
        out.push_back({&row->input.sampling, row->input.prompt, row->tokens, &row->random_});
    return out;
}

void GenerationBatch::advance(GenerationRow& row, int32_t id) {
    if (id < 0)
        fail(Code::numeric_error, "the model's logits are not finite numbers or leave no token to choose");
    const SamplingOptions& sampling = row.input.sampling;
    const auto& tokenizer = backbone_->tokenizer();
    if (!sampling.ignore_eos && tokenizer && id == tokenizer->eos_id()) {
        row.reason = FinishReason::end_token;
    } else {
        row.tokens.push_back(id);
        row.piece = row.text_.push(id);
        if (!row.text_.stopped() && static_cast<int>(row.tokens.size()) >= sampling.max_tokens)
            row.reason = FinishReason::max_tokens;
    }
    if (row.finished()) row.piece += row.text_.finish();
    if (row.text_.stopped()) row.reason = FinishReason::stop_string;
}

std::vector<Generated> generate(const std::shared_ptr<const Backbone>& backbone,
                                const std::vector<GenerationInput>& inputs, int max_batch,
                                const std::atomic<bool>* cancelled) {
    if (max_batch < 1)
        fail(Code::invalid_argument, "max_batch: ", max_batch, " is out of range, allowed: 1 or more");
    std::vector<Generated> out(inputs.size());
    if (inputs.empty()) return out;
    const auto limit = static_cast<int>(std::min<int64_t>(backbone->info().context, 1 << 20));
    size_t capacity = 1;
    for (size_t i = 0; i < inputs.size(); ++i) {
        check_input(*backbone, inputs[i], limit);
        capacity = std::max(capacity, tokens_needed(*backbone, inputs[i]));
    }
    const int slots = static_cast<int>(std::min<size_t>(inputs.size(), static_cast<size_t>(max_batch)));
    GenerationBatch batch(backbone, slots, static_cast<int>(capacity));
    std::vector<std::pair<std::shared_ptr<GenerationRow>, size_t>> running;
    for (size_t next = 0; next < inputs.size() || !running.empty();) {
        if (cancelled && *cancelled) fail(Code::cancelled, "generation was cancelled");
        size_t prompt_tokens = 0;
        while (next < inputs.size() && batch.free_slots() > 0 && prompt_tokens < prompt_tokens_per_step) {
            auto row = std::make_shared<GenerationRow>(*backbone, inputs[next]);
            prompt_tokens += row->input.prompt.size();
            batch.add(row);
            running.emplace_back(std::move(row), next++);
        }
        batch.step();
        std::erase_if(running, [&](const auto& entry) {
            const auto& [row, index] = entry;
            out[index].text += row->piece;
            if (!row->finished()) return false;
            if (row->error) std::rethrow_exception(row->error);
            out[index].tokens = std::move(row->tokens);
            out[index].reason = row->reason;
            return true;
        });
    }
    return out;
}

}  // namespace polyad
