// SPDX-License-Identifier: Apache-2.0
// MixLoRA (methods.md 12, arXiv 2404.15159): an expert is the whole frozen feed-forward with low-rank factors
// of its own on gate, up and down. One router per feed-forward reads its input, token by token:
//
//     p = softmax(W_r h),   K = the top_k largest (or, with top_p, the largest until their mass reaches it)
//     FFN(h) = sum_{e in K} g_e FFN_e(h),   g_e = p_e / sum_K p  (top_k),  p_e  (top_p),   W_e = W + s B_e
//     A_e
//
// Attention has one plain LoRA. Only the tokens that chose an expert run through it, and what is frozen runs
// once per token: gate and up before the experts part, down behind their weighted sum (it is linear). Balance
// loss over a batch, all layers' tokens together: coef E sum_slot sum_e f_{slot,e} P_e, f = share of tokens
// whose slot-th choice is e, P = mean probability.
#include <ATen/TensorOperators.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>

#include "backbone/backbone.h"
#include "base/error.h"
#include "routing/method_table.h"
#include "routing/ready_factors.h"
#include "routing/router_tables.h"
#include "routing/site_method.h"
#include "skills/token_logits.h"

namespace polyad {
namespace {

class MixLora final : public SiteMethod {
  public:
    MixLora(const Json& config, const MethodContext& context);

    std::unique_ptr<Adaptation> adapt(const RouteInput& input) override;
    at::Tensor auxiliary_loss(Adaptation& adaptation) override;
    int skill_count() const override { return static_cast<int>(experts_); }
    bool needs_task() const override { return false; }
    bool reads_prompt() const override { return false; }  // a token's own state is all its router sees
    bool exclusive() const override { return true; }
    Sharing sharing(Mode) const override { return Sharing::all; }
    bool whole_batch() const override { return balance_ > 0.0; }
    std::optional<CollapsedSite> collapse(const Site& site, int) override {
        expect_position(site);
        return std::nullopt;
    }
    void add_task(const std::string& start, Generator&) override {
        if (start != "fresh" && start != "uniform")
            fail(Code::invalid_config, "start: '", start, "' is not known, allowed: fresh, uniform");
        ++tasks_;
    }
    std::vector<float> task_weights(int) override {  // follows from the tokens: the even mix stands for it
        return std::vector<float>(static_cast<size_t>(experts_), 1.0f / static_cast<float>(experts_));
    }
    Json config() const override;

    int64_t experts() const { return experts_; }
    const std::vector<Site>& sites() const { return sites_; }
    /// Router of a layer's feed-forward [experts, width]; undefined when none of its linears is adapted.
    at::Tensor router(int layer) const {
        const auto found = router_of_layer_.find(layer);
        return found == router_of_layer_.end() ? at::Tensor() : value(found->second);
    }
    /// A group per expert; attention has one.
    LowRank update(size_t position, at::ScalarType dtype) const;
    void parameters_changed() override { ready_.clear(); }
    /// The experts each token takes, best first, [N, slots], and which of them count, [N, slots].
    struct Chosen {
        at::Tensor order, kept;
    };
    Chosen choose(const at::Tensor& p) const;
    /// Weights [N, experts] of what was chosen. The selection is a constant for the gradient.
    at::Tensor weigh(const at::Tensor& p, const Chosen& chosen) const;
    using SiteMethod::position;

  private:
    int64_t rank_ = 16, experts_ = 8, top_k_ = 2;
    double alpha_ = 32.0, top_p_ = 0.0, balance_ = 1e-3;
    SkillInit init_ = SkillInit::kaiming;
    std::vector<size_t> down_, up_;  ///< parameter indices per site
    std::map<int, size_t> router_of_layer_;
    ReadyFactors ready_;
};

/// What one feed-forward of a batch decided.
struct Decision {
    at::Tensor p, order, kept;
};

class MixAdaptation final : public Adaptation {
  public:
    MixAdaptation(const MixLora& method, const RouteInput& input, at::Tensor shares)
        : method_(method),
          rows_{input.row_begin, input.source_begin},
          given_(input.weights),
          shares_(std::move(shares)),
          sink_(input.trace) {
        for (int32_t e = 0; e < method.experts(); ++e) group_of_expert_.push_back(e);
    }

    void begin(const Backbone& backbone, const Batch&, const ForwardOptions&) override {
        encoder_layers_ = backbone.info().encoder_layers;
        decisions_.clear();
    }

    std::vector<LowRank> at(const Site& site, const at::Tensor& x) override {
        const int position = method_.position(site);
        if (position < 0) return {};
        LowRank update = method_.update(static_cast<size_t>(position), x.scalar_type());
        if (site.role != Role::attention) update.group_of_row = group_of_expert_;
        return {std::move(update)};
    }

    std::optional<Spread> spread(int layer, const at::Tensor& x) override {
        const at::Tensor router = method_.router(layer);
        if (!router.defined()) return std::nullopt;
        Decision d;
        d.p = at::softmax(token_logits(x, router), -1);
        const MixLora::Chosen chosen = method_.choose(d.p.detach());
        d.order = chosen.order;
        d.kept = chosen.kept;
        const at::Tensor weights = replace(method_.weigh(d.p, chosen), layer);
        if (sink_)
            for (const Site& site : method_.sites())
                if (site.layer == layer && site.role != Role::attention) {
                    (*sink_)[site.path]["probs"] = d.p;
                    (*sink_)[site.path]["weights"] = weights;
                }
        decisions_[layer] = std::move(d);
        return laid_out(weights);
    }

    /// E sum_slot sum_e f_{slot,e} P_e; undefined before a forward.
    at::Tensor balance() const {
        if (decisions_.empty()) return {};
        at::Tensor probability, taken;  // sums over all layers' tokens
        double tokens = 0.0;
        for (const auto& [layer, d] : decisions_) {
            const auto count = static_cast<double>(d.p.size(0));
            const at::Tensor p = mean_over_tokens(d.p, shares_) * count;
            const at::Tensor f =
                mean_over_tokens(at::zeros(d.p.sizes(), method_.floats()).scatter_add(1, d.order, d.kept),
                                 shares_) *
                count;
            probability = probability.defined() ? probability + p : p;
            taken = taken.defined() ? taken + f : f;
            tokens += count;
        }
        return (taken / tokens * (probability / tokens)).sum() * static_cast<double>(method_.experts());
    }

  private:
    /// The tokens of each expert, expert by expert, as the weights [N, experts] say.
    Spread laid_out(const at::Tensor& weights) const {
        const at::Tensor w = on_host(weights.detach());  // who computes what is the host's to say
        const float* value = w.const_data_ptr<float>();
        const auto experts = static_cast<int32_t>(method_.experts());
        const auto tokens = static_cast<int32_t>(w.size(0));
        Spread out;
        std::vector<int64_t> place;
        out.rows.push_back(0);
        std::vector<char> served(static_cast<size_t>(tokens), 0);
        for (int32_t e = 0; e < experts; ++e) {
            for (int32_t n = 0; n < tokens; ++n) {
                const int64_t at = static_cast<int64_t>(n) * experts + e;
                if (value[at] == 0.0f) continue;
                out.token.push_back(n);
                place.push_back(at);
                served[static_cast<size_t>(n)] = 1;
            }
            out.rows.push_back(static_cast<int32_t>(out.token.size()));
        }
        if (std::find(served.begin(), served.end(), 0) != served.end())
            fail(Code::invalid_argument,
                 "weights: a row gives all experts a weight of 0, which leaves it without "
                 "a feed-forward");
        out.weight = weights.reshape({-1}).index_select(0, method_.list(place));
        return out;
    }

    /// Rows that bring weights of their own use those for all their tokens.
    at::Tensor replace(const at::Tensor& weights, int layer) const {
        if (given_.empty()) return weights;
        const RowBegin& rows = rows_[layer < encoder_layers_ ? 1 : 0];
        std::vector<float> values;
        std::vector<int64_t> marks;
        const auto experts = static_cast<size_t>(method_.experts());
        for (size_t b = 0; b < given_.size(); ++b)
            for (int32_t n = rows[b]; n < rows[b + 1]; ++n) {
                marks.push_back(!given_[b].empty());
                if (given_[b].empty())
                    values.insert(values.end(), experts, 0.0f);
                else
                    values.insert(values.end(), given_[b].begin(), given_[b].end());
            }
        return at::where(method_.list(marks).to(at::kBool).view({-1, 1}),
                         method_.list(values).view({-1, method_.experts()}), weights);
    }

    const MixLora& method_;
    RowBegin rows_[2];
    std::vector<std::vector<float>> given_;
    at::Tensor shares_;  ///< of the tokens in a mean, [N, 1]; undefined = alike
    std::vector<int32_t> group_of_expert_;
    std::map<std::string, std::map<std::string, at::Tensor>>* sink_;
    std::map<int, Decision> decisions_;
    int64_t encoder_layers_ = 0;
};

MixLora::MixLora(const Json& config, const MethodContext& context) : SiteMethod(context) {
    ConfigReader reader(config, "mixlora");
    reader.accept("method");
    rank_ = reader.integer("rank", 16, 1, 4096);
    alpha_ = reader.number("alpha", 32.0, 1e-6, 1e6);
    experts_ = reader.integer("n_experts", 8, 1, 4096);
    top_p_ = reader.number("top_p", 0.0, 0.0, 1.0);
    if (top_p_ == 0.0) top_k_ = reader.integer("top_k", std::min<int64_t>(2, experts_), 1, experts_);
    balance_ = reader.number("balance_weight", 1e-3, 0.0, 1e3);
    init_ = read_skill_init(reader);
    reader.finish();
    const RouterSharing layers = share_routers(sites_, "layerwise");
    for (size_t i = 0; i < sites_.size(); ++i) {
        const Site& site = sites_[i];
        const std::string a = site.path + ".lora_a";
        const int64_t many = site.role == Role::attention ? 1 : experts_;
        down_.push_back(add(a, ParameterGroup::skills, maker_.down({many, rank_, site.d_in}, a, init_, 1)));
        up_.push_back(
            add(site.path + ".lora_b", ParameterGroup::skills, maker_.zeros({many, site.d_out, rank_})));
        if (site.role == Role::attention || router_of_layer_.count(site.layer)) continue;
        const int64_t width = site.role == Role::feed_forward_in ? site.d_in : site.d_out;
        const std::string name = layers.tables[layers.table_of_site[i]] + ".router_weight";
        router_of_layer_[site.layer] =
            add(name, ParameterGroup::router, maker_.normal({experts_, width}, name, 0.02));
    }
}

LowRank MixLora::update(size_t position, at::ScalarType dtype) const {
    LowRank update;
    const Factors factors = ready_.get(position, dtype, [&]() -> Factors {
        return {value(down_[position]), value(up_[position])};
    });
    update.a = factors.a;
    update.b = factors.b;
    update.scale = alpha_ / static_cast<double>(rank_);
    return update;
}

MixLora::Chosen MixLora::choose(const at::Tensor& p) const {
    // Stable, so that of equal probabilities the lower index comes first.
    const auto [sorted, order] = at::sort(p, /*stable=*/true, /*dim=*/-1, /*descending=*/true);
    if (top_p_ == 0.0) return {order.narrow(1, 0, top_k_), at::zeros_like(sorted).narrow(1, 0, top_k_) + 1.0};
    return {order, (sorted.cumsum(-1) - sorted).lt(top_p_).to(at::kFloat)};
}

at::Tensor MixLora::weigh(const at::Tensor& p, const Chosen& chosen) const {
    const at::Tensor kept = p * at::zeros_like(p).detach().scatter(1, chosen.order, chosen.kept);
    return top_p_ == 0.0 ? kept / kept.sum(-1, true) : kept;
}

std::unique_ptr<Adaptation> MixLora::adapt(const RouteInput& input) {
    check_explicit_weights(input, skill_count());
    for (size_t row = 0; row < input.task_ids.size(); ++row)
        if (input.task_ids[row] != -1) check_task_id(input, static_cast<int>(row), tasks_);
    return std::make_unique<MixAdaptation>(*this, input, token_shares(input));
}

at::Tensor MixLora::auxiliary_loss(Adaptation& adaptation) {
    if (balance_ == 0.0) return {};
    const auto* mix = dynamic_cast<MixAdaptation*>(&adaptation);
    POLYAD_CHECK(mix != nullptr);
    const at::Tensor balance = mix->balance();
    return balance.defined() ? balance * balance_ : balance;
}

Json MixLora::config() const {
    Json out = {{"method", "mixlora"},           {"rank", rank_},   {"alpha", alpha_},
                {"n_experts", experts_},         {"top_p", top_p_}, {"balance_weight", balance_},
                {"init", skill_init_name(init_)}};
    if (top_p_ == 0.0) out["top_k"] = top_k_;
    return out;
}

}  // namespace

std::unique_ptr<Method> make_mixlora(const Json& config, const MethodContext& context) {
    return std::make_unique<MixLora>(config, context);
}

}  // namespace polyad
