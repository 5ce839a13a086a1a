// SPDX-License-Identifier: Apache-2.0
// Which experts a batch's rows get (methods.md 5.2, 5.3, 5.5).
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include "backbone/device.h"
#include "base/error.h"
#include "routing/task_moe.h"

namespace polyad {
namespace {

at::Tensor given_weights(const RouteInput& input, int64_t experts, at::Device device, at::Tensor& has) {
    std::vector<float> values;
    std::vector<int64_t> marks;
    for (const std::vector<float>& weights : input.weights) {
        marks.push_back(!weights.empty());
        if (weights.empty())
            values.insert(values.end(), static_cast<size_t>(experts), 0.0f);
        else
            values.insert(values.end(), weights.begin(), weights.end());
    }
    has = device_list(marks, device).to(at::kBool).view({1, -1, 1});
    return device_list(values, device).view({1, -1, experts});
}

}  // namespace

TaskRoutes TaskMoe::route(const RouteInput& input) const {
    check_explicit_weights(input, skill_count());
    const auto explicit_row = [&](int row) {
        return !input.weights.empty() && !input.weights[static_cast<size_t>(row)].empty();
    };
    const auto rows = static_cast<size_t>(input.rows());
    if (!input.task_ids.empty() && input.task_ids.size() != rows)
        fail(Code::invalid_argument, "task ids are given for ", input.task_ids.size(),
             " rows, the batch has ", rows);
    for (int row = 0; row < input.rows(); ++row) {
        const int task = input.task_ids.empty() ? -1 : input.task_ids[static_cast<size_t>(row)];
        if (needs_task() ? !explicit_row(row) : task != -1) check_task_id(input, row, tasks_);
    }
    const bool uniform = options_.train == "uniform";
    const bool draws = input.mode == Mode::train && !input.recorded && !uniform &&
                       (options_.learned() ? options_.select != ExpertChoice::softmax ||
                                                 options_.exploration > 0 || options_.router.draws()
                                           : options_.routing == "instance_random");
    std::optional<uint64_t> seed;
    if (draws) seed = noise_seed(input, "routing of task_moe");

    TaskRoutes routes;
    if (uniform || options_.routing == "average")
        routes.weights = average_routes(input.rows());
    else if (options_.learned())
        routes = learned_routes(input, seed);
    else
        routes.weights = random_routes(input, seed);
    if (!input.weights.empty()) {
        at::Tensor has;
        const at::Tensor given = given_weights(input, options_.experts, device_, has);
        routes.weights = at::where(has, given, routes.weights);
    }
    return routes;
}

TaskRoutes TaskMoe::learned_routes(const RouteInput& input, const std::optional<uint64_t>& seed) const {
    std::vector<int64_t> ids;  // rows with weights of their own need no task: any stands in
    for (int row = 0; row < input.rows(); ++row) {
        const int task = input.task_ids.empty() ? -1 : input.task_ids[static_cast<size_t>(row)];
        ids.push_back(std::max(task, 0));
    }
    const bool train = input.mode == Mode::train;
    std::optional<Generator> dropout;
    if (train && seed) dropout = named_generator(*seed, "router_dropout");
    TaskRoutes routes;
    routes.logits =
        router_->logits(value(vectors_).index_select(0, list(ids)), dropout ? &*dropout : nullptr);
    const at::Tensor z = disabled_.defined() ? routes.logits - disabled_ : routes.logits;
    if (!train && options_.eval_route == "argmax") {
        routes.weights = largest_expert(z);
    } else if (!train && options_.eval_route == "softmax") {
        routes.weights = choose_experts(z, ExpertChoice::softmax, tau(), {});
    } else {
        const bool noisy = options_.select != ExpertChoice::softmax;
        routes.weights =
            choose_experts(z, options_.select, tau(), noisy ? uniforms(input, seed) : at::Tensor());
    }
    if (train && seed && options_.exploration > 0.0) explore(routes.weights, *seed);
    return routes;
}

at::Tensor TaskMoe::uniforms(const RouteInput& input, const std::optional<uint64_t>& seed) const {
    const int64_t rows = input.rows(), experts = options_.experts;
    at::Tensor u = at::empty({layers(), rows, experts}, at::TensorOptions().dtype(at::kFloat));
    for (int64_t l = 0; l < layers(); ++l) {
        const auto table = static_cast<size_t>(l);
        float* out = u.mutable_data_ptr<float>() + l * rows * experts;
        const std::string& site = sites_[sharing_.first_site[table]].path;
        if (const at::Tensor recorded = recorded_noise(input, site, "u"); recorded.defined()) {
            u[l].copy_(recorded.view({rows, experts}));
        } else if (input.recorded) {
            fail(Code::invalid_argument, "no recorded noise 'u' for site '", site, "'");
        } else if (seed) {
            named_generator(*seed, sharing_.tables[table])
                .fill_uniform(out, static_cast<size_t>(rows * experts));
        } else {
            // "sample" in evaluation: one draw per task, the same in every forward.
            for (int64_t row = 0; row < rows; ++row) {
                const int task = input.task_ids.empty() ? -1 : input.task_ids[static_cast<size_t>(row)];
                named_generator(seed_, text("eval_route/", sharing_.tables[table], "/", task))
                    .fill_uniform(out + row * experts, static_cast<size_t>(experts));
            }
        }
    }
    return on_device(u, device_);
}

at::Tensor TaskMoe::average_routes(int64_t rows) const {
    at::Tensor weights = at::zeros({layers(), 1, options_.experts});
    for (int64_t l = 0; l < layers(); ++l) {
        const std::vector<int64_t> experts = allowed(static_cast<size_t>(l));
        for (const int64_t e : experts) weights[l][0][e] = 1.0 / static_cast<double>(experts.size());
    }
    return on_device(weights, device_).expand({-1, rows, -1}).contiguous();
}

/// "instance_random": a one-hot of its own for every row and layer of a training batch, one route for all in
/// evaluation. "task_random": random_experts of a layer's experts at equal weight, fixed per task.
at::Tensor TaskMoe::random_routes(const RouteInput& input, const std::optional<uint64_t>& seed) const {
    const int64_t rows = input.rows(), experts = options_.experts;
    at::Tensor weights = at::zeros({layers(), rows, experts});
    float* out = weights.mutable_data_ptr<float>();
    const bool by_task = options_.routing == "task_random";
    for (int64_t l = 0; l < layers(); ++l) {
        const auto table = static_cast<size_t>(l);
        const std::vector<int64_t> choices = allowed(table);
        const auto many = static_cast<uint32_t>(choices.size());
        Generator fresh = named_generator(seed.value_or(seed_), "instance_random/" + sharing_.tables[table]);
        const uint64_t common = seed ? 0 : fresh.below(many);
        for (int64_t row = 0; row < rows; ++row, out += experts) {
            if (!by_task) {
                out[choices[seed ? fresh.below(many) : common]] = 1.0f;
                continue;
            }
            const int task = input.task_ids.empty() ? -1 : input.task_ids[static_cast<size_t>(row)];
            const std::vector<uint32_t> order =
                named_generator(seed_, text("task_random/", sharing_.tables[table], "/", task))
                    .permutation(many);
            const auto taken = std::min<size_t>(static_cast<size_t>(options_.random_experts), order.size());
            for (size_t k = 0; k < taken; ++k) out[choices[order[k]]] = 1.0f / static_cast<float>(taken);
        }
    }
    return on_device(weights, device_);
}

/// With probability `exploration` a row's route in a layer gives way to a random one.
void TaskMoe::explore(at::Tensor& weights, uint64_t seed) const {
    const int64_t rows = weights.size(1), experts = options_.experts;
    at::Tensor instead = at::zeros({layers(), rows, experts});
    std::vector<int64_t> marks;
    float* out = instead.mutable_data_ptr<float>();
    for (int64_t l = 0; l < layers(); ++l) {
        Generator draw = named_generator(seed, "exploration/" + sharing_.tables[static_cast<size_t>(l)]);
        const std::vector<int64_t> choices = allowed(static_cast<size_t>(l));
        for (int64_t row = 0; row < rows; ++row, out += experts) {
            marks.push_back(draw.uniform() < options_.exploration);
            const uint64_t one = draw.below(choices.size());
            if (options_.exploration_route == "one_hot")
                out[choices[one]] = 1.0f;
            else
                for (const int64_t e : choices) out[e] = 1.0f / static_cast<float>(choices.size());
        }
    }
    weights =
        at::where(list(marks).to(at::kBool).view({layers(), rows, 1}), on_device(instead, device_), weights);
}

}  // namespace polyad
