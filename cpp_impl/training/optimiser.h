// SPDX-License-Identifier: Apache-2.0
// AdamW (Loshchilov and Hutter, arXiv 1711.05101) over a skillset's parameters, by group: routing logits see
// a gradient that shrinks like 1/S and only where their task is in the batch, so they need a far larger
// learning rate than the skills and no weight decay (methods.md 8.4, 8.5).
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "skills/parameter.h"

namespace polyad::kernels {
struct CudaOps;
}

namespace polyad {

struct GroupOptions {
    double learning_rate = 1e-3;
    double weight_decay = 0.0;
};

struct OptimiserOptions {
    /// Indexed by ParameterGroup.
    std::array<GroupOptions, 5> groups{{{1e-3, 0.01}, {1e-2, 0.0}, {1e-3, 0.0}, {1e-3, 0.0}, {1e-3, 0.0}}};
    double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;

    GroupOptions& group(ParameterGroup g) { return groups[static_cast<size_t>(g)]; }
    const GroupOptions& group(ParameterGroup g) const { return groups[static_cast<size_t>(g)]; }
};

class Optimiser {
  public:
    /// What Adam remembers of one parameter. `steps` counts its own updates: a parameter without a gradient
    /// in a step is left alone, as PyTorch does.
    struct Moments {
        std::string name;
        at::Tensor value;  ///< the parameter itself
        ParameterGroup group = ParameterGroup::skills;
        at::Tensor first, second;
        int64_t steps = 0;
    };

    /// Takes the parameters that are trainable.
    Optimiser(const std::vector<Parameter>& parameters, const OptimiserOptions& options);

    /// L2 norm of all gradients together.
    double gradient_norm() const;
    /// One update with every gradient multiplied by `gradient_scale` and every learning rate by `factor`.
    void step(double factor, double gradient_scale);
    void clear_gradients();

    const OptimiserOptions& options() const { return options_; }
    std::vector<Moments>& state() { return state_; }
    const std::vector<Moments>& state() const { return state_; }

  private:
    OptimiserOptions options_;
    std::vector<Moments> state_;
};

/// Factor that brings a gradient of this norm down to `max_norm` (1 when it is smaller, or max_norm is 0).
double clip_factor(double norm, double max_norm);

}  // namespace polyad
