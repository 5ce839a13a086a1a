// SPDX-License-Identifier: Apache-2.0
#include "routing/site_method.h"

#include <cmath>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "routing/row_groups.h"

namespace polyad {

SiteMethod::SiteMethod(const MethodContext& context)
    : sites_(context.sites),
      tasks_(context.tasks),
      device_(context.device),
      maker_(context.seed, context.fill, context.device) {
    for (size_t i = 0; i < sites_.size(); ++i) position_of_index_[sites_[i].index] = static_cast<int>(i);
}

int SiteMethod::position(const Site& site) const {
    const auto found = position_of_index_.find(site.index);
    return found == position_of_index_.end() ? -1 : found->second;
}

size_t SiteMethod::expect_position(const Site& site) const {
    const int at = position(site);
    if (at < 0) fail(Code::invalid_argument, "site '", site.path, "' is not adapted");
    return static_cast<size_t>(at);
}

size_t SiteMethod::add(std::string name, ParameterGroup group, at::Tensor value) {
    if (!value.is_meta()) value.requires_grad_(true);
    parameters_.push_back({std::move(name), group, std::move(value), true});
    return parameters_.size() - 1;
}

void SiteMethod::replace(size_t index, at::Tensor value) {
    parameters_[index].value = value.detach().contiguous();
    parameters_[index].value.requires_grad_(parameters_[index].trainable);
}

void SiteMethod::set_trainable(size_t index, bool trainable) {
    parameters_[index].trainable = trainable;
    if (!value(index).is_meta()) parameters_[index].value.requires_grad_(trainable);
}

void Method::set_training(const std::string& what) {
    if (what != "all")
        fail(Code::invalid_config, "train: this method has no router, allowed: all; got '", what, "'");
}

at::Tensor SiteMethod::token_shares(const RouteInput& input) const {
    if (input.stands_for.empty()) return {};
    POLYAD_CHECK(static_cast<int>(input.stands_for.size()) == input.rows());
    std::vector<float> shares = per_token<float>(input.stands_for, input.row_begin);
    const float all = std::accumulate(shares.begin(), shares.end(), 0.0f);
    for (float& share : shares) share /= all;
    return list(shares).view({-1, 1});
}

void check_explicit_weights(const RouteInput& input, int skills) {
    if (!input.weights.empty() && static_cast<int>(input.weights.size()) != input.rows())
        fail(Code::invalid_argument, "weights are given for ", input.weights.size(), " rows, the batch has ",
             input.rows());
    for (size_t row = 0; row < input.weights.size(); ++row) {
        const std::vector<float>& weights = input.weights[row];
        if (weights.empty()) continue;
        if (static_cast<int>(weights.size()) != skills)
            fail(Code::invalid_argument, "row ", row, " gives ", weights.size(), " skill weights, there are ",
                 skills, " skills");
        for (size_t j = 0; j < weights.size(); ++j)
            if (!std::isfinite(weights[j]))
                fail(Code::invalid_argument, "row ", row, ": weight ", j, " is not a finite number");
    }
}

void check_task_id(const RouteInput& input, int row, int tasks) {
    const auto index = static_cast<size_t>(row);
    const int id = index < input.task_ids.size() ? input.task_ids[index] : -1;
    if (id < 0 || id >= tasks)
        fail_because(Code::unknown_task, "unknown_task", "row ", row, " has task id ", id,
                     ", the task table has ids 0 to ", tasks - 1);
}

at::Tensor recorded_noise(const RouteInput& input, const std::string& path, const char* name) {
    if (!input.recorded) return {};
    const auto site = input.recorded->find(path);
    if (site == input.recorded->end()) return {};
    const auto tensor = site->second.find(name);
    return tensor == site->second.end() ? at::Tensor() : tensor->second;
}

uint64_t noise_seed(const RouteInput& input, const char* what) {
    if (!input.noise) fail(Code::invalid_argument, what, " in train mode needs a noise generator");
    const uint64_t high = input.noise->next_u32();
    return high << 32 | input.noise->next_u32();
}

}  // namespace polyad
