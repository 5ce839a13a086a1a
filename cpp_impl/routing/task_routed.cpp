// SPDX-License-Identifier: Apache-2.0
#include "routing/task_routed.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "backbone/device.h"
#include "base/error.h"

namespace polyad {
namespace {

constexpr int64_t cache_budget_bytes = int64_t{512} << 20;

/// Training, and evaluation inside autograd: one group per mixture of the batch.
class MixedAdaptation final : public Adaptation {
  public:
    MixedAdaptation(const TaskRoutedMethod& method, Mixture mixture)
        : method_(method), mixture_(std::move(mixture)) {}

    std::vector<LowRank> at(const Site& site, const at::Tensor&) override {
        const int position = method_.position(site);
        if (position < 0) return {};
        std::vector<LowRank> updates = method_.update(static_cast<size_t>(position), mixture_);
        for (LowRank& update : updates) update.scale *= method_.scale();
        return updates;
    }

  private:
    const TaskRoutedMethod& method_;
    Mixture mixture_;
};

/// Serving: rows pick a slot of the cache.
class CachedAdaptation final : public Adaptation {
  public:
    CachedAdaptation(const TaskRoutedMethod& method, std::shared_ptr<FactorCache> cache,
                     std::vector<int32_t> slots, const std::vector<int32_t>& group_of_row)
        : method_(method), cache_(std::move(cache)), slots_(std::move(slots)) {
        for (const int32_t group : group_of_row) slot_of_row_.push_back(slots_[static_cast<size_t>(group)]);
    }

    std::vector<LowRank> at(const Site& site, const at::Tensor& x) override {
        const int position = method_.position(site);
        if (position < 0) return {};
        const auto index = static_cast<size_t>(position);
        const FactorCache::Stacked stacked =
            cache_->at(index, slots_, x.scalar_type(),
                       [&](const Mixture& mixture) { return fold(method_.update(index, mixture)); });
        LowRank update;
        update.a = stacked.a;
        update.b = stacked.b;
        update.group_of_row = slot_of_row_;
        update.scale = method_.scale();
        return {std::move(update)};
    }

  private:
    const TaskRoutedMethod& method_;
    std::shared_ptr<FactorCache> cache_;
    std::vector<int32_t> slots_, slot_of_row_;
};

RowGroups one_group(const MixtureKey& key) {
    return {{key}, {0}};
}

}  // namespace

PolyOptions PolyOptions::read(ConfigReader& reader, const char* name,
                              std::initializer_list<const char*> combines) {
    PolyOptions options;
    options.method = name;
    options.rank = reader.integer("rank", 8, 1, 4096);
    options.alpha = reader.number("alpha", 1.0, 1e-6, 1e6);
    options.splits = reader.integer("n_splits", options.method == "mhr" ? 8 : 1, 1, 65536);
    options.tau = reader.number("tau", 1.0, 1e-3, 1e3);
    options.combine = reader.choice("combine", *combines.begin(), combines);
    options.granularity = read_router_granularity(reader);
    options.train = reader.choice("train", "all", {"all", "router", "skills", "uniform"});
    options.init = read_skill_init(reader);
    return options;
}

Json PolyOptions::to_json() const {
    return {{"method", method},
            {"rank", rank},
            {"alpha", alpha},
            {"n_splits", splits},
            {"tau", tau},
            {"combine", combine},
            {"router_granularity", granularity},
            {"train", train},
            {"init", skill_init_name(init)}};
}

void PolyOptions::check(const std::vector<Site>& sites) const {
    if (combine == "products" && splits > 1)
        fail_because(Code::invalid_config, "products_need_one_split", method,
                     ".combine: products are defined for ", "n_splits = 1 only, n_splits is ", splits);
    for (const Site& site : sites)
        if (site.d_in % splits || site.d_out % splits)
            fail_because(Code::invalid_config, "indivisible_splits", method, ".n_splits: ", splits,
                         " does not divide both features of site '", site.path, "' (", site.d_in, " in, ",
                         site.d_out, " out)");
}

TaskRoutedMethod::TaskRoutedMethod(const MethodContext& context, PolyOptions options)
    : SiteMethod(context),
      options_(std::move(options)),
      sharing_(share_routers(sites_, options_.granularity)) {}

at::Tensor TaskRoutedMethod::with_new_row(const at::Tensor& logits, const std::string& start,
                                          Generator& noise) const {
    at::Tensor row = at::zeros({1, logits.size(1)});
    if (start == "fresh")
        noise.fill_uniform(row.mutable_data_ptr<float>(), static_cast<size_t>(row.numel()), -1e-3, 1e-3);
    else if (start != "uniform")
        fail(Code::invalid_config, "start: '", start, "' is not known, allowed: fresh, uniform");
    return at::cat({logits.detach(), row.to(device_)}, 0);
}

at::Tensor TaskRoutedMethod::row_index(const RowGroups& groups) const {
    return list(std::vector<int64_t>(groups.group_of_row.begin(), groups.group_of_row.end()));
}

at::Tensor TaskRoutedMethod::task_index(const RowGroups& groups) const {
    std::vector<int64_t> ids;
    for (const MixtureKey& key : groups.keys)
        if (key.routed()) ids.push_back(key.task);
    return list(ids);
}

at::Tensor TaskRoutedMethod::explicit_weights(const RowGroups& groups, int64_t begin, int64_t count) const {
    std::vector<at::Tensor> rows;
    for (const MixtureKey& key : groups.keys)
        if (!key.routed()) rows.push_back(list(key.weights).narrow(0, begin, count));
    return rows.empty() ? at::Tensor() : at::stack(rows);
}

void TaskRoutedMethod::mix_tables(const std::vector<at::Tensor>& logits, const at::Tensor& u,
                                  Mixture& mixture) const {
    const auto tables = static_cast<int64_t>(sharing_.tables.size());
    const int64_t skills = table_skills(), splits = options_.splits;
    if (tables == 0 || skills == 0) return;
    const at::Tensor index = task_index(mixture.groups);
    const int64_t routed = index.size(0);
    std::vector<at::Tensor> gates, weights;
    if (routed > 0 && options_.train == "uniform") {
        const at::Tensor even =
            at::full({tables, routed, splits, skills}, 1.0 / static_cast<double>(skills), floats());
        gates.push_back(even);
        weights.push_back(even);
    } else if (routed > 0) {
        const at::Tensor rows =
            at::stack(logits).index_select(1, index).view({tables, routed, splits, skills});
        SkillGate gate = skill_gate(rows, u, options_.tau);
        gates.push_back(std::move(gate.gate));
        weights.push_back(std::move(gate.weights));
    }
    if (const at::Tensor given = explicit_weights(mixture.groups, 0, skills); given.defined()) {
        const at::Tensor all = given.view({1, -1, 1, skills}).expand({tables, -1, splits, -1});
        gates.push_back(all);
        weights.push_back(all);
    }
    mixture.gate = (gates.size() == 1 ? gates[0] : at::cat(gates, 1)).unbind(0);
    mixture.weights = (weights.size() == 1 ? weights[0] : at::cat(weights, 1)).unbind(0);
}

at::Tensor TaskRoutedMethod::draw_noise(const RouteInput& input, int64_t groups) const {
    const auto tables = static_cast<int64_t>(sharing_.tables.size());
    const int64_t splits = options_.splits, skills = table_skills();
    if (input.recorded) {
        std::vector<at::Tensor> recorded;
        for (const size_t site : sharing_.first_site) {
            at::Tensor u = recorded_noise(input, sites_[site].path, "u");
            if (!u.defined())
                fail(Code::invalid_argument, "no recorded noise 'u' for site '", sites_[site].path, "'");
            recorded.push_back(u.to(device_, at::kFloat).view({groups, splits, skills}));
        }
        return at::stack(recorded);
    }
    const uint64_t seed = noise_seed(input, "relaxed Bernoulli routing");
    at::Tensor u = at::empty({tables, groups, splits, skills}, at::TensorOptions().dtype(at::kFloat));
    const auto each = static_cast<size_t>(groups * splits * skills);
    float* out = u.mutable_data_ptr<float>();
    for (const std::string& table : sharing_.tables) {
        named_generator(seed, table).fill_uniform(out, each);
        out += each;
    }
    return on_device(u, device_);
}

std::unique_ptr<Adaptation> TaskRoutedMethod::adapt(const RouteInput& input) {
    const bool sampling = samples(input.mode);
    RowGroups groups = group_rows(input, tasks_, skill_count(), sampling);
    if (input.mode == Mode::train || at::GradMode::is_enabled() || !collapses_well()) {
        // Noise is drawn only when a routed row is there to use it, but the state always moves by one draw.
        at::Tensor u;
        if (sampling) u = draw_noise(input, groups.routed());
        Mixture mixture = mix(std::move(groups), u);
        if (input.trace) trace(mixture, input);
        return std::make_unique<MixedAdaptation>(*this, std::move(mixture));
    }

    const auto mix_one = [this](const MixtureKey& key) { return mix(one_group(key), {}); };
    if (input.trace) trace(mix(groups, {}), input);
    const std::lock_guard lock(cache_mutex_);
    std::vector<int32_t> slots;
    if (!cache_ || !cache_->assign(groups.keys, mix_one, slots)) {
        int64_t bytes_per_slot = 1;
        for (const Site& site : sites_) bytes_per_slot += 4 * options_.rank * (site.d_in + site.d_out);
        const auto affordable =
            static_cast<int>(std::clamp<int64_t>(cache_budget_bytes / bytes_per_slot, 4, 64));
        const int wanted = cache_ ? 2 * cache_->capacity() : 4;
        const int capacity = std::max(std::min(wanted, affordable), static_cast<int>(groups.size()));
        auto fresh = std::make_shared<FactorCache>(sites_.size(), capacity);
        if (cache_ && capacity > cache_->capacity()) {  // grown, not recycled: what was there stays
            std::vector<MixtureKey> known;
            for (const auto& entry : cache_->slots()) known.push_back(entry.first);
            if (known.size() + groups.keys.size() <= static_cast<size_t>(capacity))
                fresh->assign(known, mix_one, slots);
        }
        POLYAD_CHECK(fresh->assign(groups.keys, mix_one, slots));
        cache_ = std::move(fresh);
    }
    return std::make_unique<CachedAdaptation>(*this, cache_, std::move(slots), groups.group_of_row);
}

void TaskRoutedMethod::set_training(const std::string& what) {
    if (what != "all" && what != "router" && what != "skills" && what != "uniform")
        fail(Code::invalid_config, options_.method, ".train: '", what,
             "' is not known, allowed: all, router, skills, uniform");
    options_.train = what;
    for (size_t i = 0; i < parameters_.size(); ++i) {
        const bool skill = parameters_[i].group == ParameterGroup::skills;
        set_trainable(i, what == "all" || skill == (what != "router"));
    }
    parameters_changed();
}

void TaskRoutedMethod::parameters_changed() {
    const std::lock_guard lock(cache_mutex_);
    cache_.reset();
    collapsed_.reset();
}

void TaskRoutedMethod::trace(const Mixture& mixture, const RouteInput& input) const {
    const at::Tensor rows = row_index(mixture.groups);
    for (size_t i = 0; i < sites_.size(); ++i) {
        auto& site = (*input.trace)[sites_[i].path];
        const size_t table = sharing_.table_of_site[i];
        if (!mixture.weights.empty()) {
            site["gate"] = mixture.gate[table].index_select(0, rows);
            site["weights"] = mixture.weights[table].index_select(0, rows);
        }
        if (!mixture.specific.empty())
            site["specific_weights"] = mixture.specific[table].index_select(0, rows);
    }
}

std::optional<CollapsedSite> TaskRoutedMethod::collapse(const Site& site, int task) {
    if (task < 0 || task >= tasks_)
        fail_because(Code::unknown_task, "unknown_task", "task id ", task, ", the task table has ids 0 to ",
                     tasks_ - 1);
    at::NoGradGuard no_grad;
    const size_t position = expect_position(site);
    std::shared_ptr<const Mixture> mixture;
    {
        const std::lock_guard lock(cache_mutex_);
        if (!collapsed_ || collapsed_task_ != task) {
            collapsed_ = std::make_shared<const Mixture>(mix(one_group({task, {}}), {}));
            collapsed_task_ = task;
        }
        mixture = collapsed_;
    }
    const Factors factors = fold(update(position, *mixture));
    return CollapsedSite{factors.a.contiguous(), (factors.b * scale()).contiguous()};
}

std::vector<float> TaskRoutedMethod::task_weights(int task) {
    if (task < 0 || task >= tasks_)
        fail_because(Code::unknown_task, "unknown_task", "task id ", task, ", the task table has ids 0 to ",
                     tasks_ - 1);
    at::NoGradGuard no_grad;
    const Mixture mixture = mix(one_group({task, {}}), {});
    std::vector<at::Tensor> tables;
    for (size_t i = 0; i < sharing_.tables.size(); ++i)
        tables.push_back(skill_weights(i, mixture).select(0, 0));
    const at::Tensor mean = on_host(at::stack(tables).mean(0));
    const float* values = mean.const_data_ptr<float>();
    return {values, values + mean.numel()};
}

}  // namespace polyad
