// SPDX-License-Identifier: Apache-2.0
// Intuition-MoR1E (methods.md 6, arXiv 2404.08985): rank-1 experts on every linear, weighted by a token
// router and by the instance's scores against clusters of instructions ("intuition").
//
//     Omega = sigmoid(f omega),  Gamma = sigmoid(f gamma),  p = softmax(W_r x)
//     c = c_tok Omega p + c_task (1 - Omega) intuition                              not normalised
//     rank1     :  y = W0 x + Gamma B(c * (A x))              expert e = b_e a_e^T
//     rank1_flex:  v_j = sum_i c[i r2 + j] (A x)_i,  y = W0 x + Gamma B v          expert (i, j) = b_j a_i^T
#include <ATen/TensorOperators.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros_like.h>

#include "base/error.h"
#include "routing/method_table.h"
#include "routing/token_routed.h"
#include "skills/token_logits.h"

namespace polyad {
namespace {

class MoR1E final : public TokenRoutedMethod {
  public:
    MoR1E(const Json& config, const MethodContext& context) : TokenRoutedMethod(context) {
        ConfigReader reader(config, "mor1e");
        reader.accept("method");
        flex_ = reader.choice("variant", "rank1_flex", {"rank1_flex", "rank1"}) == "rank1_flex";
        if (flex_) {
            ranks_in_ = reader.integer("r1", 4, 1, 4096);
            ranks_out_ = reader.integer("r2", 8, 1, 4096);
            experts_ = ranks_in_ * ranks_out_;
        } else {
            experts_ = ranks_in_ = ranks_out_ = reader.integer("rank", 32, 1, 4096);
        }
        c_tok_ = reader.number("c_tok", static_cast<double>(experts_), 0.0, 1e6);
        c_task_ = reader.number("c_task", 4.0, 0.0, 1e6);
        factor_ = reader.number("gate_factor", 100.0, 1e-3, 1e6);
        ablation_ = reader.choice("ablation", "none", {"none", "intuition", "router"});
        init_ = read_skill_init(reader);
        intuition_ = reader.object("intuition");  // the skillset's: where RouteInput::intuition comes from
        reader.finish();
        for (const Site& site : sites_) {
            const std::string a = site.path + ".lora_a";
            down_.push_back(add(a, ParameterGroup::skills, maker_.down({ranks_in_, site.d_in}, a, init_, 1)));
            up_.push_back(
                add(site.path + ".lora_b", ParameterGroup::skills, maker_.zeros({site.d_out, ranks_out_})));
            router_.push_back(add(site.path + ".router_weight", ParameterGroup::router,
                                  maker_.zeros({experts_, site.d_in})));
            omega_.push_back(add(site.path + ".omega", ParameterGroup::scalars, maker_.zeros({1})));
            gamma_.push_back(add(site.path + ".gamma", ParameterGroup::scalars, maker_.zeros({1})));
        }
    }

    int skill_count() const override { return static_cast<int>(experts_); }
    Sharing sharing(Mode) const override { return Sharing::all; }

    LowRank update(size_t site, const at::Tensor& x, const TokenRoute& route) const override {
        const at::Tensor omega = at::sigmoid(value(omega_[site]) * factor_);
        const at::Tensor gamma = at::sigmoid(value(gamma_[site]) * factor_);
        at::Tensor c = at::softmax(token_logits(x, value(router_[site])), -1) * (omega * c_tok_);
        if (ablation_ == "router") c = at::zeros_like(c);
        if (ablation_ != "intuition" && route.intuition.defined())
            c = c + route.per_token(route.intuition.to(at::kFloat)) * ((1.0 - omega) * c_task_);
        c = route.replace(c);
        route.trace(sites_[site], "weights", c);
        LowRank update;
        const Factors pair = ready_.get(site, x.scalar_type(), [&]() -> Factors {
            return {value(down_[site]), value(up_[site])};
        });
        update.a = pair.a;
        update.b = pair.b;
        update.gate_kind = flex_ ? Gate::full : Gate::diagonal;
        update.gate_per_token = true;
        update.gate = c * gamma;
        return update;
    }

    Json config() const override {
        Json out = {{"method", "mor1e"},
                    {"variant", flex_ ? "rank1_flex" : "rank1"},
                    {"c_tok", c_tok_},
                    {"c_task", c_task_},
                    {"gate_factor", factor_},
                    {"ablation", ablation_},
                    {"init", skill_init_name(init_)},
                    {"intuition", intuition_}};
        if (flex_) {
            out["r1"] = ranks_in_;
            out["r2"] = ranks_out_;
        } else {
            out["rank"] = ranks_in_;
        }
        return out;
    }

  private:
    bool flex_ = true;
    int64_t ranks_in_ = 4, ranks_out_ = 8, experts_ = 32;
    double c_tok_ = 32.0, c_task_ = 4.0, factor_ = 100.0;
    std::string ablation_;
    Json intuition_;
    SkillInit init_ = SkillInit::kaiming;
    std::vector<size_t> down_, up_, router_, omega_, gamma_;  ///< parameter indices per site
};

}  // namespace

std::unique_ptr<Method> make_mor1e(const Json& config, const MethodContext& context) {
    return std::make_unique<MoR1E>(config, context);
}

}  // namespace polyad
