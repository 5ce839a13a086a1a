// SPDX-License-Identifier: Apache-2.0
// One or more linears with routed skills, small enough to compute by hand.
#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "backbone/low_rank.h"
#include "base/error.h"
#include "routing/method.h"

namespace polyad {

inline at::Tensor matrix(std::vector<float> values, at::IntArrayRef shape) {
    return at::tensor(values, at::kFloat).reshape(shape).clone();
}

inline at::Tensor drawn(at::IntArrayRef shape, uint64_t seed) {
    at::Tensor out = at::empty(shape, at::TensorOptions().dtype(at::kFloat));
    Generator(seed).fill_normal(out.mutable_data_ptr<float>(), static_cast<size_t>(out.numel()), 0.0, 1.0);
    return out;
}

inline double largest_difference(const at::Tensor& a, const at::Tensor& b) {
    return (a.detach().to(at::kDouble) - b.detach().to(at::kDouble)).abs().max().item<double>();
}

/// A method over sites of its own and a batch of rows with given tasks.
class Layer {
  public:
    Layer(const Json& config, int64_t d_in, int64_t d_out, int tasks, int sites = 1, uint64_t seed = 1) {
        for (int i = 0; i < sites; ++i) {
            Site site;
            site.index = i;
            site.layer = i;
            site.path = "model.layers." + std::to_string(i) + ".mlp.up_proj";
            site.d_in = d_in;
            site.d_out = d_out;
            context.sites.push_back(site);
        }
        context.tasks = tasks;
        context.seed = seed;
        method = make_method(config, context);
        weight = at::zeros({d_out, d_in});
    }

    const Site& site(size_t i = 0) const { return context.sites[i]; }
    Parameter& parameter(const std::string& name, size_t i = 0) {
        for (Parameter& p : method->parameters())
            if (p.name == site(i).path + "." + name || p.name == name) return p;
        fail(Code::not_found, name);
    }
    void set(const std::string& name, const at::Tensor& value, size_t i = 0) {
        at::NoGradGuard no_grad;
        parameter(name, i).value.copy_(value.reshape(parameter(name, i).value.sizes()));
        method->parameters_changed();
    }
    /// Gives every parameter values of its own, by name.
    void randomise(uint64_t seed) {
        for (Parameter& p : method->parameters()) {
            at::NoGradGuard no_grad;
            p.value.copy_(drawn(p.value.sizes(), seed + std::hash<std::string>()(p.name) % 1000));
        }
        method->parameters_changed();
    }

    RouteInput input(const std::vector<int32_t>& tasks, int tokens) const {
        RouteInput in;
        for (size_t b = 0; b <= tasks.size(); ++b) in.row_begin.push_back(static_cast<int32_t>(b) * tokens);
        in.prompt_length.assign(tasks.size(), tokens);
        in.task_ids = tasks;
        return in;
    }
    at::Tensor run(const at::Tensor& x, const RouteInput& in, size_t i = 0) {
        adaptation = method->adapt(in);
        return adapted_linear(x, weight, {}, in.row_begin, adaptation->at(site(i), x));
    }
    /// Inside autograd.
    at::Tensor traced(const at::Tensor& x, const std::vector<int32_t>& tasks) {
        return run(x, input(tasks, static_cast<int>(x.size(0) / static_cast<int64_t>(tasks.size()))));
    }
    /// As served: outside autograd, mixtures kept.
    at::Tensor served(const at::Tensor& x, const std::vector<int32_t>& tasks) {
        at::NoGradGuard no_grad;
        return traced(x, tasks);
    }

    MethodContext context;
    std::unique_ptr<Method> method;
    std::unique_ptr<Adaptation> adaptation;
    at::Tensor weight;
};

/// Fixture F of methods.md 16.1: rank 1, two skills, logits [0, ln 3], s = 1.
inline void set_fixture_f(Layer& layer) {
    layer.set("lora_a", matrix({1, 0, 0, 1}, {2, 1, 2}));
    layer.set("lora_b", matrix({1, 0, 0, 1}, {2, 2, 1}));
    layer.set("logits", matrix({0.0f, std::log(3.0f)}, {1, 2}));
}

}  // namespace polyad
