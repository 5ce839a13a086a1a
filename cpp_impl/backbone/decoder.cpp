// SPDX-License-Identifier: Apache-2.0
#include "backbone/decoder.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <tuple>

#include "backbone/adapted_block.h"
#include "backbone/batch_checks.h"
#include "backbone/decode_step.h"
#include "backbone/device.h"
#include "backbone/kv_cache.h"
#include "backbone/output_head.h"
#include "base/error.h"

namespace polyad {

struct Decoder::Pass {
    const ForwardOptions& options;
    RowBegin rows;
    std::shared_ptr<const AttentionPlan> plan;
    DecoderCache* cache = nullptr;
    std::shared_ptr<const PastRows> past = nullptr;  ///< in the cache
    int copy = 0;                                    ///< of the layer that runs
    int64_t made_again = 0;                          ///< layers below it keep no gate and up

    /// A trained gain, or the frozen one.
    at::Tensor gain(const Norm& norm) const { return trained_or(options.adaptation, norm.path, norm.gain); }
};

namespace {

DecoderCache* checked_cache(const Batch& batch, const ForwardOptions& options) {
    if (!options.cache) return nullptr;
    auto* cache = dynamic_cast<DecoderCache*>(options.cache);
    if (!cache) fail(Code::invalid_argument, "the cache was made by another kind of backbone");
    check_slots(batch, options);
    return cache;
}

}  // namespace

at::Tensor Decoder::embed(const std::vector<int32_t>& tokens) const {
    check_tokens(tokens, config_.vocab);
    return embedding_->gather(tokens);
}

at::Tensor Decoder::logits(const at::Tensor& hidden) const {
    return head_logits(hidden, head_);
}

at::Tensor Decoder::token_nll(const at::Tensor& hidden, const std::vector<int32_t>& targets,
                              double label_smoothing) const {
    return head_nll(hidden, *head_, targets, label_smoothing);
}

std::unique_ptr<KvCache> Decoder::make_cache(int slots, int capacity) const {
    if (config_.context > 0 && capacity > config_.context)
        fail(Code::context_overflow, "a cache of ", capacity,
             " tokens per row is more than the model's context of ", config_.context);
    return std::make_unique<DecoderCache>(config_.layers, slots, capacity, config_.kv_width(), dtype_,
                                          device_);
}

void Decoder::make_room(const Pass& pass) const {
    for (size_t b = 0; b + 1 < pass.rows.size(); ++b) {
        const int past = pass.cache->length(pass.options.slots[b]), more = pass.rows[b + 1] - pass.rows[b];
        if (more > pass.cache->capacity() - past)
            fail(Code::context_overflow, "row ", b, ": ", past, " cached and ", more,
                 " new tokens are more than the cache's capacity of ", pass.cache->capacity());
        if (!pass.cache->reserve(pass.options.slots[b], more))
            fail(Code::out_of_memory, "row ", b, ": no cache memory for ", more,
                 " more tokens: ", pass.cache->pool().refusal());
    }
}

at::Tensor Decoder::frozen_product(const std::string& path, const at::Tensor& x) const {
    const auto site =
        std::find_if(sites_.begin(), sites_.end(), [&](const Site& s) { return s.path == path; });
    if (site == sites_.end()) return {};
    const at::NoGradGuard no_grad;
    const Linear& linear = layers_[static_cast<size_t>(site->index / places)].linear[site->index % places];
    return linear.weight->multiply(x.detach().to(dtype_).contiguous()).to(at::kFloat);
}

bool Decoder::shares_beginnings() const {
    return ops_on(device_).tree_attention != nullptr;
}

void Decoder::check_shared(const Batch& batch, const ForwardOptions& options) const {
    if (batch.parent.empty()) return;
    if (static_cast<int>(batch.parent.size()) != batch.rows())
        fail(Code::invalid_argument, "parent has ", batch.parent.size(), " entries for ", batch.rows(),
             " rows");
    for (int b = 0; b < batch.rows(); ++b)
        if (const int32_t parent = batch.parent[static_cast<size_t>(b)]; parent < -1 || parent >= b)
            fail(Code::invalid_argument, "row ", b, " goes on from row ", parent,
                 "; allowed: an earlier row, or -1");
    if (!shares_beginnings() || options.cache)
        fail(Code::unsupported, "rows that share beginnings: not ",
             options.cache ? "with a cache" : "on this device");
}

int64_t Decoder::wide_bytes(int64_t tokens) const {
    return 2 * config_.ffn * static_cast<int64_t>(at::elementSize(dtype_)) * tokens;
}

int64_t Decoder::spared_bytes(int64_t tokens) const {
    return config_.layers * 2 / 3 * wide_bytes(tokens);
}

int64_t Decoder::layers_made_again(int64_t tokens, int64_t activation_bytes) const {
    if (activation_bytes <= 0) return 0;
    const auto element = static_cast<int64_t>(at::elementSize(dtype_));
    const int64_t wide = wide_bytes(tokens);
    // Both sums of the residual stream, q, k, v and the attention's output.
    const int64_t rest =
        (2 * config_.width + 2 * config_.q_width() + 2 * config_.kv_width()) * element * tokens;
    const int64_t over = config_.layers * (wide + rest) - activation_bytes;
    return over <= 0 ? 0 : std::min(config_.layers, (over + wide - 1) / wide);
}

std::unique_ptr<DecodeStep> Decoder::make_decode_step(int rows, int keys, Recorder& recorder) const {
    if (head_->uses_scratch(rows)) return nullptr;
    for (const Layer& layer : layers_)
        for (const Linear& linear : layer.linear)
            if (linear.weight->uses_scratch(rows)) return nullptr;
    const std::vector<int32_t> past(static_cast<size_t>(rows), keys - 1);
    RowBegin begin{0};
    while (begin.back() < rows) begin.push_back(begin.back() + 1);
    return std::make_unique<DecodeStep>(plan_attention(begin, {}, &past), past, device_, recorder);
}

std::shared_ptr<const AttentionPlan> Decoder::plan_attention(const RowBegin& rows,
                                                             const std::vector<int32_t>& parent,
                                                             const std::vector<int32_t>* past_lengths) const {
    auto plan = std::make_shared<AttentionPlan>();
    plan->heads = config_.heads;
    plan->heads_kv = config_.kv_heads;
    plan->head_dim = config_.head_dim;
    plan->scale = 1.0 / std::sqrt(static_cast<double>(config_.head_dim));
    plan->query_begin = rows;
    plan->parent = parent;
    int32_t longest = 0;
    for (size_t b = 0; b + 1 < rows.size(); ++b) {
        int32_t past = past_lengths ? (*past_lengths)[b] : 0;
        if (!parent.empty() && parent[b] >= 0) past = plan->key_count[static_cast<size_t>(parent[b])];
        const int32_t keys = past + rows[b + 1] - rows[b];
        if (config_.context > 0 && keys > config_.context)
            fail(Code::context_overflow, "row ", b, " has ", keys, " tokens; the model's context is ",
                 config_.context);
        plan->key_count.push_back(keys);
        for (int32_t p = past; p < keys; ++p) plan->position.push_back(p);
        longest = std::max(longest, keys);
    }
    plan->rope = rope_->table(longest);
    return plan;
}

PlacedLinear Decoder::placed(int64_t layer, Place place) const {
    return {&sites_[static_cast<size_t>(layer * places + place)],
            &layers_[static_cast<size_t>(layer)].linear[place]};
}

std::vector<at::Tensor> Decoder::linears(const Pass& pass, int64_t layer, std::initializer_list<Place> chosen,
                                         const at::Tensor& x, std::function<at::Tensor()> recompute,
                                         Replay* replay) const {
    std::vector<PlacedLinear> linears;
    for (const Place place : chosen) linears.push_back(placed(layer, place));
    return site_linears(pass.options.adaptation, linears, x, pass.rows, std::move(recompute), replay);
}

at::Tensor Decoder::attend(const Pass& pass, int64_t layer, const at::Tensor& h,
                           std::function<at::Tensor()> again) const {
    const Layer& weights = layers_[static_cast<size_t>(layer)];
    const auto qkv = linears(pass, layer, {q_proj, k_proj, v_proj}, h, std::move(again));
    at::Tensor q = qkv[0], k = qkv[1];
    if (config_.qk_norm) {
        q = rms_norm(q, pass.gain(weights.q_norm), config_.norm_eps, pass.rows);
        k = rms_norm(k, pass.gain(weights.k_norm), config_.norm_eps, pass.rows);
    }
    std::optional<PastKeys> past;
    if (pass.cache) past = pass.cache->past_keys(layer, pass.past, pass.options.slots, pass.copy);
    const at::Tensor o =
        rotary_attention(q, k, qkv[2], pass.plan, config_.window(layer), past ? &*past : nullptr);
    return linears(pass, layer, {o_proj}, o)[0];
}

std::pair<at::Tensor, at::Tensor> Decoder::gated_ffn(const Pass& pass, int64_t layer, const at::Tensor& h,
                                                     std::function<at::Tensor()> again) const {
    Replay replay;
    const bool made_again = layer < pass.made_again;
    const auto gate_up =
        linears(pass, layer, {gate_proj, up_proj}, h, std::move(again), made_again ? &replay : nullptr);
    const auto kept = std::make_shared<GateUp>(gate_up[0], gate_up[1], std::move(replay));
    const at::Tensor activation = swiglu(gate_up[0], gate_up[1], kept);
    // gate and up are kept, or made again, anyway; their product is cheaper made again than kept.
    return {linears(pass, layer, {down_proj}, activation, [kept] { return kept->product(); })[0], activation};
}

at::Tensor Decoder::spread_ffn(const Pass& pass, int64_t layer, const at::Tensor& h, Spread spread,
                               std::function<at::Tensor()> again) const {
    Adaptation& adaptation = *pass.options.adaptation;
    const auto plan = std::make_shared<const SpreadPlan>(std::move(spread), h.size(0));
    Replay replay;
    const auto gate_up = spread_linears(adaptation, {placed(layer, gate_proj), placed(layer, up_proj)}, h,
                                        plan, std::move(again), layer < pass.made_again ? &replay : nullptr);
    const auto kept = std::make_shared<GateUp>(gate_up[0], gate_up[1], std::move(replay));
    return joined_linear(adaptation, placed(layer, down_proj), swiglu(gate_up[0], gate_up[1], kept), plan,
                         [kept] { return kept->product(); });
}

at::Tensor Decoder::feed_forward(const Pass& pass, int64_t layer, const at::Tensor& h,
                                 std::function<at::Tensor()> again) const {
    Adaptation* adaptation = pass.options.adaptation;
    const int l = static_cast<int>(layer);
    if (adaptation)
        if (std::optional<Spread> spread = adaptation->spread(l, h))
            return spread_ffn(pass, layer, h, std::move(*spread), std::move(again));
    auto [y, u] = gated_ffn(pass, layer, h, std::move(again));
    if (!adaptation) return y;
    const at::Tensor changed = adaptation->feed_forward(l, u, y);
    return changed.is_same(y) ? y : changed.clone();  // add_rms_norm takes its storage; others may keep it
}

std::pair<at::Tensor, at::Tensor> Decoder::layer_parts(const Pass& pass, int64_t layer, const at::Tensor& x,
                                                       const at::Tensor& h) const {
    // What a norm reads is kept for its own backward pass: its output need not be.
    const auto normed_again = [&](const at::Tensor& stream, const at::Tensor& gain) {
        const bool of_rows = gain.dim() == 2;
        return [stream = stream.detach(), gain = gain.detach(), eps = config_.norm_eps,
                rows = of_rows ? pass.rows : RowBegin()] { return rms_norm(stream, gain, eps, rows); };
    };
    const Layer& weights = layers_[static_cast<size_t>(layer)];
    const at::Tensor gain = pass.gain(weights.post_norm);
    const auto [sum, normed] =
        add_rms_norm(x, attend(pass, layer, h, normed_again(x, pass.gain(weights.input_norm))), gain,
                     config_.norm_eps, pass.rows);
    return {sum, feed_forward(pass, layer, normed, normed_again(sum, gain))};
}

at::Tensor Decoder::run_copies(Pass& pass, int64_t layer, int copies, const at::Tensor& x) const {
    const int l = static_cast<int>(layer);
    Adaptation& adaptation = *pass.options.adaptation;
    const auto run = [&](const Pass& some, const at::Tensor& in) {
        const at::Tensor h = rms_norm(in, some.gain(layers_[static_cast<size_t>(layer)].input_norm),
                                      config_.norm_eps, some.rows);
        const auto [sum, delta] = layer_parts(some, layer, in, h);
        return sum + delta;
    };
    std::vector<at::Tensor> outputs;
    for (pass.copy = 0; pass.copy < copies; ++pass.copy) {
        const auto part = adaptation.copy_part(l, pass.copy);
        if (part && part->empty()) {
            outputs.emplace_back();
            continue;
        }
        adaptation.enter(l, pass.copy);
        if (!part) {
            outputs.push_back(run(pass, x));
            continue;
        }
        ForwardOptions options = pass.options;
        options.slots.clear();
        Pass some{options, {0}, nullptr, pass.cache, nullptr, pass.copy, pass.made_again};
        std::vector<int64_t> positions;
        for (const int64_t row : *part) {
            const auto b = static_cast<size_t>(row);
            for (int32_t n = pass.rows[b]; n < pass.rows[b + 1]; ++n) positions.push_back(n);
            some.rows.push_back(static_cast<int32_t>(positions.size()));
            if (pass.cache) options.slots.push_back(pass.options.slots[b]);
        }
        if (pass.cache) some.past = pass.cache->past(options.slots);
        some.plan = plan_attention(some.rows, {}, some.past ? &some.past->length : nullptr);
        outputs.push_back(run(some, x.index_select(0, device_list(positions, device_))));
    }
    pass.copy = 0;
    return adaptation.join(l, outputs);
}

at::Tensor Decoder::hidden(const Batch& batch, const ForwardOptions& options) const {
    check_rows(batch);
    if (!batch.source.empty())
        fail(Code::invalid_argument, "the batch has a source, but '", info_.name,
             "' has no encoder to read it");
    check_shared(batch, options);
    Pass pass{options, batch.row_begin, nullptr, checked_cache(batch, options)};
    if (pass.cache && !pass.cache->fits(config_.layers, config_.kv_width(), dtype_, device_))
        fail(Code::invalid_argument, "the cache was made by another backbone");
    std::optional<at::NoGradGuard> no_grad;  // nothing can flow back into a past that was computed before
    if (pass.cache) no_grad.emplace();
    Adaptation* adaptation = options.adaptation;
    if (adaptation) adaptation->begin(*this, batch, options);

    at::Tensor x;
    if (options.step) {
        x = embedding_->gather_by(options.step->tokens());
    } else if (options.embeddings.defined()) {
        if (options.embeddings.dim() != 2 || options.embeddings.size(0) != batch.size() ||
            options.embeddings.size(1) != config_.width)
            fail(Code::invalid_argument, "embeddings are [", batch.size(), ", ", config_.width,
                 "] for this batch");
        x = options.embeddings.to(dtype_);
    } else {
        x = embed(batch.tokens);
    }
    const std::optional<Prefixed> prefixed = put_prefix(adaptation, x, batch.row_begin);
    if (prefixed) {
        if (!batch.parent.empty())
            fail(Code::unsupported, "rows with a trained prefix cannot share a beginning");
        x = prefixed->embeddings;
        pass.rows = prefixed->row_begin;
    }
    if (options.step) {
        POLYAD_CHECK(pass.cache && !prefixed && batch.rows() == options.step->rows());
        pass.plan = options.step->plan();
        pass.past = options.step->past();
    } else {
        if (pass.cache) {
            make_room(pass);
            pass.past = pass.cache->past(options.slots);
        }
        pass.plan = plan_attention(pass.rows, batch.parent, pass.past ? &pass.past->length : nullptr);
    }
    pass.made_again = layers_made_again(x.size(0), options.activation_bytes);
    if (options.trace) options.trace->push_back(x);

    const auto norm_before = [&](int64_t layer) {
        return pass.gain(layer == config_.layers ? final_norm_
                                                 : layers_[static_cast<size_t>(layer)].input_norm);
    };
    at::Tensor h = rms_norm(x, norm_before(0), config_.norm_eps, pass.rows);
    for (int64_t l = 0; l < config_.layers; ++l) {
        const int copies = adaptation ? adaptation->copies(static_cast<int>(l), x) : 0;
        if (copies > 0) {
            if (!batch.parent.empty())
                fail(Code::unsupported, "rows that share a beginning cannot run copies of a layer");
            x = run_copies(pass, l, copies, x);
            h = rms_norm(x, norm_before(l + 1), config_.norm_eps, pass.rows);
        } else {
            const auto [sum, delta] = layer_parts(pass, l, x, h);
            std::tie(x, h) = add_rms_norm(sum, delta, norm_before(l + 1), config_.norm_eps, pass.rows);
        }
        if (options.trace) options.trace->push_back(x);
    }
    if (pass.cache && !options.step)
        for (size_t b = 0; b + 1 < pass.rows.size(); ++b)
            pass.cache->grow(options.slots[b], pass.rows[b + 1] - pass.rows[b]);
    if (prefixed) h = h.index_select(0, device_list(prefixed->own, device_));
    return h;
}

}  // namespace polyad
