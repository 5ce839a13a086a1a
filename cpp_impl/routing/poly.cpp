// SPDX-License-Identifier: Apache-2.0
// Poly (methods.md 8) and MHR (9): every task is a learned mixture of skills shared by all tasks.
//
//     factors :  y = W0 x + s B'(A' x),  A' = sum_j w_j A_j,  B' = sum_j w_j B_j   (per block of features
//     with n_splits > 1) products:  y = W0 x + s sum_j w_j B_j(A_j x)
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/tensor.h>

#include "base/error.h"
#include "routing/method_table.h"
#include "routing/task_routed.h"

namespace polyad {
namespace {

PolyOptions read_options(ConfigReader& reader, const std::string& method) {
    PolyOptions options = PolyOptions::read(reader, method.c_str(), {"factors", "products"});
    options.noise =
        reader.choice("skill_sampling", "relaxed_bernoulli", {"relaxed_bernoulli", "sigmoid"}) != "sigmoid";
    return options;
}

class Poly final : public TaskRoutedMethod {
  public:
    Poly(const MethodContext& context, PolyOptions options, int64_t skills)
        : TaskRoutedMethod(context, std::move(options)), skills_(skills) {
        options_.check(sites_);
        const int64_t rank = options_.rank, splits = options_.splits;
        for (const Site& site : sites_) {
            const std::string name = site.path + ".lora_a";
            down_.push_back(add(name, ParameterGroup::skills,
                                maker_.down({skills_, rank, site.d_in}, name, options_.init, splits)));
            up_.push_back(add(site.path + ".lora_b", ParameterGroup::skills,
                              maker_.zeros({skills_, site.d_out, rank})));
        }
        for (const std::string& table : sharing_.tables) {
            const std::string name = table + ".logits";
            logits_.push_back(add(name, ParameterGroup::router,
                                  maker_.uniform({tasks_, splits * skills_}, name, -1e-3, 1e-3)));
        }
        set_training(options_.train);
    }

    int skill_count() const override { return static_cast<int>(skills_); }

    std::vector<LowRank> update(size_t site, const Mixture& mixture) const override {
        const at::Tensor &a = value(down_[site]), &b = value(up_[site]);
        const at::Tensor& weights = mixture.weights[sharing_.table_of_site[site]];
        LowRank update;
        if (options_.combine == "factors") {
            update.banks.push_back({a, b, weights, {}, 0});
            update.group_of_row = mixture.groups.group_of_row;
        } else {
            update.a = stack_down(a);
            update.b = stack_up(b);
            update.gate_kind = Gate::diagonal;
            update.gate = weights.select(1, 0).index_select(0, row_index(mixture.groups));
        }
        return {std::move(update)};
    }

    void add_task(const std::string& start, Generator& noise) override {
        for (const size_t index : logits_) replace(index, with_new_row(value(index), start, noise));
        ++tasks_;
        parameters_changed();
    }

    Json config() const override {
        Json out = options_.to_json();
        out["n_skills"] = skills_;
        out["skill_sampling"] = options_.noise ? "relaxed_bernoulli" : "sigmoid";
        return out;
    }

  protected:
    int64_t table_skills() const override { return skills_; }

    Mixture mix(RowGroups groups, const at::Tensor& u) const override {
        Mixture mixture;
        mixture.groups = std::move(groups);
        std::vector<at::Tensor> logits;
        for (const size_t index : logits_) logits.push_back(value(index));
        mix_tables(logits, u, mixture);
        return mixture;
    }

    at::Tensor skill_weights(size_t table, const Mixture& mixture) const override {
        return mixture.weights[table].mean(1);
    }

  private:
    int64_t skills_;
    std::vector<size_t> down_, up_, logits_;  ///< parameter indices per site, per table
};

}  // namespace

std::unique_ptr<Method> make_poly(const Json& config, const MethodContext& context) {
    const std::string name = config.at("method").get<std::string>();
    ConfigReader reader(config, name);
    reader.accept("method");
    PolyOptions options = read_options(reader, name);
    const int64_t skills = reader.integer("n_skills", 4, 1, 65536);
    reader.finish();
    return std::make_unique<Poly>(context, std::move(options), skills);
}

}  // namespace polyad
