// SPDX-License-Identifier: Apache-2.0
#include "backbone/bert.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/layer_norm.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "backbone/activation.h"
#include "backbone/batch_checks.h"
#include "backbone/device.h"
#include "base/error.h"

namespace polyad {
namespace {

constexpr const char* place_paths[] = {"attention.self.query",   "attention.self.key", "attention.self.value",
                                       "attention.output.dense", "intermediate.dense", "output.dense"};

}  // namespace

struct Bert::Pass {
    Adaptation* adaptation = nullptr;
    RowBegin rows;
    std::shared_ptr<const AttentionPlan> plan;
};

Bert::Bert(const ModelFiles& files, const LoadPlan& plan, std::shared_ptr<const Tokenizer> tokenizer)
    : config_(files.config), dtype_(plan.dtype), device_(plan.device), tokenizer_(std::move(tokenizer)) {
    const TensorStore& store = files.tensors;
    store.validate(config_);
    info_.name = files.name;
    info_.family = family_name(config_.family);
    info_.fingerprint = files.fingerprint();
    info_.layers = info_.encoder_layers = config_.layers;
    info_.width = config_.width;
    info_.vocab = config_.vocab;
    info_.context = config_.context;
    info_.encoder_only = true;
    const auto table = [&](const char* name, int64_t rows) {
        info_.parameters += rows * config_.width;
        return std::make_shared<const FrozenMatrix>(
            store.expect(text("embeddings.", name, ".weight"), {rows, config_.width}), plan);
    };
    words_ = table("word_embeddings", config_.vocab);
    positions_ = table("position_embeddings", config_.context);
    types_ = table("token_type_embeddings", config_.type_vocab);
    embedding_norm_ = load_norm(store, "embeddings.LayerNorm", -1);
    for (int64_t l = 0; l < config_.layers; ++l) load_layer(store, plan, l);
}

Bert::Norm Bert::load_norm(const TensorStore& store, const std::string& path, int layer) {
    const auto load = [&](const std::string& name) {
        norm_sites_.push_back({name, layer, config_.width});
        info_.parameters += config_.width;
        return load_vector(store.expect(name, {config_.width}), device_);
    };
    at::Tensor gain = load(path + ".weight");
    return {path, std::move(gain), load(path + ".bias")};
}

void Bert::load_layer(const TensorStore& store, const LoadPlan& plan, int64_t index) {
    const std::string prefix = text("encoder.layer.", index, ".");
    Layer layer;
    for (int place = 0; place < places; ++place) {
        const int64_t d_out = place == intermediate ? config_.ffn : config_.width;
        const int64_t d_in = place == output ? config_.ffn : config_.width;
        Site site;
        site.index = static_cast<int>(sites_.size());
        site.path = prefix + place_paths[place];
        site.layer = static_cast<int>(index);
        site.d_in = d_in;
        site.d_out = d_out;
        site.role = place == output         ? Role::feed_forward_out
                    : place == intermediate ? Role::feed_forward_in
                                            : Role::attention;
        Linear& linear = layer.linear[static_cast<size_t>(place)];
        linear.weight =
            std::make_shared<const FrozenMatrix>(store.expect(site.path + ".weight", {d_out, d_in}), plan);
        linear.bias = load_vector(store.expect(site.path + ".bias", {d_out}), device_).to(dtype_);
        info_.parameters += d_out * d_in + d_out;
        sites_.push_back(std::move(site));
    }
    layer.attention_norm = load_norm(store, prefix + "attention.output.LayerNorm", static_cast<int>(index));
    layer.output_norm = load_norm(store, prefix + "output.LayerNorm", static_cast<int>(index));
    layers_.push_back(std::move(layer));
}

at::Tensor Bert::frozen(const std::string& path) const {
    const auto copy = [](const at::Tensor& t) { return t.to(at::kFloat, false, true); };
    for (const Site& site : sites_) {
        if (!path.starts_with(site.path)) continue;
        const Linear& linear = layers_[static_cast<size_t>(site.layer)].linear[site.index % places];
        if (path == site.path + ".weight") return copy(linear.weight->dense());
        if (path == site.path + ".bias") return copy(linear.bias);
    }
    if (path == "embeddings.token_type_embeddings.weight") return copy(types_->dense());
    std::vector<const Norm*> norms{&embedding_norm_};
    for (const Layer& layer : layers_)
        for (const Norm* norm : {&layer.attention_norm, &layer.output_norm}) norms.push_back(norm);
    for (const Norm* norm : norms) {
        if (path == norm->path + ".weight") return copy(norm->gain);
        if (path == norm->path + ".bias") return copy(norm->bias);
    }
    return {};
}

at::Tensor Bert::embed(const std::vector<int32_t>& tokens) const {
    check_tokens(tokens, config_.vocab);
    return words_->gather(tokens);
}

at::Tensor Bert::logits(const at::Tensor&) const {
    check_has_head(*this);
    return {};
}

at::Tensor Bert::token_nll(const at::Tensor&, const std::vector<int32_t>&, double) const {
    check_has_head(*this);
    return {};
}

std::unique_ptr<KvCache> Bert::make_cache(int, int) const {
    check_has_head(*this);
    return nullptr;
}

std::shared_ptr<const AttentionPlan> Bert::plan_attention(const RowBegin& rows) const {
    auto plan = std::make_shared<AttentionPlan>();
    plan->heads = plan->heads_kv = config_.heads;
    plan->head_dim = config_.head_dim;
    plan->scale = 1.0 / std::sqrt(static_cast<double>(config_.head_dim));
    plan->causal = false;
    plan->query_begin = rows;
    for (size_t b = 0; b + 1 < rows.size(); ++b) {
        const int32_t length = rows[b + 1] - rows[b];
        if (length > config_.context)
            fail(Code::context_overflow, "row ", b, " has ", length, " tokens; the model's context is ",
                 config_.context);
        plan->key_count.push_back(length);
        for (int32_t p = 0; p < length; ++p) plan->position.push_back(p);
    }
    return plan;
}

at::Tensor Bert::normed(const Pass& pass, const Norm& norm, const at::Tensor& x) const {
    const at::Tensor gain = trained_or(pass.adaptation, norm.path + ".weight", norm.gain);
    const at::Tensor bias = trained_or(pass.adaptation, norm.path + ".bias", norm.bias);
    return at::layer_norm(x.to(at::kFloat), {config_.width}, gain, bias, config_.norm_eps)
        .to(x.scalar_type());
}

std::vector<at::Tensor> Bert::linears(const Pass& pass, int64_t layer, std::initializer_list<Place> chosen,
                                      const at::Tensor& x) const {
    std::vector<PlacedLinear> placed;
    for (const Place place : chosen)
        placed.push_back({&sites_[static_cast<size_t>(layer * places + place)],
                          &layers_[static_cast<size_t>(layer)].linear[static_cast<size_t>(place)]});
    return site_linears(pass.adaptation, placed, x, pass.rows);
}

at::Tensor Bert::enter(const Pass& pass, const at::Tensor& words) const {
    const at::Tensor first_type = types_->gather({0});
    return normed(pass, embedding_norm_, words + positions_->gather(pass.plan->position) + first_type);
}

at::Tensor Bert::run_layer(const Pass& pass, int64_t layer, const at::Tensor& x) const {
    Adaptation* adaptation = pass.adaptation;
    const auto l = static_cast<int>(layer);
    if (adaptation && (adaptation->copies(l, x) > 0 || adaptation->spread(l, x)))
        fail(Code::unsupported, "'", info_.name, "' is an encoder (bert): its blocks are not copied");
    const Layer& weights = layers_[static_cast<size_t>(layer)];
    const auto qkv = linears(pass, layer, {query, key, value}, x);
    const at::Tensor attended = rotary_attention(qkv[0], qkv[1], qkv[2], pass.plan, 0, nullptr);
    const at::Tensor h =
        normed(pass, weights.attention_norm, x + linears(pass, layer, {attention_output}, attended)[0]);
    const at::Tensor u = activate(config_.activation, linears(pass, layer, {intermediate}, h)[0]);
    at::Tensor y = linears(pass, layer, {output}, u)[0];
    if (adaptation) y = adaptation->feed_forward(l, u, y);
    return normed(pass, weights.output_norm, h + y);
}

at::Tensor Bert::hidden(const Batch& batch, const ForwardOptions& options) const {
    check_rows(batch);
    if (!batch.source.empty())
        fail(Code::invalid_argument, "the batch has a source, but '", info_.name,
             "' is an encoder alone: its text goes into tokens");
    if (options.cache) check_has_head(*this);
    Adaptation* adaptation = options.adaptation;
    if (adaptation) adaptation->begin(*this, batch, options);
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
    Pass pass{adaptation, batch.row_begin, nullptr};
    const std::optional<Prefixed> prefixed = put_prefix(adaptation, x, batch.row_begin);
    if (prefixed) {
        x = prefixed->embeddings;
        pass.rows = prefixed->row_begin;
    }
    pass.plan = plan_attention(pass.rows);
    x = enter(pass, x);
    if (options.trace) options.trace->push_back(x);
    for (int64_t l = 0; l < config_.layers; ++l) {
        x = run_layer(pass, l, x);
        if (options.trace) options.trace->push_back(x);
    }
    if (prefixed) x = x.index_select(0, device_list(prefixed->own, device_));
    return x;
}

}  // namespace polyad
