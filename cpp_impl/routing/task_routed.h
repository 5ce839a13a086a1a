// SPDX-License-Identifier: Apache-2.0
// Methods whose mixture depends on the task (or on weights the caller gives), not on the tokens: Poly, MHR,
// C-Poly. Training mixes the factors of each row's group inside autograd. Serving mixes every task once and
// keeps the result, one plain low-rank pair per task and site (exact: methods.md 17), until a parameter
// changes.
#pragma once

#include <initializer_list>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "routing/factor_cache.h"
#include "routing/router_tables.h"
#include "routing/row_groups.h"
#include "routing/site_method.h"
#include "skills/mixing.h"

namespace polyad {

/// What the Poly-family methods share in their configuration.
struct PolyOptions {
    std::string method;
    int64_t rank = 8, splits = 1;
    double alpha = 1.0, tau = 1.0;
    std::string combine, granularity, train = "all";
    bool noise = true;  ///< relaxed Bernoulli in training
    SkillInit init = SkillInit::kaiming;

    double scale() const { return alpha / static_cast<double>(rank); }
    /// `combines`: values of "combine", the first is the default.
    static PolyOptions read(ConfigReader& reader, const char* method,
                            std::initializer_list<const char*> combines);
    Json to_json() const;
    /// products_need_one_split, indivisible_splits.
    void check(const std::vector<Site>& sites) const;
};

class TaskRoutedMethod : public SiteMethod {
  public:
    std::unique_ptr<Adaptation> adapt(const RouteInput& input) override;
    bool needs_task() const override { return true; }
    Sharing sharing(Mode mode) const override { return samples(mode) ? Sharing::none : Sharing::task; }
    std::optional<CollapsedSite> collapse(const Site& site, int task) override;
    std::vector<float> task_weights(int task) override;
    void parameters_changed() override;
    void set_training(const std::string& what) override;

    /// Updates of a site for `mixture`, scale left out.
    virtual std::vector<LowRank> update(size_t site, const Mixture& mixture) const = 0;
    double scale() const { return options_.scale(); }
    using SiteMethod::position;

  protected:
    TaskRoutedMethod(const MethodContext& context, PolyOptions options);

    /// Fills gates and weights of every table; `u` [tables, routed groups, splits, skills] or undefined.
    virtual Mixture mix(RowGroups groups, const at::Tensor& u) const = 0;
    /// Skills a table has a logit for.
    virtual int64_t table_skills() const = 0;
    /// False when one plain pair per task would be larger than the skills themselves.
    virtual bool collapses_well() const { return true; }
    virtual void trace(const Mixture& mixture, const RouteInput& input) const;
    /// [groups, skill_count()] of a table, averaged over splits.
    virtual at::Tensor skill_weights(size_t table, const Mixture& mixture) const = 0;

    /// z and w of `logits` (one [tasks, splits * skills] per table): explicit weights go in as they are.
    void mix_tables(const std::vector<at::Tensor>& logits, const at::Tensor& u, Mixture& mixture) const;
    /// A logit table with one more row: "fresh" draws it as at the start, "uniform" makes the even mix.
    at::Tensor with_new_row(const at::Tensor& logits, const std::string& start, Generator& noise) const;
    /// Task ids of the routed groups.
    at::Tensor task_index(const RowGroups& groups) const;
    /// Each row's group, [rows].
    at::Tensor row_index(const RowGroups& groups) const;
    /// Explicit weights [begin, begin + count) of the unrouted groups, undefined when there are none.
    at::Tensor explicit_weights(const RowGroups& groups, int64_t begin, int64_t count) const;

    PolyOptions options_;
    RouterSharing sharing_;

  private:
    /// True when every row draws noise of its own.
    bool samples(Mode mode) const {
        return mode == Mode::train && options_.noise && options_.train != "uniform" && table_skills() > 0;
    }
    at::Tensor draw_noise(const RouteInput& input, int64_t groups) const;

    mutable std::mutex cache_mutex_;
    std::shared_ptr<FactorCache> cache_;
    int collapsed_task_ =
        -1;  ///< collapse() is asked site by site: the last task's mixture is kept for the next
    std::shared_ptr<const Mixture> collapsed_;
};

}  // namespace polyad
