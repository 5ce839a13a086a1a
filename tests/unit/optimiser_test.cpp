// SPDX-License-Identifier: Apache-2.0
#include "training/optimiser.h"

#include <ATen/ops/from_blob.h>
#include <gtest/gtest.h>

#include <cmath>

#include "base/random.h"

namespace polyad {
namespace {

Parameter parameter(const std::string& name, ParameterGroup group, std::vector<float> values,
                    bool trainable = true) {
    const auto n = static_cast<int64_t>(values.size());
    Parameter out;
    out.name = name;
    out.group = group;
    out.value = at::from_blob(values.data(), {n}, at::TensorOptions().dtype(at::kFloat)).clone();
    out.value.set_requires_grad(trainable);
    out.trainable = trainable;
    return out;
}

void set_gradient(const Parameter& parameter, std::vector<float> values) {
    at::Tensor value = parameter.value;
    value.mutable_grad() =
        at::from_blob(values.data(), value.sizes(), at::TensorOptions().dtype(at::kFloat)).clone();
}

float at0(const at::Tensor& value, int64_t i = 0) {
    return value.detach().data_ptr<float>()[i];
}

/// AdamW as its paper writes it, in double.
struct Reference {
    double p, m = 0, v = 0;
    int t = 0;
    void step(double g, double lr, double wd) {
        ++t;
        m = 0.9 * m + 0.1 * g;
        v = 0.999 * v + 0.001 * g * g;
        const double mh = m / (1 - std::pow(0.9, t)), vh = v / (1 - std::pow(0.999, t));
        p -= lr * wd * p;
        p -= lr * mh / (std::sqrt(vh) + 1e-8);
    }
};

TEST(Optimiser, FollowsAdamWWithEachGroupsOwnRates) {
    std::vector<Parameter> parameters;
    Generator random(1);
    std::vector<float> start(37);
    random.fill_normal(start.data(), start.size(), 0, 1);
    parameters.push_back(parameter("a", ParameterGroup::skills, start));
    parameters.push_back(parameter("z", ParameterGroup::router, start));
    OptimiserOptions options;
    options.group(ParameterGroup::skills) = {1e-2, 0.1};
    options.group(ParameterGroup::router) = {1e-1, 0.0};
    Optimiser optimiser(parameters, options);
    std::vector<Reference> a, z;
    for (float value : start) a.push_back({value}), z.push_back({value});
    for (int step = 0; step < 20; ++step) {
        std::vector<float> gradient(start.size());
        random.fill_normal(gradient.data(), gradient.size(), 0.1, 1);
        set_gradient(parameters[0], gradient);
        set_gradient(parameters[1], gradient);
        const double factor = 1.0 - step / 20.0, scale = 0.5;
        optimiser.step(factor, scale);
        for (size_t i = 0; i < start.size(); ++i) {
            a[i].step(scale * gradient[i], factor * 1e-2, 0.1);
            z[i].step(scale * gradient[i], factor * 1e-1, 0.0);
        }
    }
    for (size_t i = 0; i < start.size(); ++i) {
        EXPECT_NEAR(at0(parameters[0].value, static_cast<int64_t>(i)), a[i].p, 2e-5);
        EXPECT_NEAR(at0(parameters[1].value, static_cast<int64_t>(i)), z[i].p, 2e-4);
    }
}

TEST(Optimiser, LeavesFrozenAndUntouchedParametersAlone) {
    std::vector<Parameter> parameters{parameter("used", ParameterGroup::skills, {1.0f}),
                                      parameter("unused", ParameterGroup::skills, {2.0f}),
                                      parameter("frozen", ParameterGroup::skills, {3.0f}, false)};
    Optimiser optimiser(parameters, {});
    ASSERT_EQ(optimiser.state().size(), 2u);
    set_gradient(parameters[0], {1.0f});
    optimiser.step(1.0, 1.0);
    EXPECT_NE(at0(parameters[0].value), 1.0f);
    EXPECT_EQ(at0(parameters[1].value), 2.0f);  // no gradient: no weight decay either
    EXPECT_EQ(at0(parameters[2].value), 3.0f);
    EXPECT_EQ(optimiser.state()[0].steps, 1);
    EXPECT_EQ(optimiser.state()[1].steps, 0);
    optimiser.clear_gradients();
    EXPECT_FALSE(parameters[0].value.grad().defined());
}

TEST(Optimiser, NormIsOfAllGradientsTogether) {
    std::vector<Parameter> parameters{parameter("a", ParameterGroup::skills, {0, 0}),
                                      parameter("b", ParameterGroup::router, {0})};
    Optimiser optimiser(parameters, {});
    EXPECT_EQ(optimiser.gradient_norm(), 0.0);
    set_gradient(parameters[0], {2, 4});
    set_gradient(parameters[1], {4});
    EXPECT_DOUBLE_EQ(optimiser.gradient_norm(), 6.0);
    EXPECT_NEAR(clip_factor(6.0, 1.5), 0.25, 1e-6);
    EXPECT_EQ(clip_factor(6.0, 10.0), 1.0);
    EXPECT_EQ(clip_factor(6.0, 0.0), 1.0);
}

}  // namespace
}  // namespace polyad
