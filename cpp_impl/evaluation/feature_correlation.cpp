// SPDX-License-Identifier: Apache-2.0
#include "evaluation/feature_correlation.h"

#include <cmath>
#include <limits>

#include "base/error.h"

namespace polyad {
namespace {

/// Columns with their mean taken out and their length made 1; NaN where they do not vary.
std::vector<double> standard(std::span<const double> table, int64_t rows, const char* what) {
    if (table.empty() || table.size() % static_cast<size_t>(rows))
        fail(Code::invalid_argument, "correlation: ", table.size(), " entries of ", what, " are no table of ",
             rows, " tasks");
    const auto n = static_cast<size_t>(rows), columns = table.size() / n;
    std::vector<double> out(table.begin(), table.end());
    for (size_t c = 0; c < columns; ++c) {
        double mean = 0.0, length = 0.0;
        bool varies = false;
        for (size_t r = 0; r < n; ++r) {
            const double value = out[r * columns + c];
            if (!std::isfinite(value))
                fail(Code::invalid_argument, "correlation: ", what, " of task ", r, ", column ", c, " is ",
                     value);
            mean += value / static_cast<double>(n);
            varies |= value != out[c];
        }
        for (size_t r = 0; r < n; ++r) length += std::pow(out[r * columns + c] - mean, 2);
        length = varies ? std::sqrt(length) : std::numeric_limits<double>::quiet_NaN();
        for (size_t r = 0; r < n; ++r) out[r * columns + c] = (out[r * columns + c] - mean) / length;
    }
    return out;
}

}  // namespace

std::vector<double> feature_correlation(std::span<const double> routes, std::span<const double> features,
                                        int64_t tasks) {
    if (tasks < 2) fail(Code::invalid_argument, "correlation: needs two tasks or more, got ", tasks);
    const std::vector<double> a = standard(routes, tasks, "routes"),
                              b = standard(features, tasks, "features");
    const auto n = static_cast<size_t>(tasks), columns = a.size() / n, traits = b.size() / n;
    std::vector<double> out(columns * traits, 0.0);
    for (size_t r = 0; r < n; ++r)
        for (size_t c = 0; c < columns; ++c)
            for (size_t f = 0; f < traits; ++f) out[c * traits + f] += a[r * columns + c] * b[r * traits + f];
    return out;
}

}  // namespace polyad
