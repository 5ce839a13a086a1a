// SPDX-License-Identifier: Apache-2.0
#include "training/optimiser.h"

#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>

#include "backbone/device.h"
#include "base/error.h"
#include "kernels/op_table.h"

namespace polyad {
namespace {

/// The gradient as the kernels want it; undefined when the loss did not depend on the parameter.
at::Tensor dense_gradient(const Optimiser::Moments& moments) {
    const at::Tensor& gradient = moments.value.grad();
    if (!gradient.defined()) return {};
    POLYAD_CHECK(gradient.scalar_type() == at::kFloat && gradient.numel() == moments.value.numel());
    return gradient.contiguous();
}

}  // namespace

Optimiser::Optimiser(const std::vector<Parameter>& parameters, const OptimiserOptions& options)
    : options_(options) {
    for (const Parameter& parameter : parameters) {
        if (!parameter.trainable) continue;
        POLYAD_CHECK(parameter.value.scalar_type() == at::kFloat && parameter.value.is_contiguous());
        Moments moments;
        moments.name = parameter.name;
        moments.value = parameter.value;
        moments.group = parameter.group;
        moments.first = at::zeros_like(parameter.value.detach());
        moments.second = at::zeros_like(parameter.value.detach());
        state_.push_back(std::move(moments));
    }
}

double Optimiser::gradient_norm() const {
    std::vector<at::Tensor> kept;
    std::vector<const float*> data;
    std::vector<int64_t> sizes;
    for (const Moments& moments : state_) {
        at::Tensor gradient = dense_gradient(moments);
        if (!gradient.defined()) continue;
        data.push_back(gradient.const_data_ptr<float>());
        sizes.push_back(gradient.numel());
        kept.push_back(std::move(gradient));
    }
    if (kept.empty()) return 0.0;
    const double sum =
        ops_of(kept.front()).sum_squares(data.data(), sizes.data(), static_cast<int64_t>(sizes.size()));
    check_device(kept.front().device());
    return std::sqrt(sum);
}

void Optimiser::step(double factor, double gradient_scale) {
    std::vector<kernels::AdamwTensor> tensors;
    std::vector<at::Tensor> kept;
    std::vector<Moments*> stepped;
    for (Moments& moments : state_) {
        at::Tensor gradient = dense_gradient(moments);
        if (!gradient.defined()) continue;
        const GroupOptions& group = options_.group(moments.group);
        const auto steps = static_cast<double>(moments.steps + 1);
        // Through data_ptr, past autograd's version counter: no graph is alive between backward and here.
        tensors.push_back({static_cast<float*>(moments.value.data_ptr()), gradient.const_data_ptr<float>(),
                           moments.first.data_ptr<float>(), moments.second.data_ptr<float>(),
                           moments.value.numel(), static_cast<float>(group.learning_rate * factor),
                           static_cast<float>(group.weight_decay),
                           static_cast<float>(1.0 - std::pow(options_.beta1, steps)),
                           static_cast<float>(1.0 - std::pow(options_.beta2, steps))});
        kept.push_back(std::move(gradient));
        stepped.push_back(&moments);
    }
    if (tensors.empty()) return;
    ops_of(kept.front())
        .adamw(tensors.data(), static_cast<int64_t>(tensors.size()), static_cast<float>(options_.beta1),
               static_cast<float>(options_.beta2), static_cast<float>(options_.epsilon),
               static_cast<float>(gradient_scale));
    check_device(kept.front().device());
    for (Moments* moments : stepped) ++moments->steps;  // a step that could not be queued is none
}

void Optimiser::clear_gradients() {
    for (Moments& moments : state_) moments.value.mutable_grad() = at::Tensor();
}

double clip_factor(double norm, double max_norm) {
    if (max_norm <= 0.0) return 1.0;
    return std::min(1.0, max_norm / (norm + 1e-6));
}

}  // namespace polyad
