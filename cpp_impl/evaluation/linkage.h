// SPDX-License-Identifier: Apache-2.0
// Average linkage (UPGMA; Sokal and Michener 1958): which tasks are routed alike, as a tree.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace polyad {

/// Two clusters become one. Leaves are 0 .. n - 1, the cluster of merge i is n + i.
struct Merge {
    int left = 0, right = 0;
    double height = 0.0;  ///< mean distance between the members of the two
    int size = 0;         ///< leaves below
};

/// `distance` [n, n], symmetric, row-major. n - 1 merges, lowest first; of equal pairs the first in order.
/// Code::invalid_argument when the size is not n * n or an entry is not a finite number.
std::vector<Merge> average_linkage(std::span<const double> distance, int n);
/// Leaves from one side of the tree to the other, so that no branches cross.
std::vector<int> leaf_order(const std::vector<Merge>& merges, int n);
/// Cluster number of every leaf when the tree is cut into `clusters` parts (1 .. n), numbered by first leaf.
std::vector<int> cut_tree(const std::vector<Merge>& merges, int n, int clusters);

}  // namespace polyad
