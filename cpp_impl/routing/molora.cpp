// SPDX-License-Identifier: Apache-2.0
// MoLoRA (methods.md 10, arXiv 2309.05444): every token mixes low-rank experts by a softmax router that reads
// the layer's own input.
//
//     p = softmax(W_r x),   y = W0 x + s sum_e p_e B_e(A_e x),   s = alpha / r
//
// top_k > 0 keeps the k largest p of a token: "renorm" divides them by their sum, "mask" leaves them as they
// are. Two loss terms can keep the experts in use, both 0 by default, each the mean over the adapted linears,
// with p over the N tokens of the batch (arXiv 2101.03961, 2202.08906):
//
//     balance_loss * E sum_e f_e mean_n p_ne      f_e = share of the choices that fall on e, a constant; 1
//     when even z_loss * mean_n (log sum_e exp(W_r x)_e)^2
//
// A choice is one of a token's top_k experts, or its best one when routing is dense.
#include <ATen/TensorOperators.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "base/error.h"
#include "routing/method_table.h"
#include "routing/token_routed.h"
#include "skills/mixing.h"
#include "skills/token_logits.h"

namespace polyad {
namespace {

class MoLora final : public TokenRoutedMethod {
  public:
    MoLora(const Json& config, const MethodContext& context) : TokenRoutedMethod(context) {
        ConfigReader reader(config, "molora");
        reader.accept("method");
        rank_ = reader.integer("rank", 4, 1, 4096);
        alpha_ = reader.number("alpha", 16.0, 1e-6, 1e6);
        experts_ = reader.integer("n_experts", 8, 1, 4096);
        top_k_ = reader.integer("top_k", 0, 0, experts_);
        renormalise_ = reader.choice("top_k_mode", "renorm", {"renorm", "mask"}) == "renorm";
        balance_ = reader.number("balance_loss", 0.0, 0.0, 1e6);
        z_loss_ = reader.number("z_loss", 0.0, 0.0, 1e6);
        init_ = read_skill_init(reader);
        reader.finish();
        for (const Site& site : sites_) {
            const std::string a = site.path + ".lora_a", router = site.path + ".router_weight";
            down_.push_back(
                add(a, ParameterGroup::skills, maker_.down({experts_, rank_, site.d_in}, a, init_, 1)));
            up_.push_back(add(site.path + ".lora_b", ParameterGroup::skills,
                              maker_.zeros({experts_, site.d_out, rank_})));
            router_.push_back(
                add(router, ParameterGroup::router, maker_.normal({experts_, site.d_in}, router, 0.02)));
        }
    }

    int skill_count() const override { return static_cast<int>(experts_); }
    Sharing sharing(Mode) const override { return Sharing::all; }
    bool whole_batch() const override { return balance_ + z_loss_ > 0.0; }

    LowRank update(size_t site, const at::Tensor& x, const TokenRoute& route) const override {
        const at::Tensor logits = token_logits(x, value(router_[site]));
        const at::Tensor p = at::softmax(logits, -1);
        const at::Tensor weights = route.replace(select(p));
        if (route.losses && balance_ + z_loss_ > 0.0) route.losses->push_back(loss(logits, p, route));
        route.trace(sites_[site], "probs", p);
        route.trace(sites_[site], "weights", weights);
        LowRank update;
        const Factors stacked = ready_.get(site, x.scalar_type(), [&]() -> Factors {
            return {stack_down(value(down_[site])), stack_up(value(up_[site]))};
        });
        update.a = stacked.a;
        update.b = stacked.b;
        update.gate_kind = Gate::diagonal;
        update.gate_per_token = true;
        update.gate = weights;
        update.scale = alpha_ / static_cast<double>(rank_);
        return update;
    }

    Json config() const override {
        return {
            {"method", "molora"},       {"rank", rank_},     {"alpha", alpha_},
            {"n_experts", experts_},    {"top_k", top_k_},   {"top_k_mode", renormalise_ ? "renorm" : "mask"},
            {"balance_loss", balance_}, {"z_loss", z_loss_}, {"init", skill_init_name(init_)}};
    }

  private:
    /// 1 for the k largest p of each token. Stable, so that of equal probabilities the lower index stays.
    static at::Tensor largest(const at::Tensor& p, int64_t k) {
        const at::Tensor order =
            std::get<1>(at::sort(p.detach(), /*stable=*/true, /*dim=*/-1, /*descending=*/true));
        return at::zeros(p.sizes(), p.options().requires_grad(false)).scatter_(1, order.narrow(1, 0, k), 1.0);
    }

    /// The selection is a constant for the gradient; what is kept, and its sum, are not.
    at::Tensor select(const at::Tensor& p) const {
        if (top_k_ == 0 || top_k_ == experts_) return p;
        const at::Tensor kept = p * largest(p, top_k_);
        return renormalise_ ? kept / kept.sum(-1, true) : kept;
    }

    at::Tensor loss(const at::Tensor& logits, const at::Tensor& p, const TokenRoute& route) const {
        const int64_t choices = std::max<int64_t>(top_k_, 1);
        const at::Tensor share = route.mean(largest(p, choices)) / static_cast<double>(choices);
        const at::Tensor balance = (share * route.mean(p)).sum() * static_cast<double>(experts_);
        return balance * balance_ +
               route.mean(at::logsumexp(logits, {-1}, /*keepdim=*/true).square()).sum() * z_loss_;
    }

    int64_t rank_ = 4, experts_ = 8, top_k_ = 0;
    double alpha_ = 16.0, balance_ = 0.0, z_loss_ = 0.0;
    bool renormalise_ = true;
    SkillInit init_ = SkillInit::kaiming;
    std::vector<size_t> down_, up_, router_;  ///< parameter indices per site
};

}  // namespace

std::unique_ptr<Method> make_molora(const Json& config, const MethodContext& context) {
    return std::make_unique<MoLora>(config, context);
}

}  // namespace polyad
