// SPDX-License-Identifier: Apache-2.0
// Average relative gain (ARG; arXiv 2104.08835 and 2205.12701): what a change brings over a base, task by
// task.
#pragma once

#include <map>
#include <string>

namespace polyad {

/// Mean over the tasks present in both of (score - base) / base; the divisor keeps its sign. A base of 0 is
/// Code::invalid_argument with detail "zero_base" unless `skip_zero_base` leaves such tasks out; no task
/// left: detail "no_common_tasks".
double average_relative_gain(const std::map<std::string, double>& base,
                             const std::map<std::string, double>& scores, bool skip_zero_base = false);

}  // namespace polyad
