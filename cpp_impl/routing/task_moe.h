// SPDX-License-Identifier: Apache-2.0
// Task-level mixture of experts (methods.md 5, arXiv 2205.12701): every transformer layer has E experts, and
// a router that reads nothing but the task's vector v_t weighs their OUTPUTS, one weight vector g_l per layer
// and example:
//
//     a_l = router_l(v_t),   g_l = select(a_l; tau),   H_l = sum_e g_l[e] Layer_{l,e}(H_{l-1})
//
// The experts are full trainable copies of the layers, as published, or (expert_kind "lora") low-rank skills
// at the layers' linears: y = W0 x + s sum_e g_l[e] B_e(A_e x).
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "routing/router_tables.h"
#include "routing/site_method.h"
#include "routing/task_moe_options.h"

namespace polyad {

/// The weights of a batch's experts.
struct TaskRoutes {
    at::Tensor weights;  ///< [layers, rows, experts]
    at::Tensor logits;   ///< [layers, rows, experts]; undefined when no row was routed by a router
};

class TaskMoe final : public SiteMethod {
  public:
    TaskMoe(TaskMoeOptions options, const MethodContext& context);

    std::unique_ptr<Adaptation> adapt(const RouteInput& input) override;
    void parameters_changed() override;
    void set_training(const std::string& what) override;
    int skill_count() const override { return static_cast<int>(options_.experts); }
    bool needs_task() const override { return options_.learned() || options_.routing == "task_random"; }
    bool reads_prompt() const override { return false; }
    bool exclusive() const override { return options_.layer_copies; }
    at::Tensor auxiliary_loss(Adaptation& adaptation) override;
    std::optional<CollapsedSite> collapse(const Site& site, int task) override;
    void add_task(const std::string& start, Generator& noise) override;
    std::vector<float> task_weights(int task) override;
    Json config() const override { return options_.to_json(); }

    const TaskMoeOptions& options() const { return options_; }
    /// A tensor of the backbone and its copies.
    struct Copied {
        size_t table;                 ///< the router's layer it belongs to
        std::vector<size_t> experts;  ///< parameter index of each copy
    };
    /// The copies of a frozen tensor, by its Hugging Face path; null when it has none.
    const Copied* copied(const std::string& path) const;
    /// The router's layer of transformer layer `layer`, -1 when it has no experts.
    int table_of_layer(int layer) const;
    /// Update of adapted site `position` under `routes` ("lora").
    LowRank update(size_t position, const TaskRoutes& routes) const;
    /// An expert's tensor; without its gradient while the router's turn lasts (alternate_every).
    at::Tensor expert_value(size_t index) const;
    using SiteMethod::position;

  private:
    void add_copies(const MethodContext& context);
    void add_lora();
    void add_router(const MethodContext& context);
    void check_layers() const;
    /// Experts of router layer `table` that are not disabled.
    std::vector<int64_t> allowed(size_t table) const;
    int64_t layers() const { return static_cast<int64_t>(sharing_.tables.size()); }
    int64_t steps() const;
    double tau() const;
    enum class Turn { both, router, experts };
    Turn turn() const;

    TaskRoutes route(const RouteInput& input) const;
    TaskRoutes learned_routes(const RouteInput& input, const std::optional<uint64_t>& seed) const;
    /// Uniforms of every layer and row: recorded, drawn from the step's seed, or (eval_route "sample") the
    /// task's own.
    at::Tensor uniforms(const RouteInput& input, const std::optional<uint64_t>& seed) const;
    at::Tensor average_routes(int64_t rows) const;
    at::Tensor random_routes(const RouteInput& input, const std::optional<uint64_t>& seed) const;
    void explore(at::Tensor& weights, uint64_t seed) const;
    TaskRoutes routes_of_task(int task) const;

    TaskMoeOptions options_;
    uint64_t seed_;
    RouterSharing sharing_;  ///< one table per transformer layer
    std::unordered_map<int, size_t> table_by_layer_;
    std::map<std::string, Copied> copied_;
    std::vector<size_t> down_, up_;  ///< parameter indices per site
    std::unique_ptr<TaskRouter> router_;
    std::vector<size_t> experts_, routers_;  ///< parameter indices by what they belong to
    size_t vectors_ = 0, steps_ = 0;
    at::Tensor disabled_;  ///< [layers, 1, experts] 1e10 where disabled, or undefined
    /// Version of the step counter when the last training batch was routed: an optimiser step followed if the
    /// parameters change and the counter was not written to meanwhile.
    std::optional<int64_t> routed_at_version_;
};

}  // namespace polyad
