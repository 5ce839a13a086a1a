// SPDX-License-Identifier: Apache-2.0
#include "backbone/decoder.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <tuple>

#include "backbone/kv_cache.h"
#include "backbone/output_head.h"
#include "base/error.h"

namespace polyad {

struct Decoder::Pass {
    const ForwardOptions& options;
    RowBegin rows;
    std::shared_ptr<const AttentionPlan> plan;
    DecoderCache* cache = nullptr;
};

namespace {

void check_rows(const Batch& batch) {
    if (batch.row_begin.empty() || batch.row_begin.front() != 0 || batch.row_begin.back() != batch.size())
        fail(Code::invalid_argument, "row_begin does not run from 0 to the batch's ", batch.size(),
             " tokens");
    for (int b = 0; b < batch.rows(); ++b)
        if (batch.row_length(b) < 1) fail(Code::invalid_argument, "row ", b, " of the batch is empty");
}

void check_tokens(const std::vector<int32_t>& tokens, int64_t vocab) {
    for (size_t i = 0; i < tokens.size(); ++i)
        if (tokens[i] < 0 || tokens[i] >= vocab)
            fail(Code::invalid_argument, "token id ", tokens[i], " at position ", i,
                 " is outside the vocabulary [0, ", vocab, ")");
}

DecoderCache* checked_cache(const Batch& batch, const ForwardOptions& options) {
    if (!options.cache) return nullptr;
    auto* cache = dynamic_cast<DecoderCache*>(options.cache);
    if (!cache) fail(Code::invalid_argument, "the cache was made by another kind of backbone");
    if (static_cast<int>(options.slots.size()) != batch.rows())
        fail(Code::invalid_argument, options.slots.size(), " cache slots for ", batch.rows(), " rows");
    std::vector<int> sorted = options.slots;
    std::sort(sorted.begin(), sorted.end());
    const auto twice = std::adjacent_find(sorted.begin(), sorted.end());
    if (twice != sorted.end()) fail(Code::invalid_argument, "cache slot ", *twice, " is named by two rows");
    for (int b = 0; b < batch.rows(); ++b) {
        const int slot = options.slots[static_cast<size_t>(b)], past = cache->length(slot);
        if (batch.row_length(b) > cache->capacity() - past)
            fail(Code::context_overflow, "row ", b, ": ", past, " cached and ", batch.row_length(b),
                 " new tokens are more than the cache's capacity of ", cache->capacity());
    }
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
    return std::make_unique<DecoderCache>(config_.layers, slots, capacity, config_.kv_width(), dtype_);
}

std::shared_ptr<const AttentionPlan> Decoder::plan_attention(const Batch& batch,
                                                             const ForwardOptions& options) const {
    auto plan = std::make_shared<AttentionPlan>();
    plan->heads = config_.heads;
    plan->heads_kv = config_.kv_heads;
    plan->head_dim = config_.head_dim;
    plan->scale = 1.0 / std::sqrt(static_cast<double>(config_.head_dim));
    plan->query_begin = batch.row_begin;
    int32_t longest = 0;
    for (int b = 0; b < batch.rows(); ++b) {
        const int32_t past = options.cache ? options.cache->length(options.slots[static_cast<size_t>(b)]) : 0;
        const int32_t keys = past + batch.row_length(b);
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

std::vector<at::Tensor> Decoder::linears(const Pass& pass, int64_t layer, std::initializer_list<Place> chosen,
                                         const at::Tensor& x, std::function<at::Tensor()> recompute) const {
    std::vector<LinearBranch> branches;
    for (const Place place : chosen) {
        const Linear& base = layers_[static_cast<size_t>(layer)].linear[place];
        LinearBranch branch{base.weight, base.bias, {}};
        if (pass.options.adaptation)
            branch.updates =
                pass.options.adaptation->at(sites_[static_cast<size_t>(layer * places + place)], x);
        branches.push_back(std::move(branch));
    }
    return adapted_linears(x, std::move(branches), pass.rows, std::move(recompute));
}

at::Tensor Decoder::attend(const Pass& pass, int64_t layer, const at::Tensor& h) const {
    const Layer& weights = layers_[static_cast<size_t>(layer)];
    const auto qkv = linears(pass, layer, {q_proj, k_proj, v_proj}, h);
    at::Tensor q = qkv[0], k = qkv[1];
    if (config_.qk_norm) {
        q = rms_norm(q, weights.q_norm, config_.norm_eps);
        k = rms_norm(k, weights.k_norm, config_.norm_eps);
    }
    std::optional<PastKeys> past;
    if (pass.cache) past = pass.cache->past(layer, pass.options.slots);
    const at::Tensor o =
        rotary_attention(q, k, qkv[2], pass.plan, config_.window(layer), past ? &*past : nullptr);
    return linears(pass, layer, {o_proj}, o)[0];
}

at::Tensor Decoder::feed_forward(const Pass& pass, int64_t layer, const at::Tensor& h) const {
    const auto gate_up = linears(pass, layer, {gate_proj, up_proj}, h);
    const at::Tensor activation = swiglu(gate_up[0], gate_up[1]);
    // gate and up are saved anyway; making their product again is cheaper than keeping the widest activation.
    return linears(pass, layer, {down_proj}, activation,
                   [gate = gate_up[0].detach(), up = gate_up[1].detach()] { return swiglu(gate, up); })[0];
}

at::Tensor Decoder::hidden(const Batch& batch, const ForwardOptions& options) const {
    check_rows(batch);
    Pass pass{options, batch.row_begin, nullptr, checked_cache(batch, options)};
    if (pass.cache && !pass.cache->fits(config_.layers, config_.kv_width(), dtype_))
        fail(Code::invalid_argument, "the cache was made by another backbone");
    std::optional<at::NoGradGuard> no_grad;  // nothing can flow back into a past that was computed before
    if (pass.cache) no_grad.emplace();
    pass.plan = plan_attention(batch, options);

    at::Tensor x;
    if (options.embeddings.defined()) {
        if (options.embeddings.dim() != 2 || options.embeddings.size(0) != batch.size() ||
            options.embeddings.size(1) != config_.width)
            fail(Code::invalid_argument, "embeddings are [", batch.size(), ", ", config_.width,
                 "] for this batch");
        x = options.embeddings.to(dtype_);
    } else {
        x = embed(batch.tokens);
    }
    if (options.trace) options.trace->push_back(x);

    at::Tensor h = rms_norm(x, layers_[0].input_norm, config_.norm_eps);
    for (int64_t l = 0; l < config_.layers; ++l) {
        const bool last = l + 1 == config_.layers;
        std::tie(x, h) =
            add_rms_norm(x, attend(pass, l, h), layers_[static_cast<size_t>(l)].post_norm, config_.norm_eps);
        std::tie(x, h) = add_rms_norm(x, feed_forward(pass, l, h),
                                      last ? final_norm_ : layers_[static_cast<size_t>(l) + 1].input_norm,
                                      config_.norm_eps);
        if (options.trace) options.trace->push_back(x);
    }
    if (pass.cache)
        for (int b = 0; b < batch.rows(); ++b)
            pass.cache->grow(options.slots[static_cast<size_t>(b)], batch.row_length(b));
    return h;
}

}  // namespace polyad
