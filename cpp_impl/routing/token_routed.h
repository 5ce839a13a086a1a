// SPDX-License-Identifier: Apache-2.0
// Methods whose mixture is read from each token at each site: nothing to collapse, nothing a task is needed
// for.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "routing/ready_factors.h"
#include "routing/site_method.h"
#include "skills/mixing.h"

namespace polyad {

/// What a token router may need of its batch.
struct TokenRoute {
    RowBegin rows;
    at::Tensor explicit_weights;  ///< [rows, skills], undefined when no row brings any
    at::Tensor has_weights;       ///< [rows] 1 for rows that bring their own
    at::Tensor intuition;         ///< [rows, skills] or undefined (MoR1E)
    at::Tensor shares;            ///< [tokens, 1] of each token in mean(); undefined = alike
    std::map<std::string, std::map<std::string, at::Tensor>>* sink = nullptr;
    std::vector<at::Tensor>* losses = nullptr;  ///< training: takes each site's loss term

    /// `value` [rows, *] for every token of its row.
    at::Tensor per_token(const at::Tensor& value) const;
    /// `weights` [tokens, skills], rows that bring their own weights using those instead.
    at::Tensor replace(const at::Tensor& weights) const;
    at::Tensor mean(const at::Tensor& value) const { return mean_over_tokens(value, shares); }
    void trace(const Site& site, const char* name, const at::Tensor& value) const;
};

class TokenRoutedMethod : public SiteMethod {
  public:
    std::unique_ptr<Adaptation> adapt(const RouteInput& input) override;
    bool needs_task() const override { return false; }
    bool causal() const override { return true; }  // a token's own state is all its router sees
    std::optional<CollapsedSite> collapse(const Site& site, int) override;
    void add_task(const std::string& start, Generator& noise) override;
    /// Depends on the tokens: the even mix stands for it in reports.
    std::vector<float> task_weights(int task) override;
    /// Mean over the sites of what update() put into TokenRoute::losses.
    at::Tensor auxiliary_loss(Adaptation& adaptation) override;
    void parameters_changed() override { ready_.clear(); }

    virtual LowRank update(size_t site, const at::Tensor& x, const TokenRoute& route) const = 0;
    using SiteMethod::position;

  protected:
    using SiteMethod::SiteMethod;
    ReadyFactors ready_;  ///< a site's factors side by side, a [1, R, d_in] and b [1, d_out, R]
};

}  // namespace polyad
