// SPDX-License-Identifier: Apache-2.0
// What a router has learned: which skills the tasks use, how evenly, how decidedly, where. Methods that route
// by task are read from their tables; methods that route by prompt or token by running rows of a split. Rows
// are ragged, so no padding is ever counted.
//
// A mixture's share of skill j is |w_j| / sum_k |w_k|: weights of some methods are not normalised (MoR1E), or
// may be negative (C-Poly's private ones). Splits of features (MHR) are averaged first.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/config.h"
#include "data/dataset.h"
#include "routing/skillset.h"

namespace polyad {

struct RoutingOptions {
    Split split = Split::test;
    int64_t max_examples_per_task = 16;  ///< rows run per task; 0 = all
    int batch_size = 8;
    int groups = 3;    ///< layer groups the task x skill tables are given for
    int examples = 3;  ///< rows named per skill
    /// A skill is dead when no task gives it more than this part of an even share, 1 / skills.
    double dead_below = 0.1;
    /// Routing has collapsed when usage is below this, or when half of the skills are dead.
    double collapsed_below = 0.5;
    std::vector<std::string> tasks;  ///< only these; empty = all
    Json features =
        Json::object();  ///< what people know of the tasks: {feature: {task: number}}, 0 where not said
    /// {"split", "max_examples_per_task", "batch_size", "groups", "examples", "dead_below",
    /// "collapsed_below", "tasks", "features"}
    static RoutingOptions from_json(const Json& object);
};

/// Distances and the tree are left out for more tasks than this.
constexpr int largest_task_tree = 512;

/// {"method", "source": "tables" | "rows", "split", "rows", "tokens", "skipped_rows" (rows only), "skills",
///  "sites", "active_parameters", "overall": S, "groups": [{"name", "first_layer", "last_layer", "weights"
///  [tasks][skills], S...}], "layers": [{"layer", S...}], "tasks": [{"name", "category", "weights", "shares",
///  "entropy"}], "distance" [tasks][tasks], "linkage": [{"left", "right", "height", "size"}], "order",
///  "skill_examples": [{"skill", "examples": [{"task", "id", "input", "share"}]}] (rows only),
///  "clusters": [{"rows", "tasks": {name: rows}, "examples": [{"task", "id", "input", "score"}]}] (of an
///  intuition), "features": [{"name", "layers": [{"layer", "correlation" [skills]}]}] (Pearson's, over the
///  tasks, of a feature with every column of the route table; null where a column does not vary; methods
///  routed by task only), "collapsed": [reasons], "thresholds"}
/// where S is "load" (mean share per skill), "dead" (skills), "usage" (entropy of the load over ln skills: 1
/// = all alike), "entropy" (mean of the mixtures' own, over ln skills: 0 = one skill each), "discreteness"
/// and "sparsity" (Polytropon's equations 8 and 9, arXiv 2202.13914, of the gates where a method has gates of
/// its own, else of the shares). "active_parameters" counts, per mixture and then averaged, the parameters of
/// skills whose weight is not 0 and everything that belongs to no skill. "distance" is half the L1 distance
/// of two tasks' shares, averaged over sites; "linkage" the average-linkage tree over it. `dataset` may be
/// null for methods routed by task; Code::invalid_argument when rows are needed and it is, Code::bad_data
/// when the split holds none, Code::unknown_task for a name in `tasks` that is not there.
Json routing_statistics(const Skillset& skillset, const Dataset* dataset, const RoutingOptions& options = {});

/// "" while all is well, else what collapsed, in a sentence.
std::string collapse_warning(const Json& statistics);

/// Logs collapse_warning() of what can be read without running rows; nothing for other methods.
void warn_if_routing_collapsed(const Skillset& skillset);

}  // namespace polyad
