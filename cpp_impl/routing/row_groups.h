// SPDX-License-Identifier: Apache-2.0
// Rows of a batch that share one mixture. What is mixed is mixed once per group.
#pragma once

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "routing/method.h"

namespace polyad {

/// What a row asks for: a task's row of the table, or (task = -1) weights of its own.
struct MixtureKey {
    int task = -1;
    std::vector<float> weights;
    bool routed() const { return weights.empty(); }
    auto operator<=>(const MixtureKey&) const = default;
};

struct RowGroups {
    std::vector<MixtureKey> keys;       ///< one per group; routed ones first
    std::vector<int32_t> group_of_row;  ///< [rows]
    int64_t size() const { return static_cast<int64_t>(keys.size()); }
    int64_t routed() const;  ///< number of routed groups
};

/// Checks every row (unknown_task, weights of wrong length or not finite) and groups equal ones; with
/// `separate` (noise is drawn per row) every routed row is a group of its own.
RowGroups group_rows(const RouteInput& input, int tasks, int skills, bool separate);

}  // namespace polyad
