// SPDX-License-Identifier: Apache-2.0
// What every method over sites needs: its parameters in bundle order and the way from a backbone's site to
// its own.
#pragma once

#include <ATen/TensorOperators.h>

#include <string>
#include <unordered_map>
#include <vector>

#include "backbone/device.h"
#include "base/error.h"
#include "routing/method.h"

namespace polyad {

class SiteMethod : public Method {
  public:
    std::vector<Parameter>& parameters() override { return parameters_; }
    at::Device device() const { return device_; }
    at::TensorOptions floats() const { return at::TensorOptions().dtype(at::kFloat).device(device_); }
    /// A list of the host's as a tensor beside the parameters.
    template <class T>
    at::Tensor list(const std::vector<T>& values) const {
        return device_list(values, device_);
    }

  protected:
    explicit SiteMethod(const MethodContext& context);

    /// Position among the adapted sites, -1 when `site` is not adapted.
    int position(const Site& site) const;
    /// The same, Code::invalid_argument when it is not adapted.
    size_t expect_position(const Site& site) const;
    /// Appends a parameter and returns its index.
    size_t add(std::string name, ParameterGroup group, at::Tensor value);
    /// Puts a new leaf in a parameter's place (a table that grew).
    void replace(size_t index, at::Tensor value);
    void set_trainable(size_t index, bool trainable);
    const at::Tensor& value(size_t index) const { return parameters_[index].value; }
    /// Share of each token in a mean over the examples' tokens, [N, 1]: a beginning counts once for every
    /// example that reads it. Undefined where all count alike.
    at::Tensor token_shares(const RouteInput& input) const;

    std::vector<Site> sites_;
    int tasks_ = 0;
    at::Device device_;
    TensorMaker maker_;
    std::vector<Parameter> parameters_;

  private:
    std::unordered_map<int, int> position_of_index_;
};

/// An error whose detail is one of the fixed reasons callers and tests look for ("unknown_task", ...).
template <class... Parts>
[[noreturn]] void fail_because(Code code, const char* reason, const Parts&... parts) {
    throw Error(code, text(reason, ": ", parts...), reason);
}

/// Entries of input.weights: right length, finite. Code::invalid_argument names the row.
void check_explicit_weights(const RouteInput& input, int skills);
/// Code::unknown_task ("unknown_task") for a row that needs a task and names none in [0, tasks).
void check_task_id(const RouteInput& input, int row, int tasks);
/// Mean of `value` [N, *] over the examples' tokens; `shares` as SiteMethod::token_shares makes them.
inline at::Tensor mean_over_tokens(const at::Tensor& value, const at::Tensor& shares) {
    return shares.defined() ? (value * shares).sum(0) : value.mean(0);
}
/// Recorded noise of a site, undefined when there is none.
at::Tensor recorded_noise(const RouteInput& input, const std::string& path, const char* name);
/// Seed of this forward's noise: one draw, so that the generator's state moves by the same amount in every
/// step.
uint64_t noise_seed(const RouteInput& input, const char* what);

}  // namespace polyad
