// SPDX-License-Identifier: Apache-2.0
// Adapters that were made apart, side by side: each a skill, mixed by weights that a request gives or a
// task's row of the table holds (methods.md 0.3 with a diagonal gate; LoraHub, arXiv 2307.13269, learns such
// rows).
//
//     y = W0 x + b + sum_k w_k B_k(A_k x)          A_k [r_k, d_in], B_k [d_out, r_k], any r_k, scales inside
//     B_k
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/full.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <map>
#include <set>

#include "base/error.h"
#include "routing/method_table.h"
#include "routing/site_method.h"

namespace polyad {
namespace {

constexpr size_t most_adapters = 1024;
constexpr int64_t largest_rank = 65536;

struct Member {
    std::string name;
    int64_t rank = 8;
    std::map<std::string, int64_t> ranks;  ///< of single sites, 0 = leaves the site alone

    int64_t rank_at(const std::string& path) const {
        const auto own = ranks.find(path);
        return own == ranks.end() ? rank : own->second;
    }
    Json to_json() const { return {{"name", name}, {"rank", rank}, {"rank_pattern", ranks}}; }
};

/// config["adapters"]; without it one adapter per task.
std::vector<Member> read_members(const Json& config, ConfigReader& reader, int tasks) {
    reader.accept("adapters");
    const int64_t rank = reader.integer("rank", 8, 1, largest_rank);
    Json list = Json::array();
    if (const auto given = config.find("adapters"); given != config.end())
        list = *given;
    else
        for (int t = 0; t < std::max(tasks, 1); ++t) list.push_back(Json::object());
    if (!list.is_array() || list.empty() || list.size() > most_adapters)
        reader.refuse("adapters", text("needs a list of 1 to ", most_adapters,
                                       " objects {\"name\", \"rank\", \"rank_pattern\"}"));
    std::vector<Member> members;
    std::set<std::string> names;
    for (const Json& item : list) {
        const std::string where = text("lora_set.adapters[", members.size(), "]");
        ConfigReader own(item, where);
        Member member;
        member.name = own.string("name", "adapter" + std::to_string(members.size()));
        member.rank = own.integer("rank", rank, 1, largest_rank);
        const Json pattern = own.object("rank_pattern");
        ConfigReader ranks(pattern, where + ".rank_pattern");
        for (const auto& entry : pattern.items())
            member.ranks[entry.key()] = ranks.integer(entry.key().c_str(), 0, 0, largest_rank);
        own.finish();
        if (!names.insert(member.name).second) own.refuse("name", text("'", member.name, "' is there twice"));
        members.push_back(std::move(member));
    }
    return members;
}

class LoraSet final : public SiteMethod {
  public:
    LoraSet(const Json& config, const MethodContext& context) : SiteMethod(context) {
        ConfigReader reader(config, "lora_set");
        reader.accept("method");
        members_ = read_members(config, reader, tasks_);
        train_ = reader.choice("train", "all", {"all", "router"});
        init_ = read_skill_init(reader);
        reader.finish();
        for (const Site& site : sites_) {
            Place place;
            for (const Member& member : members_) {
                place.begin.push_back(place.ranks);
                place.ranks += member.rank_at(site.path);
            }
            place.begin.push_back(place.ranks);
            if (place.ranks > 0) {
                const std::string name = site.path + ".lora_a";
                place.down =
                    add(name, ParameterGroup::skills, maker_.down({place.ranks, site.d_in}, name, init_, 1));
                place.up = add(site.path + ".lora_b", ParameterGroup::skills,
                               maker_.zeros({site.d_out, place.ranks}));
            }
            places_.push_back(std::move(place));
        }
        weights_ = add("weights", ParameterGroup::router, start_table());
        set_training(train_);
    }

    int skill_count() const override { return static_cast<int>(members_.size()); }
    bool needs_task() const override { return true; }
    Sharing sharing(Mode) const override { return Sharing::task; }

    void set_training(const std::string& what) override {
        if (what != "all" && what != "router")
            fail(Code::invalid_config, "lora_set.train: '", what, "' is not known, allowed: all, router");
        train_ = what;
        for (size_t i = 0; i < parameters_.size(); ++i) set_trainable(i, what == "all" || i == weights_);
    }

    std::unique_ptr<Adaptation> adapt(const RouteInput& input) override;

    std::optional<CollapsedSite> collapse(const Site& site, int task) override {
        at::NoGradGuard no_grad;
        const Place& place = places_[expect_position(site)];
        const at::Tensor row = on_host(table_row(task));
        std::vector<at::Tensor> a = {value(weights_).new_zeros({0, site.d_in})},
                                b = {value(weights_).new_zeros({site.d_out, 0})};
        for (size_t k = 0; k < members_.size(); ++k) {
            const int64_t begin = place.begin[k], ranks = place.begin[k + 1] - begin;
            const double weight = row[static_cast<int64_t>(k)].item<double>();
            if (ranks == 0 || weight == 0.0) continue;
            a.push_back(value(place.down).narrow(0, begin, ranks));
            b.push_back(value(place.up).narrow(1, begin, ranks) * weight);
        }
        return CollapsedSite{at::cat(a, 0), at::cat(b, 1)};
    }

    void add_task(const std::string& start, Generator&) override {
        if (start != "fresh" && start != "uniform")
            fail(Code::invalid_config, "start: '", start, "' is not known, allowed: fresh, uniform");
        replace(weights_, at::cat({value(weights_).detach(), even_rows(1)}, 0));
        ++tasks_;
    }

    std::vector<float> task_weights(int task) override {
        const at::Tensor row = on_host(table_row(task));
        return {row.const_data_ptr<float>(), row.const_data_ptr<float>() + row.numel()};
    }

    Json config() const override {
        Json list = Json::array();
        for (const Member& member : members_) list.push_back(member.to_json());
        return {{"method", "lora_set"},
                {"adapters", std::move(list)},
                {"train", train_},
                {"init", skill_init_name(init_)}};
    }

    /// The update of a site under `weights` [rows, adapters]; `used` = adapters with a weight in some row.
    std::vector<LowRank> update(size_t site, const at::Tensor& weights,
                                const std::vector<int64_t>& used) const {
        const Place& place = places_[site];
        std::vector<int64_t> present, of_rank;  // adapters with ranks here; of each rank its adapter
        for (const int64_t k : used) {
            const int64_t ranks = place.ranks_of(k);
            if (ranks > 0) present.push_back(k);
            of_rank.insert(of_rank.end(), static_cast<size_t>(ranks), k);
        }
        if (present.empty()) return {};
        LowRank update;
        const auto ranks = static_cast<int64_t>(of_rank.size());
        if (ranks == place.ranks) {
            update.a = value(place.down);
            update.b = value(place.up);
        } else {
            std::vector<at::Tensor> a, b;
            for (const int64_t k : present) {
                a.push_back(
                    value(place.down).narrow(0, place.begin[static_cast<size_t>(k)], place.ranks_of(k)));
                b.push_back(
                    value(place.up).narrow(1, place.begin[static_cast<size_t>(k)], place.ranks_of(k)));
            }
            update.a = at::cat(a, 0);
            update.b = at::cat(b, 1);
        }
        update.gate_kind = Gate::diagonal;
        const auto adapters = static_cast<int64_t>(present.size());
        const bool even = std::all_of(present.begin(), present.end(), [&](int64_t k) {
            return place.ranks_of(k) * adapters == ranks;  // one weight then covers all its ranks
        });
        if (even && adapters == skill_count())
            update.gate = weights;
        else
            update.gate = weights.index_select(1, list(even ? present : of_rank));
        return {std::move(update)};
    }
    using SiteMethod::position;

  private:
    struct Place {
        size_t down = 0, up = 0;     ///< parameter indices
        int64_t ranks = 0;           ///< of all adapters together
        std::vector<int64_t> begin;  ///< [adapters + 1] first rank of each

        int64_t ranks_of(int64_t adapter) const {
            return begin[static_cast<size_t>(adapter) + 1] - begin[static_cast<size_t>(adapter)];
        }
    };

    at::Tensor even_rows(int64_t rows) const {
        return at::full({rows, skill_count()}, 1.0f / static_cast<float>(skill_count()), floats());
    }
    /// Tasks that are the adapters themselves start as these, any others as the even mix.
    at::Tensor start_table() const {
        at::Tensor table = maker_.zeros({tasks_, skill_count()});
        if (maker_.fill() == Fill::initialised)
            table.copy_(tasks_ == skill_count() ? at::eye(tasks_, floats()) : even_rows(tasks_));
        return table;
    }
    at::Tensor table_row(int task) const {
        if (task < 0 || task >= tasks_)
            fail_because(Code::unknown_task, "unknown_task", "task id ", task,
                         ", the task table has ids 0 to ", tasks_ - 1);
        return value(weights_).detach()[task];
    }

    std::vector<Member> members_;
    std::string train_;
    SkillInit init_ = SkillInit::kaiming;
    std::vector<Place> places_;  ///< [sites]
    size_t weights_ = 0;         ///< [tasks, adapters]
};

class LoraSetAdaptation final : public Adaptation {
  public:
    LoraSetAdaptation(const LoraSet& method, at::Tensor weights, std::vector<int64_t> used)
        : method_(method), weights_(std::move(weights)), used_(std::move(used)) {}

    std::vector<LowRank> at(const Site& site, const at::Tensor&) override {
        const int position = method_.position(site);
        if (position < 0) return {};
        return method_.update(static_cast<size_t>(position), weights_, used_);
    }

  private:
    const LoraSet& method_;
    at::Tensor weights_;
    std::vector<int64_t> used_;
};

std::unique_ptr<Adaptation> LoraSet::adapt(const RouteInput& input) {
    check_explicit_weights(input, skill_count());
    std::vector<at::Tensor> rows;
    for (int row = 0; row < input.rows(); ++row) {
        const auto index = static_cast<size_t>(row);
        if (index < input.weights.size() && !input.weights[index].empty()) {
            rows.push_back(list(input.weights[index]));
            continue;
        }
        check_task_id(input, row, tasks_);
        rows.push_back(value(weights_)[input.task_ids[index]]);
    }
    const at::Tensor weights = rows.empty() ? even_rows(0) : at::stack(rows);
    if (input.trace)
        for (const Site& site : sites_) (*input.trace)[site.path]["weights"] = weights;
    // Adapters nobody uses cost nothing; in training a weight of 0 still has a gradient.
    const bool learns = at::GradMode::is_enabled() || input.mode == Mode::train;
    const at::Tensor any = on_host(weights.detach().ne(0).any(0));
    std::vector<int64_t> used;
    for (int64_t k = 0; k < skill_count(); ++k)
        if (learns || any.const_data_ptr<bool>()[k]) used.push_back(k);
    return std::make_unique<LoraSetAdaptation>(*this, weights, std::move(used));
}

}  // namespace

std::unique_ptr<Method> make_lora_set(const Json& config, const MethodContext& context) {
    return std::make_unique<LoraSet>(config, context);
}

}  // namespace polyad
