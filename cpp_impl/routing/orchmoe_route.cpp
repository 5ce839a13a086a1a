// SPDX-License-Identifier: Apache-2.0
// OrchMoE's way through one forward: which rows bring their prompt, which remember what it said, and what the
// classifier reads at each site.
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/log.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <unordered_map>

#include "backbone/backbone.h"
#include "backbone/device.h"
#include "routing/orchmoe.h"
#include "routing/row_groups.h"

namespace polyad {

bool SharedInput::is(const Site& site, const at::Tensor& x) const {
    return x_.defined() && (layer_ == any_layer || site.layer == layer_) &&
           x.const_data_ptr() == x_.const_data_ptr() && x.sizes() == x_.sizes() &&
           x.scalar_type() == x_.scalar_type() && x.requires_grad() == x_.requires_grad() &&
           x._version() == version_;
}

void SharedInput::remember(const at::Tensor& x, int layer) {
    x_ = x;
    layer_ = layer;
    version_ = static_cast<uint32_t>(x._version());
}

namespace {

class OrchAdaptation final : public Adaptation {
  public:
    OrchAdaptation(const OrchMoe& method, const RouteInput& input);

    void begin(const Backbone& backbone, const Batch& batch, const ForwardOptions& options) override;
    void encoded(const at::Tensor& states) override {
        if (fresh_.empty() || options().model_scope || options().per_token) return;
        encoder_g_ = pool(states, Stream::source);
        states_.remember(states, SharedInput::any_layer);
    }
    std::vector<LowRank> at(const Site& site, const at::Tensor& x) override;

  private:
    const OrchOptions& options() const { return method_.options(); }
    const RowBegin& rows_of(Stream stream) const {
        return stream == Stream::source && !source_rows_.empty() ? source_rows_ : rows_;
    }
    at::Tensor pool(const at::Tensor& x, Stream stream) const;
    /// g of the rows that bring their prompt.
    const at::Tensor& row_vectors(const Site& site, const at::Tensor& x);
    at::Tensor row_weights(size_t position, const Site& site, const at::Tensor& x);
    /// g of every token of x.
    at::Tensor token_vectors(const Site& site, const at::Tensor& x) const;
    at::Tensor vectors_of_row(const Site& site, size_t row, const at::Tensor& own) const;
    at::Tensor token_weights(size_t position, const Site& site, const at::Tensor& x);
    /// Fills `to` [rows, ...] on the host with a site's noise of that name.
    void draw(const Site& site, const char* name, at::Tensor to) const;
    /// A site's OrchMoe::task_rows(), of every row of the batch where there is noise.
    const at::Tensor& task_rows(size_t position);
    at::Tensor skill_noise() const;
    at::Tensor task_noise(const Site& site) const;
    /// Whether noise or task_rows() has a part for each row: there may be none, or one for all.
    static bool of_rows(const at::Tensor& t) { return t.defined() && t.dim() == 3; }
    void trace(const Site& site, const char* name, const at::Tensor& value) const {
        if (sink_) (*sink_)[site.path][name] = value;
    }

    const OrchMoe& method_;
    RowBegin rows_, source_rows_;
    std::vector<int32_t> prompt_;
    std::vector<RouteMemory*> memory_;
    std::vector<int64_t> fresh_, kept_, given_;  ///< rows with their prompt, going on, with explicit weights
    at::Tensor weights_;                         ///< [given rows, skills]
    std::vector<int64_t> past_;                  ///< tokens in the cache of each row (route_span causal)
    bool train_ = false;
    std::optional<uint64_t> seed_;
    RouteInput recorded_;  ///< only `recorded` is set
    std::map<std::string, std::map<std::string, at::Tensor>>* sink_;

    SharedInput shared_, states_;
    at::Tensor g_, model_g_, encoder_g_;
    std::vector<at::Tensor> task_rows_;            ///< per site
    std::unordered_map<size_t, LowRank> settled_;  ///< per site, while no row brings a prompt
};

OrchAdaptation::OrchAdaptation(const OrchMoe& method, const RouteInput& input)
    : method_(method),
      rows_(input.row_begin),
      source_rows_(input.source_begin),
      prompt_(input.prompt_length),
      memory_(input.memory),
      train_(input.mode == Mode::train),
      sink_(input.trace) {
    const auto rows = static_cast<size_t>(input.rows());
    if (prompt_.size() != rows)
        fail(Code::invalid_argument, "prompt_length is given for ", prompt_.size(), " rows, the batch has ",
             rows, ": OrchMoE reads the prompt");
    memory_.resize(rows, nullptr);
    past_.assign(rows, 0);
    std::vector<float> weights;
    for (size_t b = 0; b < rows; ++b) {
        const RowBegin& lengths = source_rows_.empty() ? rows_ : source_rows_;
        if (prompt_[b] < 0 || prompt_[b] > lengths[b + 1] - lengths[b])
            fail(Code::invalid_argument, "row ", b, " has a prompt of ", prompt_[b], " tokens, but only ",
                 lengths[b + 1] - lengths[b], " tokens");
        const auto row = static_cast<int64_t>(b);
        if (b < input.weights.size() && !input.weights[b].empty()) {
            given_.push_back(row);
            weights.insert(weights.end(), input.weights[b].begin(), input.weights[b].end());
        } else if (prompt_[b] > 0) {
            fresh_.push_back(row);
        } else if (memory_[b] && !memory_[b]->values.empty()) {
            kept_.push_back(row);
        } else {
            fail_because(Code::invalid_argument, "empty_prompt", "row ", b,
                         " has no prompt token to take its route from, and none was read before");
        }
    }
    if (!given_.empty()) weights_ = method_.list(weights).view({-1, options().skills});
    if (train_ && (options().samples_skills() || options().samples_tasks())) {
        recorded_.recorded = input.recorded;
        if (!input.recorded) seed_ = noise_seed(input, "OrchMoE routing");
    }
}

void OrchAdaptation::begin(const Backbone& backbone, const Batch& batch, const ForwardOptions& forward) {
    shared_ = states_ = SharedInput();
    task_rows_.clear();
    if (forward.cache)
        for (size_t b = 0; b < past_.size(); ++b) past_[b] = forward.cache->length(forward.slots[b]);
    if (!options().model_scope || fresh_.empty()) return;
    const bool encoder = !batch.source_begin.empty();
    const at::Tensor x = !encoder && forward.embeddings.defined()
                             ? forward.embeddings
                             : backbone.embed(encoder ? batch.source : batch.tokens);
    model_g_ = pool(x, encoder ? Stream::source : Stream::tokens);
}

at::Tensor OrchAdaptation::pool(const at::Tensor& x, Stream stream) const {
    const RowBegin& rows = rows_of(stream);
    std::vector<TokenSpan> spans;
    for (const int64_t b : fresh_)
        spans.push_back({rows[static_cast<size_t>(b)], prompt_[static_cast<size_t>(b)]});
    const Pool pool = options().pool == "last"    ? Pool::last
                      : options().pool == "first" ? Pool::first
                                                  : Pool::mean;
    return pool_spans(x, spans, options().attention, pool);
}

const at::Tensor& OrchAdaptation::row_vectors(const Site& site, const at::Tensor& x) {
    if (options().model_scope) {
        if (!model_g_.defined())
            fail(Code::wrong_state, "router_scope model: at() before begin(), which reads the prompt");
        return model_g_;
    }
    // Keys and values of cross-attention read the encoder's states, and so do sites that see only the answer.
    if (states_.is(site, x)) return encoder_g_;
    if (method_.reads_encoder(site)) {
        if (!encoder_g_.defined())
            fail(Code::wrong_state, "'", site.path, "' runs before the encoder's states are there");
        return encoder_g_;
    }
    if (!shared_.is(site, x)) {
        g_ = pool(x, site.stream);
        shared_.remember(x, site.layer);
    }
    return g_;
}

void OrchAdaptation::draw(const Site& site, const char* name, at::Tensor to) const {
    if (!seed_) {
        const at::Tensor u = recorded_noise(recorded_, site.path, name);
        if (!u.defined())
            fail(Code::invalid_argument, "no recorded noise '", name, "' for site '", site.path, "'");
        to.copy_(u.reshape(to.sizes()));
        return;
    }
    // One p for the model is one draw for the model.
    const bool one = options().model_scope && std::string_view(name) == "u_task";
    named_generator(*seed_, one ? "router.u_task" : site.path + "." + name)
        .fill_uniform(to.mutable_data_ptr<float>(), static_cast<size_t>(to.numel()));
}

at::Tensor OrchAdaptation::skill_noise() const {
    if (!train_ || !options().samples_skills()) return {};
    const std::vector<Site>& sites = method_.adapted();
    at::Tensor u = at::empty({static_cast<int64_t>(sites.size()), static_cast<int64_t>(prompt_.size()),
                              options().latent_tasks, options().splits, options().skills},
                             at::TensorOptions().dtype(at::kFloat));
    for (size_t i = 0; i < sites.size(); ++i) draw(sites[i], "u", u[static_cast<int64_t>(i)]);
    return on_device(u, method_.device());
}

const at::Tensor& OrchAdaptation::task_rows(size_t position) {
    if (task_rows_.empty()) task_rows_ = method_.task_rows(skill_noise());
    return task_rows_[position];
}

at::Tensor OrchAdaptation::task_noise(const Site& site) const {
    if (!train_ || !options().samples_tasks()) return {};
    at::Tensor u = at::empty({static_cast<int64_t>(prompt_.size()), options().blocks(), options().classes()},
                             at::TensorOptions().dtype(at::kFloat));
    draw(site, "u_task", u);
    return -at::log(-at::log(on_device(u, method_.device())));
}

at::Tensor OrchAdaptation::row_weights(size_t position, const Site& site, const at::Tensor& x) {
    std::vector<at::Tensor> parts;
    std::vector<int64_t> order;
    const auto take = [&](at::Tensor part, const std::vector<int64_t>& rows) {
        parts.push_back(std::move(part));
        order.insert(order.end(), rows.begin(), rows.end());
    };
    if (!fresh_.empty()) {
        const auto chosen = [&](const at::Tensor& all) {
            return of_rows(all) && fresh_.size() < prompt_.size() ? all.index_select(0, method_.list(fresh_))
                                                                  : all;
        };
        const at::Tensor p = method_.classify(position, row_vectors(site, x), chosen(task_noise(site)));
        const at::Tensor v = method_.allocate(p, chosen(task_rows(position)));
        for (size_t i = 0; i < fresh_.size(); ++i)
            if (RouteMemory* memory = memory_[static_cast<size_t>(fresh_[i])])
                memory->values[site.path] = v.select(0, static_cast<int64_t>(i)).detach().clone();
        trace(site, "task_probs", p);
        take(v, fresh_);
    }
    if (!kept_.empty()) {
        std::vector<at::Tensor> values;
        for (const int64_t b : kept_) {
            const auto& known = memory_[static_cast<size_t>(b)]->values;
            const auto found = known.find(site.path);
            if (found == known.end())
                fail(Code::wrong_state, "row ", b, " goes on, but has kept no route for '", site.path, "'");
            values.push_back(found->second);
        }
        take(at::stack(values), kept_);
    }
    if (!given_.empty()) take(weights_.unsqueeze(1).expand({-1, options().splits, -1}), given_);
    at::Tensor weights = parts.size() == 1 ? parts[0] : at::cat(parts, 0);
    if (parts.size() > 1) weights = weights.index_select(0, method_.list(order).argsort());
    trace(site, "weights", weights);
    return weights;
}

/// X' of a row's tokens, and with route_span causal its running mean. What later tokens need is put into the
/// row's memory, under the first of the sites that share this input.
at::Tensor OrchAdaptation::vectors_of_row(const Site& site, size_t row, const at::Tensor& own) const {
    const bool causal = options().span == "causal";
    RouteMemory* memory = memory_[row];
    const std::string keys_name = site.path + ".keys", sums_name = site.path + ".sums";
    const int64_t past = causal && site.stream == Stream::tokens ? past_[row] : 0;
    const auto remembered = [&](const std::string& name) {
        const auto found = memory ? memory->values.find(name) : std::map<std::string, at::Tensor>::iterator();
        if (!memory || found == memory->values.end())
            fail(Code::wrong_state, "row ", row, " goes on, but has kept nothing for '", site.path, "'");
        return found->second;
    };
    at::Tensor keys = own;
    if (causal && past > 0)
        keys = at::cat({remembered(keys_name).narrow(0, 0, past), own}, 0);
    else if (!causal)
        keys = prompt_[row] > 0 ? own.narrow(0, 0, prompt_[row]) : remembered(keys_name);
    if (memory && (causal || prompt_[row] > 0)) memory->values[keys_name] = keys.detach().clone();

    at::Tensor out = own;
    const int64_t n = own.size(0);
    if (options().attention) {
        at::Tensor scores = at::mm(own, keys.t()) / std::sqrt(static_cast<double>(own.size(1)));
        if (causal)
            scores = scores.masked_fill(at::arange(past + n, method_.floats()).unsqueeze(0) >
                                            at::arange(past, past + n, method_.floats()).unsqueeze(1),
                                        -std::numeric_limits<double>::infinity());
        out = at::mm(at::softmax(scores, -1), keys) + own;
    }
    if (!causal || options().pool != "mean") return out;
    at::Tensor sums = out.cumsum(0);
    if (past > 0) sums = sums + remembered(sums_name).select(0, past - 1);
    if (memory)
        memory->values[sums_name] =
            (past > 0 ? at::cat({remembered(sums_name).narrow(0, 0, past), sums}, 0) : sums).detach().clone();
    return sums / at::arange(past + 1, past + n + 1, method_.floats()).unsqueeze(1);
}

at::Tensor OrchAdaptation::token_vectors(const Site& site, const at::Tensor& x) const {
    const RowBegin& rows = rows_of(site.stream);
    const at::Tensor values = x.to(at::kFloat);
    std::vector<at::Tensor> parts;
    for (size_t b = 0; b + 1 < rows.size(); ++b) {
        const at::Tensor own = values.slice(0, rows[b], rows[b + 1]);
        const bool given = std::find(given_.begin(), given_.end(), static_cast<int64_t>(b)) != given_.end();
        parts.push_back(given || own.size(0) == 0 ? own : vectors_of_row(site, b, own));
    }
    return at::cat(parts, 0);
}

at::Tensor OrchAdaptation::token_weights(size_t position, const Site& site, const at::Tensor& x) {
    if (!shared_.is(site, x)) {
        g_ = token_vectors(site, x);
        shared_.remember(x, site.layer);
    }
    const RowBegin& rows = rows_of(site.stream);
    const at::Tensor row = method_.list(row_of_token(rows));
    const auto spread = [&](const at::Tensor& all) { return of_rows(all) ? all.index_select(0, row) : all; };
    const at::Tensor p = method_.classify(position, g_, spread(task_noise(site)));
    at::Tensor weights = method_.allocate(p, spread(task_rows(position)));
    if (!given_.empty()) {
        const auto count = static_cast<int64_t>(prompt_.size());
        const at::Tensor index = method_.list(given_);
        const at::Tensor own = at::zeros({count, 1, options().skills}, method_.floats())
                                   .index_copy(0, index, weights_.unsqueeze(1));
        const at::Tensor has =
            at::zeros({count, 1, 1}, method_.floats()).index_fill(0, index, 1.0).to(at::kBool);
        weights = at::where(spread(has), spread(own), weights);
    }
    trace(site, "task_probs", p);
    trace(site, "weights", weights);
    return weights;
}

std::vector<LowRank> OrchAdaptation::at(const Site& site, const at::Tensor& x) {
    const int at = method_.position(site);
    if (at < 0) return {};
    const auto position = static_cast<size_t>(at);
    if (options().per_token) return {method_.update(position, token_weights(position, site, x))};
    if (!fresh_.empty()) return {method_.update(position, row_weights(position, site, x))};
    // Routes that stand already: the factors are mixed once for all the steps this adaptation lives.
    const auto found = settled_.find(position);
    if (found != settled_.end()) return {found->second};
    return {
        settled_.emplace(position, method_.update(position, row_weights(position, site, x))).first->second};
}

}  // namespace

std::unique_ptr<Adaptation> make_orch_adaptation(const OrchMoe& method, const RouteInput& input) {
    return std::make_unique<OrchAdaptation>(method, input);
}

}  // namespace polyad
