// SPDX-License-Identifier: Apache-2.0
// Merging of adapters into one, factor by factor, as PEFT's add_weighted_adapter does.
//
//     linear       sum_k c_k T_k                                             (task arithmetic, arXiv
//     2212.04089) ties         T_k keeps its largest entries; entries of the elected sign are averaged (arXiv
//     2306.01708) dare_linear  linear after dropping entries at random and dividing by density (arXiv
//     2311.03099) dare_ties    ties after the same magnitude_prune  linear after keeping the largest entries
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "base/random.h"

namespace polyad {

enum class Merge { linear, ties, dare_linear, dare_ties, magnitude_prune };
const char* merge_name(Merge merge);

struct MergeRule {
    Merge merge = Merge::linear;
    double density = 1.0;    ///< share of entries that stay, in (0, 1]; linear keeps all
    bool frequency = false;  ///< elect the sign by counting entries instead of adding them
};

/// One factor of every adapter (all of one shape) with its coefficient. `noise` is used by dare only.
at::Tensor merge_factors(const std::vector<at::Tensor>& factors, const std::vector<double>& coefficients,
                         const MergeRule& rule, Generator& noise);

}  // namespace polyad
