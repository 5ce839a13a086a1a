// SPDX-License-Identifier: Apache-2.0
// Rows of a batch that share one mixture. What is mixed is mixed once per group.
#pragma once

#include <cstdint>
#include <map>
#include <numeric>
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

/// A row's value for each of its tokens.
template <class T, class OfRow>
std::vector<T> per_token(const std::vector<OfRow>& of_row, const RowBegin& rows) {
    std::vector<T> out;
    for (size_t b = 0; b + 1 < rows.size(); ++b)
        out.insert(out.end(), static_cast<size_t>(rows[b + 1] - rows[b]), static_cast<T>(of_row[b]));
    return out;
}

/// The row that each token belongs to.
inline std::vector<int64_t> row_of_token(const RowBegin& rows) {
    std::vector<int64_t> number(rows.empty() ? 0 : rows.size() - 1);
    std::iota(number.begin(), number.end(), int64_t{0});
    return per_token<int64_t>(number, rows);
}

}  // namespace polyad
