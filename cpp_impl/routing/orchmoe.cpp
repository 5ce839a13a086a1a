// SPDX-License-Identifier: Apache-2.0
#include "routing/orchmoe.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>

#include "backbone/backbone.h"
#include "routing/method_table.h"
#include "skills/mixing.h"

namespace polyad {

OrchOptions OrchOptions::read(const Json& config) {
    ConfigReader reader(config, "orchmoe");
    reader.accept("method");
    OrchOptions o;
    o.rank = reader.integer("rank", 8, 1, 4096);
    o.alpha = reader.number("alpha", 1.0, 1e-6, 1e6);
    o.skills = reader.integer("n_skills", 4, 1, 65536);
    o.splits = reader.integer("n_splits", 1, 1, 65536);
    o.gate_only = reader.choice("router", "latent_tasks", {"latent_tasks", "softmax_gate"}) == "softmax_gate";
    if (o.gate_only) {
        for (const char* key : {"n_latent_tasks", "skill_sampling", "tau", "table_init"})
            if (reader.has(key)) reader.refuse(key, "a softmax gate has no table of latent tasks");
    }
    o.latent_tasks = reader.integer("n_latent_tasks", 8, 1, 65536);
    o.sampling =
        reader.choice("skill_sampling", "relaxed_bernoulli", {"relaxed_bernoulli", "sigmoid", "softmax"});
    o.tau = reader.number("tau", 1.0, 1e-3, 1e3);
    o.table_init = reader.choice("table_init", "uniform", {"uniform", "normal"});
    o.model_scope = reader.choice("router_scope", "layer", {"layer", "model"}) == "model";
    o.attention = reader.boolean("task_attention", true);
    o.pool = reader.choice("task_pool", "mean", {"mean", "last", "first", "none"});
    o.activation =
        reader.choice("task_activation", "softmax", {"softmax", "sigmoid_norm", "none", "st_gumbel"});
    o.task_tau = reader.number("task_tau", 1.0, 1e-3, 1e3);
    o.task_init = reader.choice("task_init", "normal", {"normal", "uniform"});
    o.span = reader.choice("route_span", "prompt", {"prompt", "causal", "all"});
    o.products = reader.choice("combine", "factors", {"factors", "products"}) == "products";
    o.train = reader.choice("train", "all", {"all", "router", "table"});
    o.init = read_skill_init(reader);
    o.per_token = o.pool == "none" || o.span == "causal";
    if (o.products && o.splits > 1)
        fail_because(Code::invalid_config, "products_need_one_split",
                     "orchmoe.combine: products are defined for n_splits = 1 only, n_splits is ", o.splits);
    if (o.per_token && !o.products)
        reader.refuse(
            "combine",
            "a mixture of its own for every token (task_pool none, route_span causal) needs products");
    if (o.span == "causal" && o.pool == "first")
        reader.refuse("task_pool",
                      "the first token says the same at every position: with route_span causal "
                      "allowed are mean, last, none");
    if (o.per_token && o.model_scope)
        reader.refuse("router_scope",
                      "one route for the model is read from the whole prompt: needs route_span prompt and a "
                      "task_pool other than none");
    if (o.gate_only && o.train == "table")
        reader.refuse("train", "a softmax gate has no table of latent tasks");
    reader.finish();
    return o;
}

Json OrchOptions::to_json() const {
    Json out = {{"method", "orchmoe"},
                {"rank", rank},
                {"alpha", alpha},
                {"n_skills", skills},
                {"n_splits", splits},
                {"router", gate_only ? "softmax_gate" : "latent_tasks"},
                {"router_scope", model_scope ? "model" : "layer"},
                {"task_attention", attention},
                {"task_pool", pool},
                {"task_activation", activation},
                {"task_tau", task_tau},
                {"task_init", task_init},
                {"route_span", span},
                {"combine", products ? "products" : "factors"},
                {"train", train},
                {"init", skill_init_name(init)}};
    if (gate_only) return out;
    out["n_latent_tasks"] = latent_tasks;
    out["skill_sampling"] = sampling;
    out["tau"] = tau;
    out["table_init"] = table_init;
    return out;
}

OrchMoe::OrchMoe(const MethodContext& context, OrchOptions options)
    : SiteMethod(context), options_(std::move(options)) {
    const OrchOptions& o = options_;
    const BackboneInfo* model = context.backbone ? &context.backbone->info() : nullptr;
    encoder_decoder_ = model && model->encoder_decoder;
    if (o.model_scope && !model)
        fail(Code::invalid_argument,
             "orchmoe.router_scope: model needs a backbone whose embeddings it reads");
    const auto add_router = [&](const std::string& path, int64_t width) {
        const std::string weight = path + ".task_router_weight";
        const std::vector<int64_t> shape{o.blocks() * o.classes(), width};
        task_weight_.push_back(add(weight, ParameterGroup::router,
                                   o.task_init == "normal" ? maker_.normal(shape, weight, 0.02)
                                                           : maker_.uniform(shape, weight, -1e-3, 1e-3)));
        task_bias_.push_back(add(path + ".task_router_bias", ParameterGroup::router,
                                 maker_.zeros({o.blocks() * o.classes()})));
    };
    for (const Site& site : sites_) {
        if (site.d_in % o.splits || site.d_out % o.splits)
            fail_because(Code::invalid_config, "indivisible_splits", "orchmoe.n_splits: ", o.splits,
                         " does not divide ", site.d_in, " and ", site.d_out, " of '", site.path, "'");
        const bool encoder = encoder_decoder_ && site.stream == Stream::source;
        if (o.span == "all" && !encoder)
            fail(Code::invalid_config, "orchmoe.route_span: all would show '", site.path,
                 "' the answer; allowed there: prompt, causal");
        if (o.per_token && reads_encoder(site))
            fail(
                Code::invalid_config, "orchmoe.route_span: '", site.path,
                "' takes its route from the encoder's states, which are not its own tokens; routes per token "
                "are for encoder sites and decoder-only models");
        const std::string a = site.path + ".lora_a", table = site.path + ".skill_logits";
        down_.push_back(
            add(a, ParameterGroup::skills, maker_.down({o.skills, o.rank, site.d_in}, a, o.init, o.splits)));
        up_.push_back(
            add(site.path + ".lora_b", ParameterGroup::skills, maker_.zeros({o.skills, site.d_out, o.rank})));
        if (!o.model_scope) add_router(site.path, reads_encoder(site) ? model->width : site.d_in);
        if (o.gate_only) continue;
        const std::vector<int64_t> shape{o.latent_tasks, o.splits * o.skills};
        table_.push_back(add(table, ParameterGroup::router,
                             o.table_init == "uniform" ? maker_.uniform(shape, table, -1e-3, 1e-3)
                                                       : maker_.normal(shape, table, 0.5)));
    }
    if (o.model_scope) add_router("router", model->width);
    set_training(o.train);
}

at::Tensor OrchMoe::classify(size_t site, const at::Tensor& g, const at::Tensor& gumbel) const {
    const size_t router = router_of(site);
    const at::Tensor logits = at::addmm(value(task_bias_[router]), g, value(task_weight_[router]).t())
                                  .view({g.size(0), options_.blocks(), options_.classes()});
    if (options_.activation == "none") return logits;
    if (options_.activation == "sigmoid_norm") {
        const at::Tensor gates = at::sigmoid(logits);
        return gates / (gates.sum(-1, true) + 1e-12);
    }
    if (options_.activation == "softmax") return at::softmax(logits, -1);
    // Forward the largest one alone, backward as softmax((logits + noise) / tau).
    const at::Tensor noisy = gumbel.defined() ? logits + gumbel : logits;
    const at::Tensor soft = at::softmax(noisy / options_.task_tau, -1);
    const at::Tensor hard = at::zeros_like(soft.detach()).scatter_(-1, noisy.detach().argmax(-1, true), 1.0);
    return hard - soft.detach() + soft;
}

std::vector<at::Tensor> OrchMoe::task_rows(const at::Tensor& u) const {
    if (table_.empty()) return std::vector<at::Tensor>(sites_.size());
    const auto sites = static_cast<int64_t>(sites_.size());
    const int64_t tasks = options_.latent_tasks, splits = options_.splits, skills = options_.skills;
    std::vector<at::Tensor> tables;
    for (const size_t index : table_) tables.push_back(value(index));
    at::Tensor logits = at::stack(tables).view({sites, tasks, splits, skills});
    if (u.defined()) logits = logits.unsqueeze(1);
    const at::Tensor rows = options_.sampling == "softmax" ? at::softmax(logits, -1)
                                                           : skill_gate(logits, u, options_.tau).weights;
    return rows.flatten(-2).unbind(0);
}

at::Tensor OrchMoe::allocate(const at::Tensor& p, const at::Tensor& rows) const {
    if (options_.gate_only) return p;
    const at::Tensor v = rows.dim() == 3 ? at::bmm(p, rows) : at::mm(p.squeeze(1), rows);
    return v.view({p.size(0), options_.splits, options_.skills});
}

LowRank OrchMoe::update(size_t site, const at::Tensor& weights) const {
    LowRank update;
    update.scale = options_.scale();
    if (options_.products) {
        update.a = stack_down(value(down_[site]));
        update.b = stack_up(value(up_[site]));
        update.gate_kind = Gate::diagonal;
        update.gate = weights.select(1, 0);
        update.gate_per_token = options_.per_token;
        return update;
    }
    update.banks.push_back({value(down_[site]), value(up_[site]), weights, {}, 0});
    for (int32_t row = 0; row < static_cast<int32_t>(weights.size(0)); ++row)
        update.group_of_row.push_back(row);
    return update;
}

std::unique_ptr<Adaptation> OrchMoe::adapt(const RouteInput& input) {
    check_explicit_weights(input, skill_count());
    for (size_t row = 0; row < input.task_ids.size(); ++row)
        if (input.task_ids[row] != -1) check_task_id(input, static_cast<int>(row), tasks_);
    return make_orch_adaptation(*this, input);
}

void OrchMoe::set_training(const std::string& what) {
    const bool known = what == "all" || what == "router" || (what == "table" && !options_.gate_only);
    if (!known)
        fail(Code::invalid_config, "orchmoe.train: '", what, "' is not known, allowed: all, router",
             options_.gate_only ? "" : ", table");
    options_.train = what;
    for (size_t i = 0; i < parameters_.size(); ++i) set_trainable(i, what == "all");
    const auto release = [&](const std::vector<size_t>& indices) {
        for (const size_t index : indices) set_trainable(index, true);
    };
    if (what == "table") release(table_);
    if (what == "router") {
        release(task_weight_);
        release(task_bias_);
    }
}

std::optional<CollapsedSite> OrchMoe::collapse(const Site& site, int) {
    expect_position(site);
    return std::nullopt;
}

void OrchMoe::add_task(const std::string& start, Generator&) {
    if (start != "fresh" && start != "uniform")
        fail(Code::invalid_config, "start: '", start, "' is not known, allowed: fresh, uniform");
    ++tasks_;  // nothing is kept per task
}

std::vector<float> OrchMoe::task_weights(int) {
    at::NoGradGuard no_grad;
    at::Tensor mean = at::full({options_.skills}, 1.0 / static_cast<double>(options_.skills), floats());
    if (!options_.gate_only && !sites_.empty()) {
        const at::Tensor even = at::full({1, 1, options_.latent_tasks},
                                         1.0 / static_cast<double>(options_.latent_tasks), floats());
        std::vector<at::Tensor> sites;
        for (const at::Tensor& rows : task_rows({})) sites.push_back(allocate(even, rows).mean(1));
        mean = at::stack(sites).mean(0).view({-1});
    }
    mean = on_host(mean);
    const float* values = mean.const_data_ptr<float>();
    return {values, values + mean.numel()};
}

std::unique_ptr<Method> make_orchmoe(const Json& config, const MethodContext& context) {
    return std::make_unique<OrchMoe>(context, OrchOptions::read(config));
}

}  // namespace polyad
