// SPDX-License-Identifier: Apache-2.0
#include "routing/task_moe_adaptation.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <utility>

#include "backbone/backbone.h"
#include "backbone/device.h"
#include "base/error.h"
#include "routing/row_groups.h"

namespace polyad {
namespace {

/// y += s sum_e g[e] B_e(A_e x) at every site.
class LoraExperts final : public Adaptation {
  public:
    LoraExperts(const TaskMoe& method, TaskRoutes routes) : method_(method), routes_(std::move(routes)) {}

    std::vector<LowRank> at(const Site& site, const at::Tensor&) override {
        const int position = method_.position(site);
        if (position < 0) return {};
        return {method_.update(static_cast<size_t>(position), routes_)};
    }

  private:
    const TaskMoe& method_;
    TaskRoutes routes_;
};

/// The backbone runs the copies of a layer side by side, each with weight() answering for it, and join() adds
/// their outputs. A row's past keys and values lie with each copy that it uses, so a route that is fixed
/// while a row is generated reads a complete past. Where nothing can flow back into the routes, a copy gets
/// only the rows that weigh it.
class LayerExperts final : public Adaptation {
  public:
    LayerExperts(const TaskMoe& method, TaskRoutes routes, const RouteInput& input)
        : method_(method), routes_(std::move(routes)), rows_{input.row_begin, input.source_begin} {
        if (routes_.weights.requires_grad()) return;
        const at::Tensor weights = routes_on_host_ = on_host(routes_.weights);
        const float* w = weights.const_data_ptr<float>();
        const int64_t layers = weights.size(0), rows = weights.size(1), experts = weights.size(2);
        parts_.resize(static_cast<size_t>(layers * experts));
        for (int64_t l = 0; l < layers; ++l)
            for (int64_t row = 0; row < rows; ++row)
                for (int64_t e = 0; e < experts; ++e)
                    if (*w++ != 0.0f) parts_[static_cast<size_t>(l * experts + e)].push_back(row);
    }

    std::vector<LowRank> at(const Site&, const at::Tensor&) override { return {}; }

    void begin(const Backbone& backbone, const Batch&, const ForwardOptions&) override {
        encoder_layers_ = backbone.info().encoder_layers;
    }

    int copies(int layer, const at::Tensor&) override {
        return method_.table_of_layer(layer) >= 0 ? static_cast<int>(method_.options().experts) : 0;
    }

    std::optional<std::vector<int64_t>> copy_part(int layer, int copy) override {
        const std::vector<int64_t>* part = this->part(layer, copy);
        if (!part || static_cast<int64_t>(part->size()) == routes_.weights.size(1)) return std::nullopt;
        return *part;
    }

    void enter(int layer, int copy) override {
        table_ = method_.table_of_layer(layer);
        expert_ = static_cast<size_t>(copy);
    }

    at::Tensor weight(const std::string& path) override {
        if (table_ < 0) return {};
        const TaskMoe::Copied* copied = method_.copied(path);
        if (!copied || static_cast<int>(copied->table) != table_) return {};
        return method_.expert_value(copied->experts[expert_]);
    }

    at::Tensor join(int layer, const std::vector<at::Tensor>& outputs) override {
        table_ = -1;
        // Streams of an encoder-decoder have rows of their own; the encoder's layers come first.
        const RowBegin& rows = rows_[layer < encoder_layers_ ? 1 : 0];
        const at::Tensor g = routes_.weights[method_.table_of_layer(layer)];
        const at::Tensor row_of = method_.list(row_of_token(rows));
        at::Tensor sum;
        at::ScalarType type = at::kFloat;
        for (size_t e = 0; e < outputs.size(); ++e) {
            if (!outputs[e].defined()) continue;
            const at::Tensor& out = outputs[e];
            type = out.scalar_type();
            const std::vector<int64_t>* some = part(layer, static_cast<int>(e));
            if (some && static_cast<int64_t>(some->size()) == g.size(0) &&
                is_one(layer, static_cast<int64_t>(e)))
                return out;  // everyone's only expert
            const at::Tensor weight = g.select(1, static_cast<int64_t>(e));
            if (!sum.defined())
                sum = at::zeros({row_of.size(0), out.size(1)}, out.options().dtype(at::kFloat));
            if (out.size(0) == row_of.size(0)) {
                sum = sum + out.to(at::kFloat) * weight.index_select(0, row_of).unsqueeze(1);
                continue;
            }
            const at::Tensor places = method_.list(positions(rows, *some));
            sum = sum.index_add(
                0, places,
                out.to(at::kFloat) * weight.index_select(0, row_of.index_select(0, places)).unsqueeze(1));
        }
        POLYAD_CHECK(sum.defined());
        return sum.to(type);
    }

  private:
    /// Rows that weigh a copy; null = the routes carry gradients, all run.
    const std::vector<int64_t>* part(int layer, int copy) const {
        if (parts_.empty()) return nullptr;
        return &parts_[static_cast<size_t>(method_.table_of_layer(layer) * method_.options().experts + copy)];
    }
    bool is_one(int layer, int64_t expert) const {
        const at::Tensor g = routes_on_host_[method_.table_of_layer(layer)];
        return g.select(1, expert).eq(1.0).all().item<bool>();
    }
    static std::vector<int64_t> positions(const RowBegin& rows, const std::vector<int64_t>& some) {
        std::vector<int64_t> out;
        for (const int64_t row : some)
            for (int32_t n = rows[static_cast<size_t>(row)]; n < rows[static_cast<size_t>(row) + 1]; ++n)
                out.push_back(n);
        return out;
    }

    const TaskMoe& method_;
    TaskRoutes routes_;
    RowBegin rows_[2];
    std::vector<std::vector<int64_t>> parts_;  ///< [layers * experts]
    at::Tensor routes_on_host_;                ///< with parts_
    int64_t encoder_layers_ = 0;
    int table_ = -1;  ///< of the layer whose copy runs
    size_t expert_ = 0;
};

}  // namespace

std::unique_ptr<Adaptation> make_lora_experts(const TaskMoe& method, TaskRoutes routes) {
    return std::make_unique<LoraExperts>(method, std::move(routes));
}

std::unique_ptr<Adaptation> make_layer_experts(const TaskMoe& method, TaskRoutes routes,
                                               const RouteInput& input) {
    return std::make_unique<LayerExperts>(method, std::move(routes), input);
}

}  // namespace polyad
