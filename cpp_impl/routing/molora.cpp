// SPDX-License-Identifier: Apache-2.0
// MoLoRA (methods.md 10, arXiv 2309.05444): every token mixes low-rank experts by a softmax router that reads
// the layer's own input.
//
//     p = softmax(W_r x),   y = W0 x + s sum_e p_e B_e(A_e x),   s = alpha / r
//
// top_k > 0 keeps the k largest p of a token: "renorm" divides them by their sum, "mask" leaves them as they
// are.
#include <ATen/TensorOperators.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include "base/error.h"
#include "routing/method_table.h"
#include "routing/token_routed.h"
#include "skills/mixing.h"

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

    LowRank update(size_t site, const at::Tensor& x, const TokenRoute& route) const override {
        const at::Tensor p = at::softmax(at::mm(x.to(at::kFloat), value(router_[site]).t()), -1);
        const at::Tensor weights = route.replace(select(p));
        route.trace(sites_[site], "probs", p);
        route.trace(sites_[site], "weights", weights);
        LowRank update;
        update.a = stack_down(value(down_[site]));
        update.b = stack_up(value(up_[site]));
        update.gate_kind = Gate::diagonal;
        update.gate_per_token = true;
        update.gate = weights;
        update.scale = alpha_ / static_cast<double>(rank_);
        return update;
    }

    Json config() const override {
        return {{"method", "molora"},
                {"rank", rank_},
                {"alpha", alpha_},
                {"n_experts", experts_},
                {"top_k", top_k_},
                {"top_k_mode", renormalise_ ? "renorm" : "mask"},
                {"init", skill_init_name(init_)}};
    }

  private:
    /// The selection is a constant for the gradient; what is kept, and its sum, are not.
    at::Tensor select(const at::Tensor& p) const {
        if (top_k_ == 0 || top_k_ == experts_) return p;
        // Stable, so that of equal probabilities the lower index stays.
        const at::Tensor order =
            std::get<1>(at::sort(p.detach(), /*stable=*/true, /*dim=*/-1, /*descending=*/true));
        const at::Tensor keep = at::zeros(p.sizes()).scatter_(1, order.narrow(1, 0, top_k_), 1.0);
        const at::Tensor kept = p * keep;
        return renormalise_ ? kept / kept.sum(-1, true) : kept;
    }

    int64_t rank_ = 4, experts_ = 8, top_k_ = 0;
    double alpha_ = 16.0;
    bool renormalise_ = true;
    SkillInit init_ = SkillInit::kaiming;
    std::vector<size_t> down_, up_, router_;  ///< parameter indices per site
};

}  // namespace

std::unique_ptr<Method> make_molora(const Json& config, const MethodContext& context) {
    return std::make_unique<MoLora>(config, context);
}

}  // namespace polyad
