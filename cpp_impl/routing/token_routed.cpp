// SPDX-License-Identifier: Apache-2.0
#include "routing/token_routed.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>

#include "backbone/device.h"
#include "base/error.h"

namespace polyad {
namespace {

class TokenAdaptation final : public Adaptation {
  public:
    TokenAdaptation(const TokenRoutedMethod& method, TokenRoute route, RowBegin source_rows, bool train)
        : method_(method), route_(std::move(route)), rows_{route_.rows, std::move(source_rows)} {
        if (train) route_.losses = &losses_;
    }

    std::vector<LowRank> at(const Site& site, const at::Tensor& x) override {
        const int position = method_.position(site);
        if (position < 0) return {};
        route_.rows = rows_[static_cast<size_t>(site.stream)];
        return {method_.update(static_cast<size_t>(position), x, route_)};
    }

    const std::vector<at::Tensor>& losses() const { return losses_; }

  private:
    std::vector<at::Tensor> losses_;
    const TokenRoutedMethod& method_;
    TokenRoute route_;
    RowBegin rows_[2];  ///< per Stream
};

}  // namespace

at::Tensor TokenRoute::per_token(const at::Tensor& value) const {
    std::vector<int64_t> lengths;
    for (size_t b = 0; b + 1 < rows.size(); ++b) lengths.push_back(rows[b + 1] - rows[b]);
    return value.repeat_interleave(device_list(lengths, value.device()), 0, rows.back());
}

at::Tensor TokenRoute::replace(const at::Tensor& weights) const {
    if (!explicit_weights.defined()) return weights;
    return at::where(per_token(has_weights).view({-1, 1}), per_token(explicit_weights), weights);
}

void TokenRoute::trace(const Site& site, const char* name, const at::Tensor& value) const {
    if (sink) (*sink)[site.path][name] = value;
}

std::unique_ptr<Adaptation> TokenRoutedMethod::adapt(const RouteInput& input) {
    const int skills = skill_count();
    check_explicit_weights(input, skills);
    for (size_t row = 0; row < input.task_ids.size(); ++row)
        if (input.task_ids[row] != -1) check_task_id(input, static_cast<int>(row), tasks_);
    TokenRoute route;
    route.rows = input.row_begin;
    route.sink = input.trace;
    route.shares = token_shares(input);
    if (input.intuition.defined()) route.intuition = on_device(input.intuition, device_);
    if (route.intuition.defined() && (route.intuition.dim() != 2 || route.intuition.size(0) != input.rows() ||
                                      route.intuition.size(1) != skills))
        fail(Code::invalid_argument, "intuition has shape ", route.intuition.sizes(), ", needs [",
             input.rows(), ", ", skills, "]");
    if (!input.weights.empty()) {
        std::vector<float> given;
        std::vector<int64_t> has;
        for (const std::vector<float>& weights : input.weights) {
            has.push_back(!weights.empty());
            if (weights.empty())
                given.insert(given.end(), static_cast<size_t>(skills), 0.0f);
            else
                given.insert(given.end(), weights.begin(), weights.end());
        }
        route.explicit_weights = list(given).view({-1, skills});
        route.has_weights = list(has).to(at::kBool);
    }
    return std::make_unique<TokenAdaptation>(*this, std::move(route), input.source_begin,
                                             input.mode == Mode::train);
}

at::Tensor TokenRoutedMethod::auxiliary_loss(Adaptation& adaptation) {
    const auto* own = dynamic_cast<const TokenAdaptation*>(&adaptation);
    if (!own || own->losses().empty()) return {};
    return at::stack(own->losses()).mean();
}

std::optional<CollapsedSite> TokenRoutedMethod::collapse(const Site& site, int) {
    expect_position(site);
    return std::nullopt;
}

void TokenRoutedMethod::add_task(const std::string& start, Generator&) {
    if (start != "fresh" && start != "uniform")
        fail(Code::invalid_config, "start: '", start, "' is not known, allowed: fresh, uniform");
    ++tasks_;
}

std::vector<float> TokenRoutedMethod::task_weights(int) {
    const int skills = skill_count();
    return std::vector<float>(static_cast<size_t>(skills), 1.0f / static_cast<float>(skills));
}

}  // namespace polyad
