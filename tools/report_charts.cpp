// SPDX-License-Identifier: Apache-2.0
#include "report_charts.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <sstream>

namespace cli {
namespace {

constexpr double width = 420, height = 236, left = 44, right = 8, top = 10, bottom = 34;

struct Axis {
    double from = 0, to = 1, step = 1;
    double part(double value) const { return (value - from) / (to - from); }
};

/// About five round steps (1, 2 or 5 times a power of ten) that cover [low, high].
Axis round_axis(double low, double high, bool whole) {
    if (high <= low) high = low + (low == 0 ? 1 : std::abs(low) * 0.1);
    const double raw = (high - low) / 5;
    const double power = std::pow(10.0, std::floor(std::log10(raw)));
    double step = power * (raw / power <= 1 ? 1 : raw / power <= 2 ? 2 : raw / power <= 5 ? 5 : 10);
    if (whole) step = std::max(1.0, std::round(step));
    return {std::floor(low / step + 1e-9) * step, std::ceil(high / step - 1e-9) * step, step};
}

std::string at(double value) {
    return fixed(value, 1);
}

}  // namespace

std::string escape(std::string_view text) {
    std::string out;
    for (size_t i = 0; i < text.size(); ++i) {
        const auto c = static_cast<unsigned char>(text[i]);
        if (c == '&')
            out += "&amp;";
        else if (c == '<')
            out += "&lt;";
        else if (c == '>')
            out += "&gt;";
        else if (c == '"')
            out += "&quot;";
        else if (c == '\'')
            out += "&#39;";
        else if ((c < 0x20 && c != '\t' && c != '\n' && c != '\r') || c == 0x7F)
            out += "\xEF\xBF\xBD";
        else if (c == 0xEF && i + 2 < text.size() && static_cast<unsigned char>(text[i + 1]) == 0xBF &&
                 static_cast<unsigned char>(text[i + 2]) >= 0xBE) {  // U+FFFE and U+FFFF are no XML
            out += "\xEF\xBF\xBD";
            i += 2;
        } else
            out += text[i];
    }
    return out;
}

std::string number(double value, int digits) {
    if (!std::isfinite(value)) return "\xE2\x80\x93";
    char out[48];
    std::snprintf(out, sizeof out, "%.*g", digits, value == 0 ? 0.0 : value);  // never "-0"
    return out;
}

std::string fixed(double value, int decimals) {
    if (!std::isfinite(value)) return "\xE2\x80\x93";
    char out[48];
    std::snprintf(out, sizeof out, "%.*f", decimals, value);
    return out;
}

void thin(std::vector<double>& x, std::vector<double>& y, size_t count) {
    const size_t n = std::min(x.size(), y.size());
    if (n <= count) return;
    std::vector<double> thin_x, thin_y;
    for (size_t part = 0; part < count; ++part) {
        double sum_x = 0, sum_y = 0, points = 0;
        for (size_t i = part * n / count; i < (part + 1) * n / count; ++i) {
            if (!std::isfinite(y[i])) continue;
            sum_x += x[i];
            sum_y += y[i];
            ++points;
        }
        if (points == 0) continue;
        thin_x.push_back(sum_x / points);
        thin_y.push_back(sum_y / points);
    }
    x = std::move(thin_x);
    y = std::move(thin_y);
}

std::vector<double> smoothed(const std::vector<double>& y, double span) {
    std::vector<double> out;
    const double keep = 1 - 1 / std::max(1.0, span);
    double sum = 0, weight = 0;
    for (const double value : y) {
        if (std::isfinite(value)) {
            sum = keep * sum + (1 - keep) * value;
            weight = keep * weight + (1 - keep);
        }
        out.push_back(weight > 0 ? sum / weight : std::numeric_limits<double>::quiet_NaN());
    }
    return out;
}

std::string line_chart(const std::vector<Series>& series, const ChartOptions& options) {
    constexpr double infinity = std::numeric_limits<double>::infinity();
    double x0 = infinity, x1 = -infinity, y0 = infinity, y1 = -infinity;
    for (const Series& s : series)
        for (size_t i = 0; i < std::min(s.x.size(), s.y.size()); ++i) {
            if (!std::isfinite(s.x[i]) || !std::isfinite(s.y[i])) continue;
            x0 = std::min(x0, s.x[i]);
            x1 = std::max(x1, s.x[i]);
            y0 = std::min(y0, s.y[i]);
            y1 = std::max(y1, s.y[i]);
        }
    if (x0 > x1) return "";
    if (options.from_zero) y0 = std::min(0.0, y0);
    if (options.top > 0) y1 = options.top;
    Axis ys = round_axis(y0, y1, false), xs = round_axis(x0, x1, options.whole_x);
    xs.from = x0;
    xs.to = x1 > x0 ? x1 : x0 + 1;
    const auto px = [&](double x) { return left + xs.part(x) * (width - left - right); };
    const auto py = [&](double y) { return height - bottom - ys.part(y) * (height - top - bottom); };

    std::ostringstream out;
    out << "<svg viewBox=\"0 0 " << width << ' ' << height << "\" role=\"img\" aria-label=\""
        << escape(options.label) << "\">";
    for (double y = ys.from; y <= ys.to + ys.step * 0.01; y += ys.step) {
        const double shown = std::abs(y) < ys.step * 1e-6 ? 0 : y;
        out << "<line class=\"grid\" x1=\"" << left << "\" x2=\"" << width - right << "\" y1=\"" << at(py(y))
            << "\" y2=\"" << at(py(y)) << "\"/><text x=\"" << left - 6 << "\" y=\"" << at(py(y) + 4)
            << "\" text-anchor=\"end\">" << number(shown) << "</text>";
    }
    for (double x = std::ceil(xs.from / xs.step - 1e-9) * xs.step; x <= xs.to + xs.step * 0.01; x += xs.step)
        out << "<text x=\"" << at(px(x)) << "\" y=\"" << height - bottom + 16 << "\" text-anchor=\"middle\">"
            << number(x, 7) << "</text>";
    out << "<text x=\"" << width - right << "\" y=\"" << height - 3 << "\" text-anchor=\"end\">"
        << escape(options.x_label) << "</text>";
    for (const Series& s : series) {
        std::ostringstream points, dots;
        for (size_t i = 0; i < std::min(s.x.size(), s.y.size()); ++i) {
            if (!std::isfinite(s.x[i]) || !std::isfinite(s.y[i])) continue;
            points << at(px(s.x[i])) << ',' << at(py(s.y[i])) << ' ';
            if (s.dots)
                dots << "<circle class=\"dot " << s.style << "\" cx=\"" << at(px(s.x[i])) << "\" cy=\""
                     << at(py(s.y[i])) << "\" r=\"4\"><title>" << number(s.x[i], 7) << ": " << number(s.y[i])
                     << "</title></circle>";
        }
        out << "<polyline class=\"line " << s.style << "\" points=\"" << points.str() << "\"/>" << dots.str();
    }
    out << "</svg>";
    return out.str();
}

std::string bar_chart(const std::vector<double>& values, const std::vector<std::string>& names,
                      const std::vector<bool>& marked, const std::string& label) {
    double most = 0;
    for (const double v : values)
        if (std::isfinite(v)) most = std::max(most, v);
    if (values.empty() || most <= 0) return "";
    const Axis ys = round_axis(0, most, false);
    const double each = (width - left - right) / static_cast<double>(values.size());
    const auto py = [&](double y) { return height - bottom - ys.part(y) * (height - top - bottom); };
    std::ostringstream out;
    out << "<svg viewBox=\"0 0 " << width << ' ' << height << "\" role=\"img\" aria-label=\"" << escape(label)
        << "\">";
    for (double y = 0; y <= ys.to + ys.step * 0.01; y += ys.step)
        out << "<line class=\"grid\" x1=\"" << left << "\" x2=\"" << width - right << "\" y1=\"" << at(py(y))
            << "\" y2=\"" << at(py(y)) << "\"/><text x=\"" << left - 6 << "\" y=\"" << at(py(y) + 4)
            << "\" text-anchor=\"end\">" << number(y) << "</text>";
    const size_t every = 1 + (values.size() - 1) / 16;
    for (size_t i = 0; i < values.size(); ++i) {
        const double x = left + each * static_cast<double>(i),
                     tall = std::isfinite(values[i]) ? values[i] : 0;
        out << "<rect class=\"bar " << (marked[i] ? 'b' : 'a') << "\" x=\"" << at(x + each * 0.14)
            << "\" width=\"" << at(each * 0.72) << "\" y=\"" << at(py(tall)) << "\" height=\""
            << at(py(0) - py(tall)) << "\" rx=\"1.5\"><title>" << escape(names[i]) << ": "
            << number(values[i]) << "</title></rect>";
        if (i % every == 0)
            out << "<text x=\"" << at(x + each / 2) << "\" y=\"" << height - bottom + 16
                << "\" text-anchor=\"middle\">" << i + 1 << "</text>";
    }
    out << "<text x=\"" << width - right << "\" y=\"" << height - 3
        << "\" text-anchor=\"end\">skill</text></svg>";
    return out.str();
}

std::string dendrogram(const std::vector<TreeNode>& merges, const std::vector<int>& order,
                       const std::vector<std::string>& names) {
    constexpr double row = 22, tree = 112, text_width = 200;
    const size_t n = order.size();
    if (n < 2 || merges.size() + 1 != n) return "";
    const double begin = names.empty() ? 2 : text_width, all = begin + tree + 8;
    double highest = 0;
    for (const TreeNode& m : merges) highest = std::max(highest, m.height);
    if (highest <= 0) highest = 1;
    std::vector<double> x(n + merges.size(), begin), y(n + merges.size(), 0);
    std::ostringstream out;
    out << "<svg viewBox=\"0 0 " << all << ' ' << row * static_cast<double>(n)
        << "\" role=\"img\" aria-label=\"tree of tasks by their mixtures\">";
    for (size_t i = 0; i < n; ++i) {
        const auto leaf = static_cast<size_t>(order[i]);
        if (leaf >= n) return "";
        y[leaf] = row * (static_cast<double>(i) + 0.5);
        if (names.empty()) continue;
        const std::string& name = names[leaf];
        std::string shown = name;
        if (shown.size() > 31) {
            size_t cut = 30;
            while (cut > 0 && (static_cast<unsigned char>(shown[cut]) & 0xC0) == 0x80) --cut;
            shown = shown.substr(0, cut) + "\xE2\x80\xA6";
        }
        out << "<text class=\"leaf\" x=\"" << text_width - 8 << "\" y=\"" << at(y[leaf] + 4)
            << "\" text-anchor=\"end\">" << escape(shown) << "<title>" << escape(name) << "</title></text>";
    }
    for (size_t i = 0; i < merges.size(); ++i) {
        const auto a = static_cast<size_t>(merges[i].left), b = static_cast<size_t>(merges[i].right);
        if (a >= n + i || b >= n + i) return "";
        const double here = begin + merges[i].height / highest * tree;
        out << "<path class=\"branch\" d=\"M" << at(x[a]) << ' ' << at(y[a]) << 'H' << at(here) << 'V'
            << at(y[b]) << 'H' << at(x[b]) << "\"><title>distance " << number(merges[i].height, 3)
            << "</title></path>";
        x[n + i] = here;
        y[n + i] = (y[a] + y[b]) / 2;
    }
    out << "</svg>";
    return out.str();
}

}  // namespace cli
