// SPDX-License-Identifier: Apache-2.0
// X-LoRA (methods.md 13, arXiv 2402.07148; options as in PEFT's XLoraConfig): a head reads the backbone's
// last hidden states from a first pass without adapters and scales K LoRA experts for every token and linear.
//
//     l = head(h),  c = softmax(l / temperature),   y = W0 x + g s sum_k c_k B_k(A_k x)
//
// The head is one linear, or linears with ReLU and dropout. top_k_lora keeps the k largest c of a token;
// enable_softmax_topk makes them a softmax again. What an answer's tokens are scaled by is `answer_scalings`.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "backbone/backbone.h"
#include "backbone/device.h"
#include "base/error.h"
#include "routing/method_table.h"
#include "routing/peft_experts.h"
#include "routing/ready_factors.h"
#include "routing/site_method.h"
#include "skills/mixing.h"

namespace polyad {
namespace {

struct XLoraOptions {
    int64_t rank = 8, experts = 4, width = 0, depth = 1, size = 2048, top_k = 0;
    double alpha = 8.0, dropout = 0.2, temperature = 1.0, first_pass = 0.0, global_scale = 1.0;
    bool layerwise = false, softmax = true, softmax_top_k = false, train_experts = true, every_token = false;
    SkillInit init = SkillInit::kaiming;
};

class XLora final : public SiteMethod {
  public:
    XLora(const MethodContext& context, const XLoraOptions& options,
          const std::vector<PeftAdapter>& adapters);

    std::unique_ptr<Adaptation> adapt(const RouteInput& input) override;
    int skill_count() const override { return static_cast<int>(options_.experts); }
    bool needs_task() const override { return false; }
    bool exclusive() const override { return true; }  // its first pass is of the whole backbone
    /// A token's scalings are read from the states up to it; dropout in the head is a token's own.
    Sharing sharing(Mode mode) const override {
        return mode == Mode::train && options_.depth > 1 && options_.dropout > 0.0 ? Sharing::none
                                                                                   : Sharing::all;
    }
    void set_training(const std::string& what) override;
    std::optional<CollapsedSite> collapse(const Site& site, int) override {
        expect_position(site);
        return std::nullopt;
    }
    void add_task(const std::string& start, Generator&) override {
        if (start != "fresh" && start != "uniform")
            fail(Code::invalid_config, "start: '", start, "' is not known, allowed: fresh, uniform");
        ++tasks_;
    }
    std::vector<float> task_weights(int) override {
        return std::vector<float>(static_cast<size_t>(options_.experts),
                                  1.0f / static_cast<float>(options_.experts));
    }
    Json config() const override;

    const XLoraOptions& options() const { return options_; }
    const std::vector<Site>& adapted() const { return sites_; }
    using SiteMethod::position;
    /// Scalings [M, layers or 1, experts] of hidden states [M, width]; dropout where `seed` says.
    at::Tensor scalings(const at::Tensor& states, std::optional<uint64_t> seed) const;
    /// `gate` [tokens, experts].
    LowRank update(size_t site, const at::Tensor& gate, at::ScalarType dtype) const;
    void parameters_changed() override { ready_.clear(); }
    at::Tensor select(const at::Tensor& gate) const;

  private:
    XLoraOptions options_;
    std::vector<size_t> down_, up_;      ///< parameter indices per site
    std::vector<size_t> weight_, bias_;  ///< of the head's linears
    ReadyFactors ready_;
};

/// Every expert at one scaling: the first pass.
class EvenAdaptation final : public Adaptation {
  public:
    EvenAdaptation(const XLora& method) : method_(method) {}
    std::vector<LowRank> at(const Site& site, const at::Tensor& x) override {
        const int position = method_.position(site);
        if (position < 0) return {};
        const XLoraOptions& o = method_.options();
        return {method_.update(static_cast<size_t>(position),
                               at::full({x.size(0), o.experts}, o.first_pass, method_.floats()),
                               x.scalar_type())};
    }

  private:
    const XLora& method_;
};

class XLoraAdaptation final : public Adaptation {
  public:
    XLoraAdaptation(const XLora& method, const RouteInput& input);
    void begin(const Backbone& backbone, const Batch& batch, const ForwardOptions& options) override;
    std::vector<LowRank> at(const Site& site, const at::Tensor& x) override;

  private:
    /// Tokens the first pass reads for a row, and how many of their last states are scalings of its own
    /// tokens.
    struct Reading {
        size_t row;
        std::vector<int32_t> tokens;
        int64_t states;
    };
    std::vector<Reading> readings(const Batch& batch, const ForwardOptions& options) const;
    std::vector<int32_t> history(size_t row, int64_t past) const;
    at::Tensor first_pass(const Backbone& backbone, const std::vector<Reading>& readings,
                          const std::vector<int32_t>& parent) const;
    bool given(size_t row) const { return row < weights_.size() && !weights_[row].empty(); }

    const XLora& method_;
    RowBegin rows_;
    std::vector<int32_t> prompt_;
    std::vector<RouteMemory*> memory_;
    std::vector<std::vector<float>> weights_;
    std::optional<uint64_t> seed_;
    std::map<std::string, std::map<std::string, at::Tensor>>* sink_;
    at::Tensor scalings_;  ///< [tokens, layers or 1, experts]
};

constexpr const char* kept_scalings = "xlora.scalings";
constexpr const char* kept_tokens = "xlora.tokens";

XLora::XLora(const MethodContext& context, const XLoraOptions& options,
             const std::vector<PeftAdapter>& adapters)
    : SiteMethod(context), options_(options) {
    if (context.backbone && context.backbone->info().encoder_decoder)
        fail(Code::unsupported,
             "xlora: one set of scalings per token cannot serve an encoder-decoder's two "
             "streams of tokens");
    const int64_t have = context.backbone ? context.backbone->info().width
                         : sites_.empty() ? 1
                                          : sites_.front().d_in;
    if (options_.width == 0) options_.width = have;
    if (context.backbone && options_.width != have)
        fail(Code::invalid_config, "xlora.hidden_size: ", options_.width, ", but the backbone's is ", have);
    const XLoraOptions& o = options_;
    for (const Site& site : sites_) {
        const std::string a = site.path + ".lora_a";
        down_.push_back(
            add(a, ParameterGroup::skills, maker_.down({o.experts, o.rank, site.d_in}, a, o.init, 1)));
        up_.push_back(add(site.path + ".lora_b", ParameterGroup::skills,
                          maker_.zeros({o.experts, site.d_out, o.rank})));
    }
    check_experts(adapters, sites_);
    if (maker_.fill() == Fill::initialised && !adapters.empty())
        for (size_t i = 0; i < sites_.size(); ++i) {
            at::NoGradGuard no_grad;
            fill_experts(adapters, sites_[i], o.alpha / static_cast<double>(o.rank), value(down_[i]),
                         value(up_[i]));
        }
    const int64_t outputs = o.experts * (o.layerwise ? static_cast<int64_t>(sites_.size()) : 1);
    int64_t width = o.width;
    for (int64_t layer = 0; layer < o.depth; ++layer) {
        const std::string name = layer + 1 == o.depth ? "xlora.last" : "xlora.inner." + std::to_string(layer);
        const int64_t next = layer + 1 == o.depth ? outputs : o.size;
        const double bound = 1.0 / std::sqrt(static_cast<double>(width));
        weight_.push_back(add(name + ".weight", ParameterGroup::router,
                              maker_.uniform({next, width}, name + ".weight", -bound, bound)));
        bias_.push_back(add(name + ".bias", ParameterGroup::router,
                            maker_.uniform({next}, name + ".bias", -bound, bound)));
        width = next;
    }
    set_training(o.train_experts ? "all" : "router");
}

void XLora::set_training(const std::string& what) {
    if (what != "all" && what != "router")
        fail(Code::invalid_config, "xlora.train: '", what, "' is not known, allowed: all, router");
    options_.train_experts = what == "all";
    for (size_t i = 0; i < parameters_.size(); ++i)
        set_trainable(i, what == "all" || parameters_[i].group == ParameterGroup::router);
}

Json XLora::config() const {
    const XLoraOptions& o = options_;
    return {{"method", "xlora"},
            {"rank", o.rank},
            {"alpha", o.alpha},
            {"n_experts", o.experts},
            {"hidden_size", o.width},
            {"xlora_depth", o.depth},
            {"xlora_size", o.size},
            {"xlora_dropout_p", o.dropout},
            {"layerwise_scalings", o.layerwise},
            {"enable_softmax", o.softmax},
            {"softmax_temperature", o.temperature},
            {"top_k_lora", o.top_k},
            {"enable_softmax_topk", o.softmax_top_k},
            {"scaling_pass_value", o.first_pass},
            {"global_scaling_weight", o.global_scale},
            {"use_trainable_adapters", o.train_experts},
            {"answer_scalings", o.every_token ? "token" : "prompt"},
            {"init", skill_init_name(o.init)}};
}

at::Tensor XLora::scalings(const at::Tensor& states, std::optional<uint64_t> seed) const {
    at::Tensor h = states;
    for (size_t layer = 0; layer < weight_.size(); ++layer) {
        h = at::addmm(value(bias_[layer]), h, value(weight_[layer]).t());
        if (layer + 1 == weight_.size()) break;
        h = at::relu(h);
        if (!seed) continue;
        at::Tensor u = at::empty(h.sizes(), at::TensorOptions().dtype(at::kFloat));
        named_generator(*seed, parameters_[weight_[layer]].name)
            .fill_uniform(u.mutable_data_ptr<float>(), static_cast<size_t>(u.numel()));
        h = h * (on_device(u, device_) >= options_.dropout).to(at::kFloat) / (1.0 - options_.dropout);
    }
    const at::Tensor logits = h.view({h.size(0), -1, options_.experts});
    return options_.softmax ? at::softmax(logits / options_.temperature, -1) : logits;
}

at::Tensor XLora::select(const at::Tensor& gate) const {
    if (options_.top_k == 0 || options_.top_k == options_.experts)
        return options_.softmax_top_k ? at::softmax(gate, -1) : gate;
    const at::Tensor order =
        std::get<1>(at::sort(gate.detach(), /*stable=*/true, /*dim=*/-1, /*descending=*/true));
    const at::Tensor keep = at::zeros(gate.sizes(), gate.options().requires_grad(false))
                                .scatter_(-1, order.narrow(-1, 0, options_.top_k), 1.0);
    if (!options_.softmax_top_k) return gate * keep;
    return at::softmax(gate.masked_fill(keep == 0, -std::numeric_limits<double>::infinity()), -1);
}

LowRank XLora::update(size_t site, const at::Tensor& gate, at::ScalarType dtype) const {
    LowRank update;
    const Factors stacked = ready_.get(site, dtype, [&]() -> Factors {
        return {stack_down(value(down_[site])), stack_up(value(up_[site]))};
    });
    update.a = stacked.a;
    update.b = stacked.b;
    update.gate_kind = Gate::diagonal;
    update.gate_per_token = true;
    update.gate = gate;
    update.scale = options_.global_scale * options_.alpha / static_cast<double>(options_.rank);
    return update;
}

std::unique_ptr<Adaptation> XLora::adapt(const RouteInput& input) {
    check_explicit_weights(input, skill_count());
    for (size_t row = 0; row < input.task_ids.size(); ++row)
        if (input.task_ids[row] != -1) check_task_id(input, static_cast<int>(row), tasks_);
    return std::make_unique<XLoraAdaptation>(*this, input);
}

XLoraAdaptation::XLoraAdaptation(const XLora& method, const RouteInput& input)
    : method_(method),
      rows_(input.row_begin),
      prompt_(input.prompt_length),
      memory_(input.memory),
      weights_(input.weights),
      sink_(input.trace) {
    const auto rows = static_cast<size_t>(input.rows());
    if (prompt_.size() != rows)
        fail(Code::invalid_argument, "prompt_length is given for ", prompt_.size(), " rows, the batch has ",
             rows, ": X-LoRA reads the prompt");
    memory_.resize(rows, nullptr);
    for (size_t b = 0; b < rows; ++b) {
        if (prompt_[b] < 0 || prompt_[b] > rows_[b + 1] - rows_[b])
            fail(Code::invalid_argument, "row ", b, " has a prompt of ", prompt_[b], " tokens, but only ",
                 rows_[b + 1] - rows_[b], " tokens");
        if (prompt_[b] == 0 && !given(b) && !(memory_[b] && !memory_[b]->values.empty()))
            fail_because(Code::invalid_argument, "empty_prompt", "row ", b,
                         " has no prompt token to take its scalings from, and none was read before");
    }
    const XLoraOptions& o = method_.options();
    if (input.mode == Mode::train && o.depth > 1 && o.dropout > 0.0)
        seed_ = noise_seed(input, "xlora_dropout_p");
}

std::vector<int32_t> XLoraAdaptation::history(size_t row, int64_t past) const {
    const auto found = memory_[row]->values.find(kept_tokens);
    if (found == memory_[row]->values.end() || found->second.size(0) < past)
        fail(Code::wrong_state, "row ", row, " goes on, but its earlier tokens were not kept");
    const int32_t* tokens = found->second.const_data_ptr<int32_t>();
    return {tokens, tokens + past};
}

std::vector<XLoraAdaptation::Reading> XLoraAdaptation::readings(const Batch& batch,
                                                                const ForwardOptions& options) const {
    std::vector<Reading> out;
    const bool every = method_.options().every_token;
    for (size_t b = 0; b < prompt_.size(); ++b) {
        if (given(b) || (prompt_[b] == 0 && !every)) continue;
        Reading reading{b, {}, 0};
        if (prompt_[b] == 0) {
            if (!options.cache) fail(Code::wrong_state, "row ", b, " goes on without a cache");
            reading.tokens = history(b, options.cache->length(options.slots[b]));
        }
        const int32_t begin = rows_[b], count = every ? rows_[b + 1] - begin : prompt_[b];
        reading.tokens.insert(reading.tokens.end(), batch.tokens.begin() + begin,
                              batch.tokens.begin() + begin + count);
        reading.states = count;
        if (every && memory_[b]) memory_[b]->values[kept_tokens] = at::tensor(reading.tokens, at::kInt);
        out.push_back(std::move(reading));
    }
    return out;
}

/// Scalings of each reading's last states, laid end to end.
at::Tensor XLoraAdaptation::first_pass(const Backbone& backbone, const std::vector<Reading>& readings,
                                       const std::vector<int32_t>& parent) const {
    Batch batch;
    batch.parent = parent;
    if (!parent.empty() && readings.size() != parent.size())
        fail(Code::unsupported, "xlora: rows that share beginnings all bring their prompt and no weights");
    batch.row_begin = {0};
    std::vector<int64_t> own;
    for (const Reading& reading : readings) {
        batch.tokens.insert(batch.tokens.end(), reading.tokens.begin(), reading.tokens.end());
        for (int64_t i = reading.states; i > 0; --i) own.push_back(batch.size() - i);
        batch.row_begin.push_back(batch.size());
        batch.prompt_length.push_back(static_cast<int32_t>(reading.tokens.size()));
    }
    at::Tensor states;
    {
        at::NoGradGuard no_grad;
        EvenAdaptation even(method_);
        ForwardOptions options;
        if (method_.options().first_pass != 0.0) options.adaptation = &even;
        states = backbone.hidden(batch, options).index_select(0, method_.list(own)).to(at::kFloat);
    }
    return method_.select(method_.scalings(states, seed_));
}

void XLoraAdaptation::begin(const Backbone& backbone, const Batch& batch, const ForwardOptions& options) {
    if (options.embeddings.defined())
        fail(Code::unsupported,
             "xlora: its first pass reads token ids, embeddings in their place cannot be given");
    const XLoraOptions& o = method_.options();
    const std::vector<Reading> reads = readings(batch, options);
    const at::Tensor all = reads.empty() ? at::Tensor() : first_pass(backbone, reads, batch.parent);
    const int64_t layers = o.layerwise ? static_cast<int64_t>(method_.adapted().size()) : 1;
    std::vector<at::Tensor> parts;
    size_t next = 0;
    int64_t begin = 0;
    for (size_t b = 0; b < prompt_.size(); ++b) {
        const int64_t length = rows_[b + 1] - rows_[b];
        if (given(b)) {
            parts.push_back(method_.list(weights_[b]).view({1, 1, -1}).expand({length, layers, -1}));
        } else if (next < reads.size() && reads[next].row == b) {
            const int64_t count = reads[next++].states;
            const at::Tensor own = all.narrow(0, begin, count);
            begin += count;
            parts.push_back(own);
            if (o.every_token) continue;
            const at::Tensor last = own.narrow(0, count - 1, 1);
            if (length > count) parts.push_back(last.expand({length - count, -1, -1}));
            if (memory_[b]) memory_[b]->values[kept_scalings] = last.detach().clone();
        } else {
            const auto found = memory_[b]->values.find(kept_scalings);
            if (found == memory_[b]->values.end())
                fail(Code::wrong_state, "row ", b, " goes on, but has kept no scalings");
            parts.push_back(found->second.expand({length, -1, -1}));
        }
    }
    scalings_ = at::cat(parts, 0);
}

std::vector<LowRank> XLoraAdaptation::at(const Site& site, const at::Tensor& x) {
    const int position = method_.position(site);
    if (position < 0) return {};
    if (!scalings_.defined()) fail(Code::wrong_state, "xlora: at() before begin(), which makes the scalings");
    const at::Tensor gate = scalings_.select(1, method_.options().layerwise ? position : 0);
    if (sink_) (*sink_)[site.path]["weights"] = gate;
    return {method_.update(static_cast<size_t>(position), gate, x.scalar_type())};
}

}  // namespace

std::unique_ptr<Method> make_xlora(const Json& config, const MethodContext& context) {
    ConfigReader reader(config, "xlora");
    reader.accept("method");
    XLoraOptions o;
    std::vector<PeftAdapter> adapters;
    for (const std::string& folder : reader.strings("adapters", {})) adapters.push_back(open_peft(folder));
    const int64_t needed = largest_expert_rank(adapters);
    o.rank = reader.integer("rank", std::max<int64_t>(needed, adapters.empty() ? 8 : 1), 1, 4096);
    if (o.rank < needed)
        reader.refuse("rank", text("the adapters have ranks up to ", needed, ", not ", o.rank));
    o.alpha = reader.number("alpha", static_cast<double>(o.rank), 1e-6, 1e6);
    o.experts =
        reader.integer("n_experts", adapters.empty() ? 4 : static_cast<int64_t>(adapters.size()), 1, 4096);
    if (!adapters.empty() && o.experts != static_cast<int64_t>(adapters.size()))
        reader.refuse("n_experts", text(o.experts, " experts, but ", adapters.size(), " adapters"));
    o.width = reader.integer("hidden_size", 0, 0, 1 << 20);
    o.depth = reader.integer("xlora_depth", 1, 1, 64);
    o.size = reader.integer("xlora_size", 2048, 1, 1 << 20);
    o.dropout = reader.number("xlora_dropout_p", 0.2, 0.0, 0.99);
    o.layerwise = reader.boolean("layerwise_scalings", false);
    o.softmax = reader.boolean("enable_softmax", true);
    o.temperature = reader.number("softmax_temperature", 1.0, 1e-3, 1e3);
    o.top_k = reader.integer("top_k_lora", 0, 0, o.experts);
    o.softmax_top_k = reader.boolean("enable_softmax_topk", false);
    if (o.softmax_top_k && o.top_k == 0) reader.refuse("enable_softmax_topk", "needs top_k_lora");
    o.first_pass = reader.number("scaling_pass_value", 0.0, -1e6, 1e6);
    o.global_scale = reader.number("global_scaling_weight", 1.0, -1e6, 1e6);
    o.train_experts = reader.boolean("use_trainable_adapters", adapters.empty());
    o.every_token = reader.choice("answer_scalings", "prompt", {"prompt", "token"}) == "token";
    o.init = read_skill_init(reader);
    reader.finish();
    return std::make_unique<XLora>(context, o, adapters);
}

}  // namespace polyad
