// SPDX-License-Identifier: Apache-2.0
// Adds up what RouteInput::trace shows, per site and task.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/config.h"
#include "routing/skillset.h"

namespace polyad {

/// [site path][name] as methods trace it: "weights" [units, (splits,) skills], units = rows or tokens;
/// "specific_weights" likewise (private skills); "gate" in 0..1 where a method has one.
using RouteTrace = std::map<std::string, std::map<std::string, at::Tensor>>;

/// Whose mixture a unit is.
struct RowMap {
    std::vector<size_t> subject;  ///< [rows]
    std::vector<RowBegin>
        begins;  ///< row starts of the streams units may be counted in; empty ones are ignored
};

class RoutingSums {
  public:
    explicit RoutingSums(const Skillset& skillset);
    void start(size_t subjects);
    /// Returns every row's mean share, [rows][skills].
    std::vector<std::vector<double>> add(const RouteTrace& trace, const RowMap& rows);

    int64_t skills() const { return skills_; }
    size_t sites() const { return sites_.size(); }
    std::vector<int> layers() const;
    /// Load, dead skills, usage, entropy, discreteness, sparsity of the sites in layers [first, last].
    Json summary(int first_layer, int last_layer, double dead_below) const;
    /// `count` ranges of layers, each with its task x skill weights.
    Json groups(int count, double dead_below) const;
    /// {"weights", "shares", "entropy"} of one subject over all sites.
    Json task(size_t subject) const;
    /// [subjects, subjects] mean over sites of half the L1 distance of shares. Where a method has private
    /// skills beside shared ones, over the shared ones: of private skills no two tasks have one in common.
    std::vector<double> distances() const;
    double active_parameters() const;

  private:
    struct SiteSums {
        int layer = 0;
        int64_t shared = 0;                  ///< leading skills that distances look at
        std::vector<double> weight, share;   ///< [subjects, skills]
        std::vector<double> units, entropy;  ///< [subjects]
        double gate_entropy = 0.0, gates_used = 0.0, gates = 0.0, active = 0.0;
    };

    /// A stack of skills, [leading, ...].
    struct SkillParameter {
        int64_t leading = 0;
        double count = 0.0;
        bool specific = false;  ///< weighted by "specific_weights"
    };

    int layer_of(const std::string& path) const;
    void prepare(SiteSums& site, int64_t skills);
    /// Parameters of `path` that take part in the mixtures traced there, summed over the units.
    double active_at(const std::string& path, const std::map<std::string, at::Tensor>& values) const;
    std::vector<double> shared_mixture(const SiteSums& site, size_t subject) const;

    std::map<std::string, int> layer_of_path_;
    std::map<std::string, std::vector<SkillParameter>> skill_parameters_;  ///< per site path
    std::map<std::string, SiteSums> sites_;
    size_t subjects_ = 0;
    int64_t skills_ = 0;
    double always_active_ = 0.0;  ///< parameters that belong to no skill, a task's row of every table
};

}  // namespace polyad
