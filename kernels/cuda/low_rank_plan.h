// SPDX-License-Identifier: Apache-2.0
// How the tokens of a ragged batch are cut into work for the low-rank kernels. Host code without CUDA, so
// that it is tested where there is no device.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/op_table.h"

namespace polyad::kernels::cuda {

/// Neighbouring tokens [begin, end) of one group (-1: none).
struct Segment {
    int32_t group, begin, end;
};
inline std::vector<Segment> segments_of(const int32_t* group_of_row, Rows rows) {
    std::vector<Segment> out;
    for (int32_t b = 0; b < rows.count; ++b) {
        const int32_t begin = rows.begin[b], end = rows.begin[b + 1], group = group_of_row[b];
        if (begin == end) continue;
        if (!out.empty() && out.back().group == group && out.back().end == begin)
            out.back().end = end;
        else
            out.push_back({group, begin, end});
    }
    return out;
}

/// At most `most` tokens of one segment.
inline std::vector<Segment> tiles_of(const std::vector<Segment>& segments, int32_t most) {
    std::vector<Segment> out;
    for (const Segment& s : segments)
        for (int32_t t = s.begin; t < s.end; t += most)
            out.push_back({s.group, t, std::min(s.end, t + most)});
    return out;
}

/// Items [first, last) of a group.
struct GroupItems {
    int32_t group, first, last;
};
/// Work of a gradient: items of at most `most` tokens, ordered by group, each group's in the order of its
/// tokens.
struct GradientPlan {
    std::vector<Segment> items;
    std::vector<GroupItems> groups;
    bool split() const { return items.size() != groups.size(); }
};
inline GradientPlan gradient_plan(const std::vector<Segment>& segments, int32_t most) {
    GradientPlan plan;
    for (const Segment& tile : tiles_of(segments, most))
        if (tile.group >= 0) plan.items.push_back(tile);
    std::stable_sort(plan.items.begin(), plan.items.end(),
                     [](const Segment& a, const Segment& b) { return a.group < b.group; });
    for (size_t i = 0; i < plan.items.size(); ++i) {
        const auto at = static_cast<int32_t>(i);
        if (plan.groups.empty() || plan.groups.back().group != plan.items[i].group)
            plan.groups.push_back({plan.items[i].group, at, at});
        plan.groups.back().last = at + 1;
    }
    return plan;
}

}  // namespace polyad::kernels::cuda
