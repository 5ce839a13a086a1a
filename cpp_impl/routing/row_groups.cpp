// SPDX-License-Identifier: Apache-2.0
#include "routing/row_groups.h"

#include <algorithm>

#include "routing/site_method.h"

namespace polyad {

int64_t RowGroups::routed() const {
    return std::count_if(keys.begin(), keys.end(), [](const MixtureKey& key) { return key.routed(); });
}

RowGroups group_rows(const RouteInput& input, int tasks, int skills, bool separate) {
    check_explicit_weights(input, skills);
    const int rows = input.rows();
    RowGroups groups;
    groups.group_of_row.assign(static_cast<size_t>(rows), 0);
    std::map<MixtureKey, int32_t> group_of;
    for (const bool routed : {true, false}) {
        for (int row = 0; row < rows; ++row) {
            const auto index = static_cast<size_t>(row);
            MixtureKey key;
            if (index < input.weights.size()) key.weights = input.weights[index];
            if (key.routed() != routed) continue;
            if (routed) {
                check_task_id(input, row, tasks);
                key.task = input.task_ids[index];
            }
            const auto next = static_cast<int32_t>(groups.keys.size());
            if (routed && separate) {
                groups.group_of_row[index] = next;
                groups.keys.push_back(std::move(key));
                continue;
            }
            const auto [found, added] = group_of.try_emplace(key, next);
            groups.group_of_row[index] = found->second;
            if (added) groups.keys.push_back(std::move(key));
        }
    }
    return groups;
}

}  // namespace polyad
