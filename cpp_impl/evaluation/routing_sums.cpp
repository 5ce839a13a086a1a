// SPDX-License-Identifier: Apache-2.0
#include "evaluation/routing_sums.h"

#include <ATen/TensorOperators.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <string_view>

#include "base/error.h"
#include "routing/diagnostics.h"

namespace polyad {
namespace {

double entropy_term(double p) {
    return p > 0.0 ? -p * std::log(p) : 0.0;
}

/// Entropy of `share` over ln(size); a single skill has none to spread.
double relative_entropy(const double* share, int64_t size) {
    if (size < 2) return size == 1 ? 1.0 : 0.0;
    double sum = 0.0;
    for (int64_t j = 0; j < size; ++j) sum += entropy_term(share[j]);
    return sum / std::log(static_cast<double>(size));
}

/// [units, skills] double: splits averaged.
at::Tensor flat(const at::Tensor& value) {
    at::Tensor out = value.detach().to(at::kCPU, at::kDouble);
    if (out.dim() > 2) out = out.flatten(1, -2).mean(1);
    return out.contiguous();
}

at::Tensor find(const std::map<std::string, at::Tensor>& values, const char* name) {
    const auto found = values.find(name);
    return found == values.end() ? at::Tensor() : found->second;
}

/// Row of every unit, by the stream whose length it has.
std::vector<size_t> rows_of_units(const std::string& path, int64_t units, const RowMap& rows) {
    std::vector<size_t> out;
    if (units == static_cast<int64_t>(rows.subject.size())) {
        for (size_t b = 0; b < rows.subject.size(); ++b) out.push_back(b);
        return out;
    }
    for (const RowBegin& begin : rows.begins) {
        if (begin.empty() || begin.back() != units) continue;
        for (size_t b = 0; b + 1 < begin.size(); ++b)
            out.insert(out.end(), static_cast<size_t>(begin[b + 1] - begin[b]), b);
        return out;
    }
    fail(Code::unsupported, "routing: '", path, "' gives weights for ", units, " units; the batch has ",
         rows.subject.size(), " rows and no stream of that many tokens");
}

/// The first number of a path, -1 when it has none.
int layer_in(const std::string& path) {
    size_t begin = 0;
    while (begin < path.size()) {
        size_t end = std::min(path.find('.', begin), path.size());
        const std::string_view part(path.data() + begin, end - begin);
        if (!part.empty() && part.size() < 7 &&
            part.find_first_not_of("0123456789") == std::string_view::npos)
            return std::stoi(std::string(part));
        begin = end + 1;
    }
    return -1;
}

}  // namespace

RoutingSums::RoutingSums(const Skillset& skillset) {
    for (const Site& site : skillset.sites()) layer_of_path_[site.path] = site.layer;
    const Method& method = skillset.method();
    const auto tasks = static_cast<int64_t>(skillset.tasks().size());
    for (const Parameter& p : const_cast<Method&>(method).parameters()) {
        const auto count = static_cast<double>(p.value.numel());
        const int64_t leading = p.value.dim() > 0 ? p.value.size(0) : 1;
        const std::string path = p.name.substr(0, std::min(p.name.rfind('.'), p.name.size()));
        if (p.group == ParameterGroup::skills && layer_of_path_.count(path)) {
            skill_parameters_[path].push_back({leading, count, p.name.ends_with("_specific")});
            continue;
        }
        // MOELoRA's tables have one row more than there are tasks.
        const bool table = p.group != ParameterGroup::skills && p.group != ParameterGroup::scalars &&
                           method.needs_task() && (leading == tasks || leading == tasks + 1);
        always_active_ += table ? count / static_cast<double>(leading) : count;
    }
}

void RoutingSums::start(size_t subjects) {
    subjects_ = subjects;
    sites_.clear();
    skills_ = 0;
}

int RoutingSums::layer_of(const std::string& path) const {
    const auto exact = layer_of_path_.find(path);
    if (exact != layer_of_path_.end()) return exact->second;
    const auto below = layer_of_path_.lower_bound(path + ".");
    if (below != layer_of_path_.end() && below->first.starts_with(path + ".")) return below->second;
    return layer_in(path);
}

void RoutingSums::prepare(SiteSums& site, int64_t skills) {
    if (skills_ == 0) skills_ = skills;
    if (skills != skills_)
        fail(Code::unsupported, "routing: a place has ", skills, " skills where others have ", skills_);
    if (!site.units.empty()) return;
    const size_t cells = subjects_ * static_cast<size_t>(skills);
    site.weight.assign(cells, 0.0);
    site.share.assign(cells, 0.0);
    site.units.assign(subjects_, 0.0);
    site.entropy.assign(subjects_, 0.0);
}

double RoutingSums::active_at(const std::string& path,
                              const std::map<std::string, at::Tensor>& values) const {
    const auto stacks = skill_parameters_.find(path);
    if (stacks == skill_parameters_.end()) return 0.0;
    double sum = 0.0;
    for (const SkillParameter& stack : stacks->second) {
        const at::Tensor weights = find(values, stack.specific ? "specific_weights" : "weights");
        double part = 1.0;
        if (weights.defined() && weights.dim() > 1 && weights.size(-1) == stack.leading) {
            const at::Tensor shares = flat(weights.abs());
            const auto* value = shares.const_data_ptr<double>();
            const auto used = std::count_if(value, value + shares.numel(), [](double v) { return v > 0.0; });
            part = static_cast<double>(used) / static_cast<double>(std::max<int64_t>(1, shares.numel()));
        }
        sum += part * stack.count;
    }
    return sum;
}

std::vector<std::vector<double>> RoutingSums::add(const RouteTrace& trace, const RowMap& rows) {
    std::vector<std::vector<double>> row_share;
    std::vector<double> row_units(rows.subject.size(), 0.0);
    for (const auto& [path, values] : trace) {
        const at::Tensor weights = find(values, "weights"), specific = find(values, "specific_weights");
        if (!weights.defined() && !specific.defined()) continue;
        const at::Tensor first = weights.defined() ? flat(weights) : at::Tensor();
        const at::Tensor second = specific.defined() ? flat(specific) : at::Tensor();
        const int64_t units = first.defined() ? first.size(0) : second.size(0);
        const int64_t n1 = first.defined() ? first.size(1) : 0, n2 = second.defined() ? second.size(1) : 0;
        if (n1 + n2 == 0) continue;
        const int64_t skills = n1 + n2;
        const auto [place, fresh] = sites_.try_emplace(path);
        SiteSums& site = place->second;
        if (fresh) {
            site.layer = layer_of(path);
            site.shared = n1 > 0 ? n1 : skills;
        }
        prepare(site, skills);
        if (row_share.empty())
            row_share.assign(rows.subject.size(), std::vector<double>(static_cast<size_t>(skills), 0.0));
        const std::vector<size_t> row_of = rows_of_units(path, units, rows);
        std::vector<double> value(static_cast<size_t>(skills)), share(value.size());
        for (int64_t u = 0; u < units; ++u) {
            if (n1) std::copy_n(first.const_data_ptr<double>() + u * n1, n1, value.begin());
            if (n2) std::copy_n(second.const_data_ptr<double>() + u * n2, n2, value.begin() + n1);
            double total = 0.0;
            for (const double v : value) total += std::abs(v);
            // A mixture that uses nothing at all counts as spread evenly: no skill stands out.
            for (size_t j = 0; j < share.size(); ++j)
                share[j] = total > 0.0 ? std::abs(value[j]) / total : 1.0 / static_cast<double>(skills);
            const size_t row = row_of[static_cast<size_t>(u)], subject = rows.subject[row];
            for (size_t j = 0; j < share.size(); ++j) {
                site.weight[subject * share.size() + j] += value[j];
                site.share[subject * share.size() + j] += share[j];
                row_share[row][j] += share[j];
            }
            site.entropy[subject] += relative_entropy(share.data(), skills);
            site.units[subject] += 1.0;
            row_units[row] += 1.0;
        }
        site.active += active_at(path, values) * static_cast<double>(units);

        const at::Tensor gate = find(values, "gate");
        const at::Tensor gates = (gate.defined() ? gate.detach().to(at::kCPU, at::kDouble)
                                                 : (first.defined() ? first : second).abs())
                                     .contiguous();
        const auto* g = gates.const_data_ptr<double>();
        std::vector<double> logits;
        for (int64_t i = 0; i < gates.numel(); ++i) {
            const double p = std::clamp(g[i], 0.0, 1.0);
            logits.push_back(std::log(p) - std::log1p(-p));  // +-infinity is a choice made
        }
        if (logits.empty()) continue;
        const TableDiagnostics d = table_diagnostics(logits, 1);
        const auto cells = static_cast<double>(logits.size());
        site.gate_entropy += d.discreteness * cells;
        site.gates_used += d.sparsity * cells;
        site.gates += cells;
    }
    for (size_t b = 0; b < row_share.size(); ++b)
        for (double& v : row_share[b]) v /= std::max(1.0, row_units[b]);
    if (row_share.empty()) row_share.resize(rows.subject.size());
    return row_share;
}

std::vector<int> RoutingSums::layers() const {
    std::set<int> out;
    for (const auto& [path, site] : sites_) out.insert(site.layer);
    return {out.begin(), out.end()};
}

std::vector<double> RoutingSums::shared_mixture(const SiteSums& site, size_t subject) const {
    const auto n = static_cast<size_t>(skills_), shared = static_cast<size_t>(site.shared);
    std::vector<double> out(shared, 0.0);
    double total = 0.0;
    for (size_t j = 0; j < shared; ++j) total += out[j] = site.share[subject * n + j];
    if (total > 0.0)
        for (double& v : out) v /= total;
    return out;
}

Json RoutingSums::summary(int first_layer, int last_layer, double dead_below) const {
    const auto n = static_cast<size_t>(skills_);
    std::vector<double> load(n, 0.0), per_task(subjects_ * n, 0.0), places(subjects_, 0.0);
    double units = 0.0, entropy = 0.0, gate_entropy = 0.0, used = 0.0, gates = 0.0;
    for (const auto& [path, site] : sites_) {
        if (site.layer < first_layer || site.layer > last_layer) continue;
        for (size_t s = 0; s < subjects_; ++s) {
            units += site.units[s];
            entropy += site.entropy[s];
            places[s] += site.units[s];
            for (size_t j = 0; j < n; ++j) {
                load[j] += site.share[s * n + j];
                per_task[s * n + j] += site.share[s * n + j];
            }
        }
        gate_entropy += site.gate_entropy;
        used += site.gates_used;
        gates += site.gates;
    }
    for (double& l : load) l /= std::max(1.0, units);
    Json dead = Json::array();
    for (size_t j = 0; j < n; ++j) {
        double most = 0.0;
        for (size_t s = 0; s < subjects_; ++s)
            if (places[s] > 0.0) most = std::max(most, per_task[s * n + j] / places[s]);
        if (most * static_cast<double>(n) < dead_below) dead.push_back(j);
    }
    return {{"load", load},
            {"dead", std::move(dead)},
            {"usage", relative_entropy(load.data(), skills_)},
            {"entropy", units > 0.0 ? entropy / units : 0.0},
            {"discreteness", gates > 0.0 ? gate_entropy / gates : 0.0},
            {"sparsity", gates > 0.0 ? used / gates : 0.0}};
}

Json RoutingSums::groups(int count, double dead_below) const {
    Json out = Json::array();
    const std::vector<int> all = layers();
    const auto n = static_cast<size_t>(skills_);
    const size_t parts = std::min(static_cast<size_t>(count), all.size());
    for (size_t g = 0; g < parts; ++g) {
        const int first = all[g * all.size() / parts], last = all[(g + 1) * all.size() / parts - 1];
        Json entry = summary(first, last, dead_below);
        entry["name"] = first < 0       ? std::string("whole model")
                        : first == last ? text("layer ", first)
                                        : text("layers ", first, " to ", last);
        entry["first_layer"] = first;
        entry["last_layer"] = last;
        Json table = Json::array();
        for (size_t s = 0; s < subjects_; ++s) {
            std::vector<double> row(n, 0.0);
            double units = 0.0;
            for (const auto& [path, site] : sites_) {
                if (site.layer < first || site.layer > last) continue;
                units += site.units[s];
                for (size_t j = 0; j < n; ++j) row[j] += site.weight[s * n + j];
            }
            for (double& v : row) v /= std::max(1.0, units);
            table.push_back(std::move(row));
        }
        entry["weights"] = std::move(table);
        out.push_back(std::move(entry));
    }
    return out;
}

Json RoutingSums::task(size_t subject) const {
    const auto n = static_cast<size_t>(skills_);
    std::vector<double> weights(n, 0.0), shares(n, 0.0);
    double units = 0.0, entropy = 0.0;
    for (const auto& [path, site] : sites_) {
        units += site.units[subject];
        entropy += site.entropy[subject];
        for (size_t j = 0; j < n; ++j) {
            weights[j] += site.weight[subject * n + j];
            shares[j] += site.share[subject * n + j];
        }
    }
    const double count = std::max(1.0, units);
    for (size_t j = 0; j < n; ++j) {
        weights[j] /= count;
        shares[j] /= count;
    }
    return {{"weights", weights}, {"shares", shares}, {"entropy", entropy / count}, {"units", units}};
}

std::vector<double> RoutingSums::distances() const {
    std::vector<double> out(subjects_ * subjects_, 0.0);
    for (const auto& [path, site] : sites_) {
        std::vector<std::vector<double>> shares;
        for (size_t s = 0; s < subjects_; ++s) shares.push_back(shared_mixture(site, s));
        for (size_t a = 0; a < subjects_; ++a)
            for (size_t b = a + 1; b < subjects_; ++b) {
                double sum = 0.0;
                for (size_t j = 0; j < shares[a].size(); ++j) sum += std::abs(shares[a][j] - shares[b][j]);
                out[a * subjects_ + b] += 0.5 * sum;
            }
    }
    const auto count = std::max<double>(1.0, static_cast<double>(sites_.size()));
    for (size_t a = 0; a < subjects_; ++a)
        for (size_t b = a + 1; b < subjects_; ++b) out[b * subjects_ + a] = out[a * subjects_ + b] /= count;
    return out;
}

double RoutingSums::active_parameters() const {
    double sum = always_active_;
    for (const auto& [path, stacks] : skill_parameters_) {
        const auto site = sites_.find(path);
        double units = 0.0;
        if (site != sites_.end())
            for (const double u : site->second.units) units += u;
        if (units > 0.0) {
            sum += site->second.active / units;
            continue;
        }
        for (const SkillParameter& stack : stacks) sum += stack.count;
    }
    return sum;
}

}  // namespace polyad
