// SPDX-License-Identifier: Apache-2.0
#include "backbone/encoder_decoder.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>

#include <cmath>
#include <map>
#include <utility>

#include "backbone/activation.h"
#include "backbone/batch_checks.h"
#include "backbone/device.h"
#include "backbone/encoder_decoder_cache.h"
#include "backbone/output_head.h"
#include "base/error.h"

namespace polyad {

struct EncoderDecoder::Pass {
    const ForwardOptions& options;
    const Stack& stack;
    RowBegin rows;
    std::vector<int32_t> past;       ///< [rows] tokens of the stack before each row's
    std::vector<at::Tensor> scores;  ///< [rows] added in self-attention
    EncoderDecoderCache* cache = nullptr;
    // Decoder only: the encoder's states of the rows that brought their source.
    at::Tensor memory;
    RowBegin memory_rows;
    int copy = 0;  ///< of the layer that runs

    size_t row_count() const { return rows.size() - 1; }
    int32_t row_length(size_t b) const { return rows[b + 1] - rows[b]; }
    std::vector<int32_t> positions() const {
        std::vector<int32_t> out;
        for (size_t b = 0; b < row_count(); ++b)
            for (int32_t i = 0; i < row_length(b); ++i) out.push_back(past[b] + i);
        return out;
    }
};

at::Tensor EncoderDecoder::embed(const std::vector<int32_t>& tokens) const {
    check_tokens(tokens, config_.vocab);
    const at::Tensor x = embedding_->gather(tokens);
    return config_.scale_embedding ? x.mul(std::sqrt(static_cast<double>(config_.width))) : x;
}

at::Tensor EncoderDecoder::logits(const at::Tensor& hidden) const {
    return head_logits(head_scale() == 1.0 ? hidden : hidden.mul(head_scale()), head_, head_bias_);
}

at::Tensor EncoderDecoder::token_nll(const at::Tensor& hidden, const std::vector<int32_t>& targets,
                                     double label_smoothing) const {
    return head_nll(head_scale() == 1.0 ? hidden : hidden.mul(head_scale()), *head_, targets, label_smoothing,
                    head_bias_);
}

std::unique_ptr<KvCache> EncoderDecoder::make_cache(int slots, int capacity) const {
    if (capacity > info_.context)
        fail(Code::context_overflow, "a cache of ", capacity,
             " tokens per row is more than the model's context of ", info_.context);
    return std::make_unique<EncoderDecoderCache>(config_.decoder_layers, slots, capacity,
                                                 decoder_.shape.heads * decoder_.shape.head_dim, dtype_,
                                                 device_);
}

EncoderDecoderCache* EncoderDecoder::checked_cache(const Batch& batch, const ForwardOptions& options) const {
    if (!options.cache) return nullptr;
    auto* cache = dynamic_cast<EncoderDecoderCache*>(options.cache);
    if (!cache) fail(Code::invalid_argument, "the cache was made by another kind of backbone");
    if (!cache->fits(config_.decoder_layers, decoder_.shape.heads * decoder_.shape.head_dim, dtype_, device_))
        fail(Code::invalid_argument, "the cache was made by another backbone");
    check_slots(batch, options);
    return cache;
}

void EncoderDecoder::check_source(const Batch& batch, const ForwardOptions& options,
                                  const EncoderDecoderCache* cache) const {
    const auto rows = static_cast<size_t>(batch.rows());
    if (batch.source_begin.empty()
            ? !batch.source.empty()
            : batch.source_begin.size() != rows + 1 || batch.source_begin.front() != 0 ||
                  batch.source_begin.back() != static_cast<int32_t>(batch.source.size()))
        fail(Code::invalid_argument, "source_begin does not run over the batch's ", rows,
             " rows from 0 to its ", batch.source.size(), " source tokens");
    for (size_t b = 0; b < rows; ++b) {
        const int32_t length = batch.source_begin.empty() ? 0 : batch.source_length(static_cast<int>(b));
        if (length < 0) fail(Code::invalid_argument, "source_begin decreases at row ", b);
        const bool kept = cache && cache->length(options.slots[b]) > 0;
        if (length == 0 && !(kept && cache->has_source(options.slots[b])))
            fail(Code::invalid_argument, "row ", b, " has no source: '", info_.name,
                 "' is an encoder-decoder, its encoder needs at least one token");
        if (length > 0 && kept)
            fail(Code::invalid_argument, "row ", b, " brings a source, but cache slot ", options.slots[b],
                 " goes on with one already: empty the slot first");
    }
}

void EncoderDecoder::check_lengths(const Pass& pass) const {
    for (size_t b = 0; b < pass.row_count(); ++b) {
        const int64_t all = int64_t{pass.past[b]} + pass.row_length(b);
        if (all > info_.context)
            fail(Code::context_overflow, "row ", b, " has ", all, pass.stack.decoder ? " " : " source ",
                 "tokens; the model's context is ", info_.context);
        if (pass.cache && all > pass.cache->capacity())
            fail(Code::context_overflow, "row ", b, ": ", pass.past[b], " cached and ", pass.row_length(b),
                 " new tokens are more than the cache's capacity of ", pass.cache->capacity());
    }
}

std::vector<at::Tensor> EncoderDecoder::linears(const Pass& pass, const std::vector<const Place*>& places,
                                                const at::Tensor& x, const RowBegin& rows) const {
    std::vector<PlacedLinear> linears;
    for (const Place* place : places) linears.push_back(placed(*place));
    return site_linears(pass.options.adaptation, linears, x, rows);
}

at::Tensor EncoderDecoder::self_attention(const Pass& pass, int64_t layer, const at::Tensor& h) const {
    const Attention& attention = pass.stack.layers[static_cast<size_t>(layer)].self;
    const auto qkv = linears(pass, {&attention.q, &attention.k, &attention.v}, h, pass.rows);
    std::vector<RowKeys> keys;
    for (size_t b = 0; b < pass.row_count(); ++b) {
        RowKeys own{qkv[1].slice(0, pass.rows[b], pass.rows[b + 1]),
                    qkv[2].slice(0, pass.rows[b], pass.rows[b + 1])};
        keys.push_back(pass.cache ? pass.cache->append(layer, pass.copy, pass.options.slots[b], own.k, own.v)
                                  : std::move(own));
    }
    const at::Tensor o = biased_attention(qkv[0], pass.rows, keys, pass.scores, pass.stack.shape);
    return linears(pass, {&attention.o}, o, pass.rows)[0];
}

at::Tensor EncoderDecoder::cross_attention(const Pass& pass, int64_t layer, const at::Tensor& h) const {
    const Attention& attention = *pass.stack.layers[static_cast<size_t>(layer)].cross;
    const at::Tensor q = linears(pass, {&attention.q}, h, pass.rows)[0];
    std::vector<at::Tensor> kv;
    if (pass.memory.defined())
        kv = linears(pass, {&attention.k, &attention.v}, pass.memory, pass.memory_rows);
    std::vector<RowKeys> keys;
    for (size_t b = 0; b < pass.row_count(); ++b) {
        if (!pass.memory.defined() || pass.memory_rows[b] == pass.memory_rows[b + 1]) {
            keys.push_back(pass.cache->source(layer, pass.copy, pass.options.slots[b]));
            continue;
        }
        keys.push_back({kv[0].slice(0, pass.memory_rows[b], pass.memory_rows[b + 1]),
                        kv[1].slice(0, pass.memory_rows[b], pass.memory_rows[b + 1])});
        if (pass.cache) pass.cache->set_source(layer, pass.copy, pass.options.slots[b], keys.back());
    }
    const at::Tensor o =
        biased_attention(q, pass.rows, keys, std::vector<at::Tensor>(pass.row_count()), pass.stack.shape);
    return linears(pass, {&attention.o}, o, pass.rows)[0];
}

at::Tensor EncoderDecoder::gated(const std::vector<at::Tensor>& inner) const {
    const at::Tensor u = activate(config_.activation, inner[0]);
    return inner.size() > 1 ? u * inner[1] : u;
}

std::pair<at::Tensor, at::Tensor> EncoderDecoder::ffn(const Pass& pass, int64_t layer,
                                                      const at::Tensor& h) const {
    const Layer& weights = pass.stack.layers[static_cast<size_t>(layer)];
    std::vector<const Place*> in;
    for (const Place& place : weights.ffn_in) in.push_back(&place);
    const auto inner = linears(pass, in, h, pass.rows);
    const at::Tensor u = gated(inner);
    return {linears(pass, {&weights.ffn_out}, u, pass.rows)[0], u};
}

at::Tensor EncoderDecoder::spread_ffn(const Pass& pass, int64_t layer, const at::Tensor& h,
                                      Spread spread) const {
    Adaptation& adaptation = *pass.options.adaptation;
    const Layer& weights = pass.stack.layers[static_cast<size_t>(layer)];
    const auto plan = std::make_shared<const SpreadPlan>(std::move(spread), h.size(0));
    std::vector<PlacedLinear> in;
    for (const Place& place : weights.ffn_in) in.push_back(placed(place));
    const auto inner = spread_linears(adaptation, in, h, plan);
    return joined_linear(adaptation, placed(weights.ffn_out), gated(inner), plan);
}

at::Tensor EncoderDecoder::feed_forward(const Pass& pass, int64_t layer, const at::Tensor& h) const {
    Adaptation* adaptation = pass.options.adaptation;
    const int l = static_cast<int>(pass.stack.first_layer + layer);
    if (adaptation)
        if (std::optional<Spread> spread = adaptation->spread(l, h))
            return spread_ffn(pass, layer, h, std::move(*spread));
    const auto [y, u] = ffn(pass, layer, h);
    return adaptation ? adaptation->feed_forward(l, u, y) : y;
}

at::Tensor EncoderDecoder::run_layer(const Pass& pass, int64_t layer, const at::Tensor& x) const {
    const Layer& weights = pass.stack.layers[static_cast<size_t>(layer)];
    Adaptation* adaptation = pass.options.adaptation;
    at::Tensor out = around(adaptation, weights.self.norm, x,
                            [&](const at::Tensor& h) { return self_attention(pass, layer, h); });
    if (weights.cross)
        out = around(adaptation, weights.cross->norm, out,
                     [&](const at::Tensor& h) { return cross_attention(pass, layer, h); });
    return around(adaptation, weights.ffn_norm, out,
                  [&](const at::Tensor& h) { return feed_forward(pass, layer, h); });
}

at::Tensor EncoderDecoder::run_copies(Pass& pass, int64_t layer, int copies, const at::Tensor& x) const {
    Adaptation& adaptation = *pass.options.adaptation;
    const int number = static_cast<int>(pass.stack.first_layer + layer);
    std::vector<at::Tensor> outputs;
    for (pass.copy = 0; pass.copy < copies; ++pass.copy) {
        const auto part = adaptation.copy_part(number, pass.copy);
        if (part && part->empty()) {
            outputs.emplace_back();
            continue;
        }
        adaptation.enter(number, pass.copy);
        if (!part) {
            outputs.push_back(run_layer(pass, layer, x));
            continue;
        }
        ForwardOptions options = pass.options;
        options.slots.clear();
        Pass some{options, pass.stack, {0}, {}, {}, pass.cache, {}, {}, pass.copy};
        std::vector<int64_t> positions, memory_positions;
        if (pass.memory.defined()) some.memory_rows = {0};
        for (const int64_t row : *part) {
            const auto b = static_cast<size_t>(row);
            for (int32_t n = pass.rows[b]; n < pass.rows[b + 1]; ++n) positions.push_back(n);
            some.rows.push_back(static_cast<int32_t>(positions.size()));
            some.past.push_back(pass.past[b]);
            some.scores.push_back(pass.scores[b]);
            if (pass.cache) options.slots.push_back(pass.options.slots[b]);
            if (!pass.memory.defined()) continue;
            for (int32_t n = pass.memory_rows[b]; n < pass.memory_rows[b + 1]; ++n)
                memory_positions.push_back(n);
            some.memory_rows.push_back(static_cast<int32_t>(memory_positions.size()));
        }
        if (!memory_positions.empty())
            some.memory = pass.memory.index_select(0, device_list(memory_positions, device_));
        const at::Tensor in = x.index_select(0, device_list(positions, device_));
        outputs.push_back(positions.empty() ? in : run_layer(some, layer, in));  // rows without a source
    }
    pass.copy = 0;
    return adaptation.join(number, outputs);
}

at::Tensor EncoderDecoder::run_stack(Pass& pass, at::Tensor x) const {
    Adaptation* adaptation = pass.options.adaptation;
    std::map<std::pair<int32_t, int32_t>, at::Tensor> known;  // rows of one length share their scores
    for (size_t b = 0; b < pass.row_count(); ++b) {
        const int32_t past = pass.past[b], n = pass.row_length(b);
        const auto [entry, fresh] = known.try_emplace({past, n});
        if (fresh && n > 0) {
            at::Tensor& score = entry->second;
            score = position_score(pass.stack, past, n);
            if (pass.stack.decoder && n > 1)
                score =
                    score.defined() ? score + causal_score(past, n, device_) : causal_score(past, n, device_);
        }
        pass.scores.push_back(entry->second);
    }
    x = enter(pass.stack, adaptation, x, pass.positions());
    if (pass.options.trace) pass.options.trace->push_back(x);
    for (size_t l = 0; l < pass.stack.layers.size(); ++l) {
        const auto layer = static_cast<int64_t>(l);
        const int number = static_cast<int>(pass.stack.first_layer + layer);
        const int copies = adaptation ? adaptation->copies(number, x) : 0;
        x = copies > 0 ? run_copies(pass, layer, copies, x) : run_layer(pass, layer, x);
        if (pass.options.trace) pass.options.trace->push_back(x);
    }
    return leave(pass.stack, adaptation, x);
}

at::Tensor EncoderDecoder::hidden(const Batch& batch, const ForwardOptions& options) const {
    check_rows(batch);
    EncoderDecoderCache* cache = checked_cache(batch, options);
    check_source(batch, options, cache);
    std::optional<at::NoGradGuard> no_grad;  // nothing can flow back into a past that was computed before
    if (cache) no_grad.emplace();
    Adaptation* adaptation = options.adaptation;
    if (adaptation) adaptation->begin(*this, batch, options);

    const auto sources = static_cast<int64_t>(batch.source.size());
    at::Tensor source, tokens;
    if (options.embeddings.defined()) {
        const at::Tensor& given = options.embeddings;
        const int64_t both = sources + batch.size();
        if (given.dim() != 2 || given.size(1) != config_.width ||
            (given.size(0) != batch.size() && given.size(0) != both))
            fail(Code::invalid_argument, "embeddings are [", batch.size(), ", ", config_.width,
                 "] for the decoder of this batch, or [", both, ", ", config_.width, "] for its source, too");
        tokens = given.slice(0, given.size(0) - batch.size()).to(dtype_);
        if (given.size(0) == both) source = given.slice(0, 0, sources).to(dtype_);
    }
    Pass decoding{options, decoder_, batch.row_begin, {}, {}, cache, {}, {}};
    for (size_t b = 0; b < decoding.row_count(); ++b)
        decoding.past.push_back(cache ? cache->length(options.slots[b]) : 0);
    check_lengths(decoding);

    if (sources > 0) {
        if (!source.defined()) source = embed(batch.source);
        Pass reading{options, encoder_, batch.source_begin, {}, {}, nullptr, {}, {}};
        if (const std::optional<Prefixed> prefixed = put_prefix(adaptation, source, reading.rows)) {
            source = prefixed->embeddings;
            reading.rows = prefixed->row_begin;
        }
        reading.past.assign(reading.row_count(), 0);
        check_lengths(reading);
        decoding.memory = run_stack(reading, source);
        decoding.memory_rows = reading.rows;
        if (adaptation) adaptation->encoded(decoding.memory);
    }
    if (!tokens.defined()) tokens = embed(batch.tokens);
    const at::Tensor h = run_stack(decoding, tokens);
    if (cache)
        for (size_t b = 0; b < decoding.row_count(); ++b)
            cache->commit(options.slots[b], decoding.row_length(b));
    return h;
}

}  // namespace polyad
