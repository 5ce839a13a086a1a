// SPDX-License-Identifier: Apache-2.0
#include "routing/diagnostics.h"

#include <cmath>
#include <numbers>
#include <vector>

#include "base/error.h"

namespace polyad {
namespace {

double sigmoid(double a) {
    return 1.0 / (1.0 + std::exp(-a));
}

double entropy_term(double p) {
    return p > 0.0 ? -p * std::log(p) : 0.0;
}

}  // namespace

TableDiagnostics table_diagnostics(std::span<const double> logits, int64_t columns) {
    if (columns < 1 || logits.empty() || logits.size() % static_cast<size_t>(columns))
        fail(Code::invalid_argument, "a table of ", logits.size(), " logits has no ", columns, " columns");
    TableDiagnostics out;
    std::vector<double> column_sum(static_cast<size_t>(columns), 0.0);
    double total = 0.0;
    for (size_t i = 0; i < logits.size(); ++i) {
        // sigmoid(-l), not 1 - p: near 1 the difference would have lost its digits.
        const double p = sigmoid(logits[i]), q = sigmoid(-logits[i]);
        out.discreteness += (entropy_term(p) + entropy_term(q)) / std::numbers::ln2;
        out.sparsity += std::floor(p + 0.5);
        column_sum[i % static_cast<size_t>(columns)] += p;
        total += p;
    }
    const auto cells = static_cast<double>(logits.size());
    out.discreteness /= cells;
    out.sparsity /= cells;
    if (columns == 1) {
        out.usage = 1.0;
    } else if (total > 0.0) {
        for (const double sum : column_sum) out.usage += entropy_term(sum / total);
        out.usage /= std::log(static_cast<double>(columns));
    }
    return out;
}

}  // namespace polyad
