// SPDX-License-Identifier: Apache-2.0
#include "training/optimiser.h"

#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>

#include "backbone/cuda.h"
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
    double sum = 0.0;
    if (const kernels::CudaOps* more = many()) {  // one launch and one wait instead of one per parameter
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
        sum = more->sum_squares_many(data.data(), sizes.data(), static_cast<int64_t>(sizes.size()));
        check_device(state_.front().value.device());
        return std::sqrt(sum);
    }
    for (const Moments& moments : state_) {
        const at::Tensor gradient = dense_gradient(moments);
        if (gradient.defined())
            sum += ops_of(gradient).sum_squares(gradient.const_data_ptr<float>(), gradient.numel());
    }
    return std::sqrt(sum);
}

const kernels::CudaOps* Optimiser::many() const {
    return state_.empty() ? nullptr : cuda_ops(state_.front().value.device());
}

void Optimiser::step(double factor, double gradient_scale) {
    const kernels::CudaOps* more = many();
    std::vector<kernels::AdamwTensor> tensors;
    std::vector<at::Tensor> kept;
    std::vector<Moments*> stepped;
    for (Moments& moments : state_) {
        const at::Tensor gradient = dense_gradient(moments);
        if (!gradient.defined()) continue;
        stepped.push_back(&moments);
        const GroupOptions& group = options_.group(moments.group);
        const auto steps = static_cast<double>(moments.steps + 1);
        const double bias1 = 1.0 - std::pow(options_.beta1, steps);
        const double bias2 = 1.0 - std::pow(options_.beta2, steps);
        if (more) {
            tensors.push_back(
                {static_cast<float*>(moments.value.data_ptr()), gradient.const_data_ptr<float>(),
                 moments.first.data_ptr<float>(), moments.second.data_ptr<float>(), moments.value.numel(),
                 static_cast<float>(group.learning_rate * factor), static_cast<float>(group.weight_decay),
                 static_cast<float>(bias1), static_cast<float>(bias2)});
            kept.push_back(gradient);
            continue;
        }
        // Through data_ptr, past autograd's version counter: no graph is alive between backward and here.
        ops_of(gradient).adamw(
            static_cast<float*>(moments.value.data_ptr()), gradient.const_data_ptr<float>(),
            moments.first.data_ptr<float>(), moments.second.data_ptr<float>(), moments.value.numel(),
            static_cast<float>(group.learning_rate * factor), static_cast<float>(options_.beta1),
            static_cast<float>(options_.beta2), static_cast<float>(options_.epsilon),
            static_cast<float>(group.weight_decay), static_cast<float>(bias1), static_cast<float>(bias2),
            static_cast<float>(gradient_scale));
    }
    if (!tensors.empty())
        more->adamw_many(tensors.data(), static_cast<int64_t>(tensors.size()),
                         static_cast<float>(options_.beta1), static_cast<float>(options_.beta2),
                         static_cast<float>(options_.epsilon), static_cast<float>(gradient_scale));
    if (!state_.empty()) check_device(state_.front().value.device());
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
