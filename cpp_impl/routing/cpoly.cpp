// SPDX-License-Identifier: Apache-2.0
// C-Poly (methods.md 3): skills common to all tasks, mixed as in Poly, plus private skills of each task.
//
//     factors_split:  y = W0 x + s ( B_c(A_c x) + B_p(A_p x) )          A_c, B_c = Poly's mix, A_p, B_p =
//     private mix factors_joint:  y = W0 x + s (B_c + B_p)((A_c + A_p) x) products     :  y = W0 x + s (
//     sum_i w_i B_i(A_i x) + sum_j v_j B_j(A_j x) )
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/full.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "base/error.h"
#include "routing/method_table.h"
#include "routing/task_routed.h"

namespace polyad {
namespace {

/// Starting logit of an own private skill under the sigmoid activation; the others start at its negative.
constexpr double sigmoid_start = 4.0;

struct CPolyOptions {
    int64_t common = 3, per_task = 1;
    std::string routing;   ///< learned_full | one_hot | learned_diag
    bool sigmoid = false;  ///< specific_activation
};

class CPoly : public TaskRoutedMethod {
  public:
    CPoly(const MethodContext& context, PolyOptions options, CPolyOptions own);

    int skill_count() const override { return static_cast<int>(own_.common + private_skills()); }
    std::vector<LowRank> update(size_t site, const Mixture& mixture) const override;
    void add_task(const std::string& start, Generator& noise) override;

    Json config() const override {
        Json out = options_.to_json();
        out["common_skills"] = own_.common;
        out["private_skills"] = own_.per_task;
        out["common_noise"] = options_.noise ? "relaxed_bernoulli" : "none";
        out["specific_routing"] = own_.routing;
        out["specific_activation"] = own_.sigmoid ? "sigmoid" : "none";
        return out;
    }

  protected:
    int64_t table_skills() const override { return own_.common; }
    bool collapses_well() const override {
        return options_.combine != "products" || own_.routing != "learned_full";
    }
    Mixture mix(RowGroups groups, const at::Tensor& u) const override;
    void trace(const Mixture& mixture, const RouteInput& input) const override;
    at::Tensor skill_weights(size_t table, const Mixture& mixture) const override;

  private:
    int64_t private_skills() const { return tasks_ * own_.per_task; }
    at::Tensor activated(const at::Tensor& weights) const {
        return own_.sigmoid ? at::sigmoid(weights) / static_cast<double>(own_.per_task) : weights;
    }
    double start_value(bool own) const {
        if (own_.sigmoid) return own ? sigmoid_start : -sigmoid_start;
        return own ? 1.0 / static_cast<double>(own_.per_task) : 0.0;
    }
    /// specific_weights of `tasks` tasks at their start, as far as `maker` fills at all.
    at::Tensor start_table(int64_t tasks, const TensorMaker& maker) const;
    /// v [G, T K] of every table.
    std::vector<at::Tensor> dense_specific(const RowGroups& groups) const;

    FactorBank private_bank(size_t site, const Mixture& mixture) const;
    LowRank private_products(size_t site, const Mixture& mixture) const;
    /// Rows of the private bank that the groups' own tasks have: [G K].
    at::Tensor own_rows(const RowGroups& groups) const;
    /// [G, K] weights of a group's own private skills (one_hot, learned_diag).
    at::Tensor own_weights(size_t table, const RowGroups& groups) const;

    CPolyOptions own_;
    std::vector<size_t> down_, up_, private_down_, private_up_;  ///< parameter indices per site
    std::vector<size_t> logits_, specific_;                      ///< and per table
};

CPoly::CPoly(const MethodContext& context, PolyOptions options, CPolyOptions own)
    : TaskRoutedMethod(context, std::move(options)), own_(std::move(own)) {
    options_.check(sites_);
    const int64_t rank = options_.rank, splits = options_.splits;
    const auto skills = ParameterGroup::skills;
    for (const Site& site : sites_) {
        const std::string a = site.path + ".lora_a", b = site.path + ".lora_b";
        if (own_.common > 0) {
            down_.push_back(
                add(a, skills, maker_.down({own_.common, rank, site.d_in}, a, options_.init, splits)));
            up_.push_back(add(b, skills, maker_.zeros({own_.common, site.d_out, rank})));
        }
        if (own_.per_task > 0) {
            const std::string name = a + "_specific";
            private_down_.push_back(
                add(name, skills, maker_.down({private_skills(), rank, site.d_in}, name, options_.init, 1)));
            private_up_.push_back(
                add(b + "_specific", skills, maker_.zeros({private_skills(), site.d_out, rank})));
        }
    }
    for (const std::string& table : sharing_.tables) {
        const std::string name = table + ".logits";
        if (own_.common > 0)
            logits_.push_back(add(name, ParameterGroup::router,
                                  maker_.uniform({tasks_, splits * own_.common}, name, -1e-3, 1e-3)));
        if (own_.per_task > 0 && own_.routing != "one_hot")
            specific_.push_back(add(table + ".specific_weights", ParameterGroup::private_weights,
                                    start_table(tasks_, maker_)));
    }
    set_training(options_.train);
}

at::Tensor CPoly::start_table(int64_t tasks, const TensorMaker& maker) const {
    const int64_t k = own_.per_task;
    const bool full = own_.routing == "learned_full";
    at::Tensor table = maker.zeros({tasks, full ? tasks * k : k});
    if (maker.fill() != Fill::initialised) return table;
    if (!full) return table.fill_(start_value(true));
    table.fill_(start_value(false));
    for (int64_t t = 0; t < tasks; ++t) table.select(0, t).narrow(0, t * k, k).fill_(start_value(true));
    return table;
}

at::Tensor CPoly::own_rows(const RowGroups& groups) const {
    std::vector<int64_t> rows;
    for (const MixtureKey& key : groups.keys)
        for (int64_t k = 0; k < own_.per_task; ++k) rows.push_back(key.task * own_.per_task + k);
    return list(rows);
}

at::Tensor CPoly::own_weights(size_t table, const RowGroups& groups) const {
    const double even = 1.0 / static_cast<double>(own_.per_task);
    if (own_.routing == "one_hot") return at::full({groups.size(), own_.per_task}, even, floats());
    return activated(value(specific_[table]).index_select(0, task_index(groups)));
}

std::vector<at::Tensor> CPoly::dense_specific(const RowGroups& groups) const {
    const auto tables = static_cast<int64_t>(sharing_.tables.size());
    const int64_t k = own_.per_task, all = private_skills();
    if (tables == 0 || all == 0) return {};
    const at::Tensor index = task_index(groups);
    std::vector<at::Tensor> parts;
    if (index.size(0) > 0) {
        at::Tensor routed;
        if (own_.routing == "one_hot") {
            routed = (at::eye(tasks_, floats()) / static_cast<double>(k))
                         .repeat_interleave(k, 1)
                         .index_select(0, index);
            routed = routed.unsqueeze(0).expand({tables, -1, -1});
        } else {
            std::vector<at::Tensor> values;
            for (const size_t table : specific_) values.push_back(value(table));
            routed = activated(at::stack(values).index_select(1, index));
            if (own_.routing == "learned_diag")
                routed = (at::eye(tasks_, floats()).index_select(0, index).view({1, -1, tasks_, 1}) *
                          routed.unsqueeze(2))
                             .view({tables, -1, all});
        }
        parts.push_back(routed);
    }
    if (const at::Tensor given = explicit_weights(groups, own_.common, all); given.defined())
        parts.push_back(given.unsqueeze(0).expand({tables, -1, -1}));
    return (parts.size() == 1 ? parts[0] : at::cat(parts, 1)).unbind(0);
}

Mixture CPoly::mix(RowGroups groups, const at::Tensor& u) const {
    Mixture mixture;
    mixture.groups = std::move(groups);
    std::vector<at::Tensor> logits;
    for (const size_t index : logits_) logits.push_back(value(index));
    mix_tables(logits, u, mixture);
    // Rows that use only their own task's private skills gather them; the T x T product is never formed.
    const bool gathers = own_.routing != "learned_full" && mixture.groups.routed() == mixture.groups.size();
    if (!gathers) mixture.specific = dense_specific(mixture.groups);
    return mixture;
}

FactorBank CPoly::private_bank(size_t site, const Mixture& mixture) const {
    FactorBank bank{value(private_down_[site]), value(private_up_[site]), {}, {}, 0};
    const size_t table = sharing_.table_of_site[site];
    if (!mixture.specific.empty()) {
        bank.weights = mixture.specific[table].unsqueeze(1);  // no splits
        return bank;
    }
    for (const MixtureKey& key : mixture.groups.keys)
        for (int64_t k = 0; k < own_.per_task; ++k)
            bank.chosen.push_back(static_cast<int32_t>(key.task * own_.per_task + k));
    bank.weights = own_weights(table, mixture.groups).unsqueeze(1);
    return bank;
}

LowRank CPoly::private_products(size_t site, const Mixture& mixture) const {
    const at::Tensor &a = value(private_down_[site]), &b = value(private_up_[site]);
    const int64_t groups = mixture.groups.size(), k = own_.per_task;
    const size_t table = sharing_.table_of_site[site];
    const at::Tensor row_group = row_index(mixture.groups);
    LowRank update;
    if (mixture.specific.empty() && k == 1 && own_.routing == "one_hot") {  // each task's own, as it is
        update.group_of_row = mixture.groups.group_of_row;
        update.banks.push_back(private_bank(site, mixture));
        return update;
    }
    update.gate_kind = Gate::diagonal;
    if (!mixture.specific.empty()) {
        update.a = stack_down(a);
        update.b = stack_up(b);
        update.gate = mixture.specific[table].index_select(0, row_group);
        return update;
    }
    const at::Tensor rows = own_rows(mixture.groups);
    update.a = a.index_select(0, rows).view({groups, k * a.size(1), a.size(2)});
    update.b = b.index_select(0, rows)
                   .view({groups, k, b.size(1), b.size(2)})
                   .permute({0, 2, 1, 3})
                   .reshape({groups, b.size(1), k * b.size(2)});
    update.group_of_row = mixture.groups.group_of_row;
    update.gate = own_weights(table, mixture.groups).index_select(0, row_group);
    return update;
}

std::vector<LowRank> CPoly::update(size_t site, const Mixture& mixture) const {
    const bool has_common = own_.common > 0, has_private = private_skills() > 0;
    const at::Tensor weights = has_common ? mixture.weights[sharing_.table_of_site[site]] : at::Tensor();
    if (options_.combine == "products") {
        std::vector<LowRank> updates;
        if (has_common) {
            LowRank common;
            common.a = stack_down(value(down_[site]));
            common.b = stack_up(value(up_[site]));
            common.gate_kind = Gate::diagonal;
            common.gate = weights.select(1, 0).index_select(0, row_index(mixture.groups));
            updates.push_back(std::move(common));
        }
        if (has_private) updates.push_back(private_products(site, mixture));
        return updates;
    }
    LowRank update;
    update.group_of_row = mixture.groups.group_of_row;
    if (has_common) update.banks.push_back({value(down_[site]), value(up_[site]), weights, {}, 0});
    if (has_private) {
        update.banks.push_back(private_bank(site, mixture));
        // One pair of rank 2r whose halves do not meet; joint: both in the same r ranks.
        if (has_common && options_.combine != "factors_joint") update.banks.back().rank_begin = options_.rank;
    }
    return {std::move(update)};
}

void CPoly::add_task(const std::string& start, Generator& noise) {
    for (const size_t index : logits_) replace(index, with_new_row(value(index), start, noise));
    const int64_t k = own_.per_task;
    for (size_t i = 0; i < private_down_.size(); ++i) {
        const at::Tensor &a = value(private_down_[i]), &b = value(private_up_[i]);
        const at::Tensor fresh = draw_down({k, a.size(1), a.size(2)}, options_.init, 1, noise, device_);
        replace(private_down_[i], at::cat({a.detach(), fresh}, 0));
        replace(private_up_[i], at::cat({b.detach(), at::zeros({k, b.size(1), b.size(2)}, floats())}, 0));
    }
    for (const size_t index : specific_) {
        // Not maker_: that of a loaded skillset leaves tensors uninitialised.
        at::Tensor table = start_table(tasks_ + 1, TensorMaker(0, Fill::initialised, device_));
        table.narrow(0, 0, tasks_).narrow(1, 0, value(index).size(1)).copy_(value(index).detach());
        replace(index, table);
    }
    ++tasks_;
    parameters_changed();
}

void CPoly::trace(const Mixture& mixture, const RouteInput& input) const {
    if (!mixture.specific.empty()) return TaskRoutedMethod::trace(mixture, input);
    Mixture full = mixture;
    full.specific = dense_specific(mixture.groups);
    TaskRoutedMethod::trace(full, input);
}

at::Tensor CPoly::skill_weights(size_t table, const Mixture& mixture) const {
    std::vector<at::Tensor> parts;
    if (own_.common > 0) parts.push_back(mixture.weights[table].mean(1));
    const std::vector<at::Tensor> specific = dense_specific(mixture.groups);
    if (!specific.empty()) parts.push_back(specific[table]);
    return at::cat(parts, 1);
}

/// C-Poly without common skills, each task on its own private skill alone: one LoRA per task and nothing
/// shared. Explicit weights mix the tasks' outputs: y = W0 x + s sum_t v_t B_t(A_t x).
class PrivateLora final : public CPoly {
  public:
    using CPoly::CPoly;
    Json config() const override {
        return {{"method", "private_lora"},
                {"rank", options_.rank},
                {"alpha", options_.alpha},
                {"train", "all"},
                {"init", skill_init_name(options_.init)}};
    }
    void set_training(const std::string& what) override { Method::set_training(what); }
};

}  // namespace

std::unique_ptr<Method> make_private_lora(const Json& config, const MethodContext& context) {
    ConfigReader reader(config, "private_lora");
    reader.accept("method");
    PolyOptions options;
    options.method = "private_lora";
    options.rank = reader.integer("rank", 8, 1, 4096);
    options.alpha = reader.number("alpha", 8.0, 1e-6, 1e6);
    options.combine = "products";
    options.granularity = "finegrained";
    options.noise = false;
    options.train = reader.choice("train", "all", {"all"});
    options.init = read_skill_init(reader);
    reader.finish();
    return std::make_unique<PrivateLora>(context, std::move(options), CPolyOptions{0, 1, "one_hot", false});
}

std::unique_ptr<Method> make_cpoly(const Json& config, const MethodContext& context) {
    ConfigReader reader(config, "cpoly");
    reader.accept("method");
    PolyOptions options = PolyOptions::read(reader, "cpoly", {"factors_split", "factors_joint", "products"});
    options.noise =
        reader.choice("common_noise", "relaxed_bernoulli", {"relaxed_bernoulli", "none"}) != "none";
    CPolyOptions own;
    own.common = reader.integer("common_skills", 3, 0, 65536);
    own.per_task = reader.integer("private_skills", 1, 0, 65536);
    own.routing =
        reader.choice("specific_routing", "learned_full", {"learned_full", "one_hot", "learned_diag"});
    own.sigmoid = reader.choice("specific_activation", "none", {"none", "sigmoid"}) == "sigmoid";
    if (own.common + own.per_task == 0)
        reader.refuse("private_skills", "common_skills and private_skills are both 0: nothing to train");
    reader.finish();
    return std::make_unique<CPoly>(context, std::move(options), std::move(own));
}

}  // namespace polyad
