// SPDX-License-Identifier: Apache-2.0
// What a task table has learned, in three numbers (Polytropon, arXiv 2202.13914, equations 8 to 10).
#pragma once

#include <cstdint>
#include <span>

namespace polyad {

struct TableDiagnostics {
    double discreteness =
        0.0;  ///< mean Bernoulli entropy of p = sigmoid(logit), in bits: 0 = every choice is made
    double sparsity = 0.0;  ///< share of skills in use: mean of p rounded (a logit of 0 counts as used)
    double usage = 0.0;     ///< entropy of the skills' shares over ln(columns): 1 = all skills used alike
};

/// `logits` row-major, one row per task, one column per skill (all splits side by side).
/// Code::invalid_argument for an empty table or a size that is no multiple of `columns`.
TableDiagnostics table_diagnostics(std::span<const double> logits, int64_t columns);

}  // namespace polyad
