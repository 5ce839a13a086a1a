// SPDX-License-Identifier: Apache-2.0
// The report's drawings, as SVG text that takes its colours from the page.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace cli {

/// Text for HTML and XML: markup escaped, characters XML forbids replaced.
std::string escape(std::string_view text);
/// At most `digits` significant digits, no trailing zeros; "–" for what is no number.
std::string number(double value, int digits = 4);
/// With a fixed number of decimals.
std::string fixed(double value, int decimals);

struct Series {
    std::string style;  ///< CSS classes of the line: "a", "b faint", ...
    std::vector<double> x, y;
    bool dots = false;  ///< a dot per point beside the line
};

struct ChartOptions {
    std::string label;  ///< said to screen readers
    std::string x_label;
    bool from_zero = false;
    double top = 0;  ///< fixed upper end; 0 = by the data
    bool whole_x = true;
};

/// Lines over a shared pair of axes. Points that are no numbers are left out; "" when none is left.
std::string line_chart(const std::vector<Series>& series, const ChartOptions& options);

/// One bar per value; `marked` bars stand out.
std::string bar_chart(const std::vector<double>& values, const std::vector<std::string>& names,
                      const std::vector<bool>& marked, const std::string& label);

struct TreeNode {
    int left = 0, right = 0;
    double height = 0;
};

/// Leaves at the left, one every 22 pixels in `order`, root at the right. `names` (of leaves) are written
/// beside them when given.
std::string dendrogram(const std::vector<TreeNode>& merges, const std::vector<int>& order,
                       const std::vector<std::string>& names);

/// Mean of each of at most `count` runs of neighbours; steps are thinned alike.
void thin(std::vector<double>& x, std::vector<double>& y, size_t count);
/// Exponential moving average with a horizon of `span` points, started without bias.
std::vector<double> smoothed(const std::vector<double>& y, double span);

}  // namespace cli
