// SPDX-License-Identifier: Apache-2.0
// Do routes follow what people know about the tasks? (arXiv 2205.12701, section 6)
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace polyad {

/// Pearson correlation of every route column with every feature column over the tasks. `routes` [tasks, C]
/// and `features` [tasks, F] are row-major; the result is [C, F]. NaN where a column is the same for all
/// tasks. Code::invalid_argument for sizes that are no multiple of `tasks`, fewer than two tasks, or a number
/// that is not finite.
std::vector<double> feature_correlation(std::span<const double> routes, std::span<const double> features,
                                        int64_t tasks);

}  // namespace polyad
