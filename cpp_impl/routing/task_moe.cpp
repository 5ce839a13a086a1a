// SPDX-License-Identifier: Apache-2.0
#include "routing/task_moe.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "backbone/backbone.h"
#include "base/error.h"
#include "routing/method_table.h"
#include "routing/task_moe_adaptation.h"
#include "skills/mixing.h"
#include "skills/temperature.h"

namespace polyad {
namespace {

constexpr double gib = 1024.0 * 1024.0 * 1024.0;

/// The sites whose layers have experts.
MethodContext with_experts(MethodContext context, const TaskMoeOptions& options) {
    const auto vanilla = [&](const Site& site) {
        return std::find(options.vanilla_layers.begin(), options.vanilla_layers.end(), site.layer) !=
               options.vanilla_layers.end();
    };
    for (const int64_t layer : options.vanilla_layers)
        if (std::none_of(context.sites.begin(), context.sites.end(),
                         [&](const Site& site) { return site.layer == layer; }))
            fail(Code::invalid_config, "task_moe.vanilla_layers: there is no adapted layer ", layer);
    std::erase_if(context.sites, vanilla);
    if (context.sites.empty() && !options.vanilla_layers.empty())
        fail(Code::invalid_config, "task_moe.vanilla_layers: no layer is left for experts");
    return context;
}

std::string expert_name(const std::string& path, int64_t expert) {
    return text(path, ".expert_", expert);
}

}  // namespace

TaskMoe::TaskMoe(TaskMoeOptions options, const MethodContext& context)
    : SiteMethod(with_experts(context, options)),
      options_(std::move(options)),
      seed_(context.seed),
      sharing_(share_routers(sites_, "layerwise")) {
    for (size_t i = 0; i < sites_.size(); ++i)
        table_by_layer_.try_emplace(sites_[i].layer, sharing_.table_of_site[i]);
    check_layers();
    if (options_.layer_copies)
        add_copies(context);
    else
        add_lora();
    if (options_.learned()) add_router(context);
    set_training(options_.train);
}

void TaskMoe::check_layers() const {
    for (const auto& [layer, expert] : options_.disabled) {
        if (table_of_layer(static_cast<int>(layer)) < 0)
            fail(Code::invalid_config, "task_moe.disabled_experts: layer ", layer, " has no experts");
        if (expert >= options_.experts)
            fail(Code::invalid_config, "task_moe.disabled_experts: expert ", expert, " of layer ", layer,
                 ", there are ", options_.experts);
    }
    for (const auto& [layer, table] : table_by_layer_)
        if (allowed(table).empty())
            fail(Code::invalid_config, "task_moe.disabled_experts: all experts of layer ", layer,
                 " are disabled");
}

std::vector<int64_t> TaskMoe::allowed(size_t table) const {
    std::vector<int64_t> out;
    for (int64_t e = 0; e < options_.experts; ++e) {
        const auto hits = [&](const auto& pair) {
            return pair.second == e &&
                   table_of_layer(static_cast<int>(pair.first)) == static_cast<int>(table);
        };
        if (std::none_of(options_.disabled.begin(), options_.disabled.end(), hits)) out.push_back(e);
    }
    return out;
}

void TaskMoe::add_lora() {
    for (const Site& site : sites_) {
        const std::string a = site.path + ".lora_a";
        down_.push_back(add(a, ParameterGroup::skills,
                            maker_.down({options_.experts, options_.rank, site.d_in}, a, options_.init, 1)));
        up_.push_back(add(site.path + ".lora_b", ParameterGroup::skills,
                          maker_.zeros({options_.experts, site.d_out, options_.rank})));
        experts_.insert(experts_.end(), {down_.back(), up_.back()});
    }
}

void TaskMoe::add_copies(const MethodContext& context) {
    if (!context.backbone)
        fail(Code::invalid_config,
             "task_moe.expert_kind: 'layer' copies the layers of a backbone, and none is given here; 'lora' "
             "needs its sites only");
    const Backbone& backbone = *context.backbone;
    struct Source {
        std::string path;
        std::vector<int64_t> shape;
        size_t table;
    };
    std::vector<Source> sources;
    for (size_t i = 0; i < sites_.size(); ++i) {
        const Site& site = sites_[i];
        sources.push_back({site.path + ".weight", {site.d_out, site.d_in}, sharing_.table_of_site[i]});
        if (backbone.frozen(site.path + ".bias").defined())
            sources.push_back({site.path + ".bias", {site.d_out}, sharing_.table_of_site[i]});
    }
    for (const NormSite& norm : backbone.norms())
        if (const int table = table_of_layer(norm.layer); norm.layer >= 0 && table >= 0)
            sources.push_back({norm.path, {norm.width}, static_cast<size_t>(table)});

    double numbers = 0.0;
    for (const Source& source : sources) {
        double each = 1.0;
        for (const int64_t size : source.shape) each *= static_cast<double>(size);
        numbers += each * static_cast<double>(options_.experts);
    }
    // Value, gradient and Adam's two moments, float32 each.
    if (const double needed = numbers * 16.0 / gib; needed > options_.memory_gib)
        fail(Code::invalid_config, "task_moe.expert_kind: ", options_.experts, " copies of ", layers(),
             " layers are ", std::llround(numbers / 1e6), " million parameters and take ",
             std::ceil(needed * 10.0) / 10.0, " GiB to train; expert_memory_gib allows ", options_.memory_gib,
             ". Use fewer experts, vanilla_layers, or expert_kind 'lora'");

    for (const Source& source : sources) {
        at::Tensor start;
        if (maker_.fill() == Fill::initialised) start = backbone.frozen(source.path);
        Copied copied{source.table, {}};
        for (int64_t e = 0; e < options_.experts; ++e) {
            const std::string name = expert_name(source.path, e);
            at::Tensor value = maker_.normal(source.shape, name, options_.init_eps);
            if (start.defined()) value.add_(start.view(source.shape));
            copied.experts.push_back(add(name, ParameterGroup::skills, std::move(value)));
            experts_.push_back(copied.experts.back());
        }
        copied_.emplace(source.path, std::move(copied));
    }
}

void TaskMoe::add_router(const MethodContext& context) {
    at::Tensor given = context.task_vectors;
    if (!options_.given_vectors.empty()) {
        std::vector<at::Tensor> rows;
        for (const std::vector<float>& row : options_.given_vectors)
            rows.push_back(at::tensor(row).view({1, -1}));
        given = at::cat(rows, 0);
        options_.given_vectors.clear();
    }
    const bool fresh = maker_.fill() == Fill::initialised;
    if (fresh && given.defined()) {
        if (given.dim() != 2 || given.size(0) != tasks_)
            fail(Code::invalid_config, "task_moe.task_vectors: vectors of shape ", given.sizes(), " for ",
                 tasks_, " tasks");
        if (options_.vector_width > 0 && given.size(1) != options_.vector_width)
            fail(Code::invalid_config, "task_moe.task_vectors: the vectors have ", given.size(1),
                 " entries, task_vec_dim says ", options_.vector_width);
        options_.vector_width = given.size(1);
    } else if (fresh && options_.task_vectors != "random") {
        fail(Code::invalid_config, "task_moe.task_vectors: '", options_.task_vectors,
             "' vectors are not drawn but computed from the tasks' examples, and none came here");
    }
    if (options_.vector_width == 0) options_.vector_width = 768;

    at::Tensor vectors = maker_.normal({tasks_, options_.vector_width}, "task_vectors", 1.0);
    if (fresh && given.defined()) vectors.copy_(given);
    vectors_ = add("task_vectors", ParameterGroup::task_vectors, std::move(vectors));
    TensorShelf shelf;
    shelf.add = [this](const std::string& name, at::Tensor tensor) {
        routers_.push_back(add(name, ParameterGroup::router, std::move(tensor)));
        return routers_.back();
    };
    shelf.value = [this](size_t index) -> const at::Tensor& { return value(index); };
    router_ = make_task_router(options_.router, {sharing_.tables, options_.experts, options_.vector_width},
                               maker_, std::move(shelf));
    steps_ = add(
        "router_steps", ParameterGroup::scalars,
        maker_.fill() == Fill::shapes_only ? maker_.zeros({1}) : maker_.zeros({1}).cpu());  // the host counts

    if (options_.disabled.empty() || maker_.fill() == Fill::shapes_only) return;
    disabled_ = at::zeros({layers(), 1, options_.experts});
    for (const auto& [layer, expert] : options_.disabled)
        disabled_[table_of_layer(static_cast<int>(layer))][0][expert] = 1e10;
    disabled_ = disabled_.to(device_);
}

void TaskMoe::set_training(const std::string& what) {
    const bool known =
        what == "all" || what == "experts" || (options_.learned() && (what == "router" || what == "uniform"));
    if (!known)
        fail(Code::invalid_config, "task_moe.train: '", what, "' is not known, allowed: all, experts",
             options_.learned() ? ", router, uniform" : " (these routes have nothing to learn)");
    options_.train = what;
    for (const size_t index : experts_) set_trainable(index, what != "router");
    const bool routes = what == "all" || what == "router";
    for (const size_t index : routers_) set_trainable(index, routes);
    if (!options_.learned()) return;
    set_trainable(vectors_, routes && options_.train_vectors);
    set_trainable(steps_, false);
}

const TaskMoe::Copied* TaskMoe::copied(const std::string& path) const {
    const auto found = copied_.find(path);
    return found == copied_.end() ? nullptr : &found->second;
}

int TaskMoe::table_of_layer(int layer) const {
    const auto found = table_by_layer_.find(layer);
    return found == table_by_layer_.end() ? -1 : static_cast<int>(found->second);
}

int64_t TaskMoe::steps() const {
    const float counted = value(steps_).const_data_ptr<float>()[0];
    return counted > 0.0f ? static_cast<int64_t>(counted) : 0;
}

double TaskMoe::tau() const {
    return tau_at(options_.tau0, options_.tau_rate, options_.tau_min, steps());
}

/// The temperature falls with the optimiser's steps, which nobody tells a method of: one has happened when
/// the parameters change after a training batch was routed. A checkpoint that is read instead writes the
/// counter.
void TaskMoe::parameters_changed() {
    if (!options_.learned()) return;
    const at::Tensor& counter = value(steps_);
    if (routed_at_version_ && *routed_at_version_ == static_cast<int64_t>(counter._version()))
        static_cast<float*>(counter.data_ptr())[0] += 1.0f;
    routed_at_version_.reset();
}

TaskMoe::Turn TaskMoe::turn() const {
    if (!options_.learned() || options_.alternate_every == 0) return Turn::both;
    const auto moves = [&](const std::vector<size_t>& indices) {
        return std::any_of(indices.begin(), indices.end(),
                           [&](size_t index) { return value(index).requires_grad(); });
    };
    if (!moves(experts_) || !(moves(routers_) || value(vectors_).requires_grad())) return Turn::both;
    return steps() / options_.alternate_every % 2 == 0 ? Turn::router : Turn::experts;
}

at::Tensor TaskMoe::expert_value(size_t index) const {
    return turn() == Turn::router && at::GradMode::is_enabled() ? value(index).detach() : value(index);
}

LowRank TaskMoe::update(size_t position, const TaskRoutes& routes) const {
    LowRank update;
    update.a = stack_down(expert_value(down_[position]));
    update.b = stack_up(expert_value(up_[position]));
    update.gate_kind = Gate::diagonal;
    update.gate = routes.weights[static_cast<int64_t>(sharing_.table_of_site[position])];
    update.scale = options_.scale();
    return update;
}

std::unique_ptr<Adaptation> TaskMoe::adapt(const RouteInput& input) {
    TaskRoutes routes = route(input);
    if (input.mode == Mode::train && at::GradMode::is_enabled() && options_.learned()) {
        routed_at_version_ = static_cast<int64_t>(value(steps_)._version());
        if (turn() == Turn::experts) routes.weights = routes.weights.detach();
    }
    if (input.trace)
        for (size_t i = 0; i < sites_.size(); ++i) {
            const auto table = static_cast<int64_t>(sharing_.table_of_site[i]);
            auto& site = (*input.trace)[sites_[i].path];
            site["weights"] = routes.weights[table];
            if (routes.logits.defined()) site["router_logits"] = routes.logits[table];
        }
    if (options_.layer_copies) {
        for (size_t row = 0; row < input.weights.size(); ++row) {
            const std::vector<float>& given = input.weights[row];
            const double sum = std::accumulate(given.begin(), given.end(), 0.0);
            if (!given.empty() && std::abs(sum - 1.0) > 1e-3)
                fail(Code::invalid_argument, "row ", row,
                     ": weights of layer copies average their outputs and "
                     "must sum to 1, these sum to ",
                     sum);
        }
        return make_layer_experts(*this, std::move(routes), input);
    }
    return make_lora_experts(*this, std::move(routes));
}

/// lambda sum_l mean_{e < f} sum_theta |theta_e - theta_f|_2
at::Tensor TaskMoe::auxiliary_loss(Adaptation&) {
    if (options_.regularization == 0.0 || options_.experts < 2) return {};
    at::Tensor sum;
    const auto far = [&](const at::Tensor& a, const at::Tensor& b) {
        const at::Tensor norm = at::linalg_vector_norm(a - b);
        sum = sum.defined() ? sum + norm : norm;
    };
    for (int64_t e = 0; e < options_.experts; ++e)
        for (int64_t f = e + 1; f < options_.experts; ++f) {
            for (const auto& [path, copied] : copied_)
                far(expert_value(copied.experts[static_cast<size_t>(e)]),
                    expert_value(copied.experts[static_cast<size_t>(f)]));
            if (options_.layer_copies) continue;
            for (const size_t index : experts_) far(expert_value(index)[e], expert_value(index)[f]);
        }
    const double pairs = static_cast<double>(options_.experts * (options_.experts - 1)) / 2.0;
    return sum * (options_.regularization / pairs);
}

std::optional<CollapsedSite> TaskMoe::collapse(const Site& site, int task) {
    if (options_.layer_copies) return std::nullopt;
    const size_t position = expect_position(site);
    const at::NoGradGuard no_grad;
    const at::Tensor weights =
        on_host(routes_of_task(task).weights[static_cast<int64_t>(sharing_.table_of_site[position])][0]);
    std::vector<at::Tensor> a, b;
    for (int64_t e = 0; e < options_.experts; ++e) {
        const float weight = weights.const_data_ptr<float>()[e];
        if (weight == 0.0f) continue;
        a.push_back(value(down_[position])[e]);
        b.push_back(value(up_[position])[e] * (weight * options_.scale()));
    }
    return CollapsedSite{at::cat(a, 0).contiguous(), at::cat(b, 1).contiguous()};
}

void TaskMoe::add_task(const std::string& start, Generator& noise) {
    if (start != "fresh" && start != "average")
        fail(Code::invalid_config, "start: '", start,
             "' is not known to task_moe, allowed: fresh, average (of "
             "the known tasks' vectors); the even mix of experts is routing 'average'");
    if (options_.learned()) {
        const at::Tensor known = value(vectors_).detach();
        at::Tensor row;
        if (start == "average" && tasks_ > 0) {
            row = known.mean(0, true);
        } else {
            row = at::empty({1, options_.vector_width}, at::TensorOptions().dtype(at::kFloat));
            noise.fill_normal(row.mutable_data_ptr<float>(), static_cast<size_t>(row.numel()), 0.0, 1.0);
        }
        replace(vectors_, at::cat({known, row.to(device_)}, 0));
    }
    ++tasks_;
}

std::vector<float> TaskMoe::task_weights(int task) {
    const at::NoGradGuard no_grad;
    const at::Tensor mean = on_host(routes_of_task(task).weights.select(1, 0).mean(0));
    const float* values = mean.const_data_ptr<float>();
    return {values, values + mean.numel()};
}

TaskRoutes TaskMoe::routes_of_task(int task) const {
    if (task < 0 || task >= tasks_)
        fail_because(Code::unknown_task, "unknown_task", "task id ", task, ", the task table has ids 0 to ",
                     tasks_ - 1);
    RouteInput input;
    input.row_begin = {0, 1};
    input.task_ids = {task};
    return route(input);
}

std::unique_ptr<Method> make_task_moe(const Json& config, const MethodContext& context) {
    return std::make_unique<TaskMoe>(TaskMoeOptions::read(config), context);
}

}  // namespace polyad
