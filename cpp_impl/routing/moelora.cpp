// SPDX-License-Identifier: Apache-2.0
// MOELoRA, task-gated (methods.md 11, arXiv 2310.18339): a task's embedding gates low-rank experts that share
// the rank.
//
//     g = softmax(W_g v_t),   y = W0 x + s sum_e g_e B_e(A_e x),   s = alpha / r with the total rank r,
//     experts of r / E
//
// Static per task, so it collapses: the experts' A stacked, g_e B_e side by side.
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "base/error.h"
#include "routing/method_table.h"
#include "routing/task_routed.h"

namespace polyad {
namespace {

class MoeLora final : public TaskRoutedMethod {
  public:
    MoeLora(const MethodContext& context, PolyOptions options, int64_t experts, int64_t width)
        : TaskRoutedMethod(context, std::move(options)), experts_(experts), width_(width) {
        const int64_t each = options_.rank / experts_;
        for (const Site& site : sites_) {
            const std::string a = site.path + ".lora_a";
            down_.push_back(add(a, ParameterGroup::skills,
                                maker_.down({experts_, each, site.d_in}, a, options_.init, 1)));
            up_.push_back(add(site.path + ".lora_b", ParameterGroup::skills,
                              maker_.zeros({experts_, site.d_out, each})));
        }
        ++tasks_;  // one row more than tasks, as published: the next task to come finds it
        const double bound = 1.0 / std::sqrt(static_cast<double>(width_));
        for (const std::string& table : sharing_.tables) {
            const std::string vectors = table + ".task_embedding", gate = table + ".gate_weight";
            vectors_.push_back(
                add(vectors, ParameterGroup::task_vectors, maker_.normal({tasks_, width_}, vectors, 1.0)));
            gates_.push_back(
                add(gate, ParameterGroup::router, maker_.uniform({experts_, width_}, gate, -bound, bound)));
        }
        set_training(options_.train);
    }

    int skill_count() const override { return static_cast<int>(experts_); }

    std::vector<LowRank> update(size_t site, const Mixture& mixture) const override {
        LowRank update;
        update.a = stack_down(value(down_[site]));
        update.b = stack_up(value(up_[site]));
        update.gate_kind = Gate::diagonal;
        update.gate = mixture.weights[sharing_.table_of_site[site]].select(1, 0).index_select(
            0, row_index(mixture.groups));
        return {std::move(update)};
    }

    void add_task(const std::string& start, Generator& noise) override {
        if (start != "fresh" && start != "uniform")
            fail(Code::invalid_config, "start: '", start, "' is not known, allowed: fresh, uniform");
        for (const size_t index : vectors_) {
            at::Tensor row = at::zeros({1, width_});  // a zero vector gives every expert the same weight
            float* out = row.mutable_data_ptr<float>();
            if (start == "fresh") noise.fill_normal(out, static_cast<size_t>(width_), 0.0, 1.0);
            // The spare row becomes the new task's, and a fresh one takes its place.
            const at::Tensor kept = value(index).detach().narrow(0, 0, tasks_ - 1);
            const at::Tensor spare = value(index).detach().narrow(0, tasks_ - 1, 1);
            replace(index, at::cat({kept, row.to(device_), spare}, 0));
        }
        ++tasks_;
        parameters_changed();
    }

    Json config() const override {
        return {{"method", "moelora_task"},     {"rank", options_.rank},
                {"alpha", options_.alpha},      {"n_experts", experts_},
                {"task_embedding_dim", width_}, {"router_granularity", options_.granularity},
                {"train", options_.train},      {"init", skill_init_name(options_.init)}};
    }

  protected:
    int64_t table_skills() const override { return experts_; }

    Mixture mix(RowGroups groups, const at::Tensor&) const override {
        Mixture mixture;
        mixture.groups = std::move(groups);
        const at::Tensor tasks = task_index(mixture.groups);
        const at::Tensor given = explicit_weights(mixture.groups, 0, experts_);
        for (size_t table = 0; table < sharing_.tables.size(); ++table) {
            at::Tensor weights =
                at::full({tasks.size(0), experts_}, 1.0 / static_cast<double>(experts_), floats());
            if (options_.train != "uniform")
                weights = at::softmax(
                    at::mm(value(vectors_[table]).index_select(0, tasks), value(gates_[table]).t()), -1);
            if (given.defined()) weights = at::cat({weights, given}, 0);
            mixture.weights.push_back(weights.unsqueeze(1));
        }
        mixture.gate = mixture.weights;
        return mixture;
    }

    at::Tensor skill_weights(size_t table, const Mixture& mixture) const override {
        return mixture.weights[table].mean(1);
    }

  private:
    int64_t experts_, width_;
    std::vector<size_t> down_, up_, vectors_, gates_;  ///< parameter indices per site, per table
};

}  // namespace

std::unique_ptr<Method> make_moelora(const Json& config, const MethodContext& context) {
    ConfigReader reader(config, "moelora_task");
    reader.accept("method");
    PolyOptions options;
    options.method = "moelora_task";
    options.rank = reader.integer("rank", 16, 1, 4096);
    options.alpha = reader.number("alpha", 32.0, 1e-6, 1e6);
    const int64_t experts = reader.integer("n_experts", 8, 1, 4096);
    const int64_t width = reader.integer("task_embedding_dim", 64, 1, 65536);
    options.combine = "products";
    options.noise = false;
    options.granularity = read_router_granularity(reader);
    options.train = reader.choice("train", "all", {"all", "router", "skills", "uniform"});
    options.init = read_skill_init(reader);
    reader.finish();
    if (options.rank % experts)
        reader.refuse("n_experts",
                      text(experts, " experts do not divide the rank ", options.rank, " among them"));
    return std::make_unique<MoeLora>(context, std::move(options), experts, width);
}

}  // namespace polyad
