// SPDX-License-Identifier: Apache-2.0
#include "evaluation/linkage.h"

#include <cmath>
#include <limits>
#include <map>
#include <numeric>

#include "base/error.h"

namespace polyad {

std::vector<Merge> average_linkage(std::span<const double> distance, int n) {
    const auto count = static_cast<size_t>(std::max(n, 0));
    if (n < 0 || distance.size() != count * count)
        fail(Code::invalid_argument, "a distance table of ", n, " items has ", count * count,
             " entries, got ", distance.size());
    for (const double value : distance)
        if (!std::isfinite(value))
            fail(Code::invalid_argument, "a distance is ", value, ", not a finite number");
    std::vector<double> table(distance.begin(), distance.end());
    std::vector<int> name(count), size(count, 1);
    std::iota(name.begin(), name.end(), 0);
    std::vector<size_t> alive(count);
    std::iota(alive.begin(), alive.end(), size_t{0});
    std::vector<Merge> merges;
    while (alive.size() > 1) {
        size_t best_a = 0, best_b = 1;
        double best = std::numeric_limits<double>::infinity();
        for (size_t a = 0; a < alive.size(); ++a)
            for (size_t b = a + 1; b < alive.size(); ++b)
                if (const double value = table[alive[a] * count + alive[b]]; value < best) {
                    best = value;
                    best_a = a;
                    best_b = b;
                }
        const size_t i = alive[best_a], j = alive[best_b];
        const double weight_i = size[i], weight_j = size[j];
        for (const size_t k : alive) {
            if (k == i || k == j) continue;
            const double mean =
                (weight_i * table[i * count + k] + weight_j * table[j * count + k]) / (weight_i + weight_j);
            table[i * count + k] = table[k * count + i] = mean;
        }
        size[i] += size[j];
        merges.push_back({name[i], name[j], best, size[i]});
        name[i] = n + static_cast<int>(merges.size()) - 1;
        alive.erase(alive.begin() + static_cast<std::ptrdiff_t>(best_b));
    }
    return merges;
}

std::vector<int> leaf_order(const std::vector<Merge>& merges, int n) {
    std::vector<int> order, stack;
    if (merges.empty()) {
        order.resize(static_cast<size_t>(n));
        std::iota(order.begin(), order.end(), 0);
        return order;
    }
    stack.push_back(n + static_cast<int>(merges.size()) - 1);
    while (!stack.empty()) {
        const int node = stack.back();
        stack.pop_back();
        if (node < n) {
            order.push_back(node);
            continue;
        }
        const Merge& merge = merges.at(static_cast<size_t>(node - n));
        stack.push_back(merge.right);
        stack.push_back(merge.left);
    }
    return order;
}

std::vector<int> cut_tree(const std::vector<Merge>& merges, int n, int clusters) {
    if (clusters < 1 || clusters > n)
        fail(Code::invalid_argument, "a tree of ", n, " leaves cannot be cut into ", clusters, " parts");
    std::vector<int> root(static_cast<size_t>(n) + merges.size());
    std::iota(root.begin(), root.end(), 0);
    const auto find = [&](int node) {
        while (root[static_cast<size_t>(node)] != node) node = root[static_cast<size_t>(node)];
        return node;
    };
    for (int i = 0; i < n - clusters; ++i) {
        const Merge& merge = merges.at(static_cast<size_t>(i));
        root[static_cast<size_t>(find(merge.left))] = n + i;
        root[static_cast<size_t>(find(merge.right))] = n + i;
    }
    std::map<int, int> number;
    std::vector<int> out;
    for (int leaf = 0; leaf < n; ++leaf)
        out.push_back(number.try_emplace(find(leaf), static_cast<int>(number.size())).first->second);
    return out;
}

}  // namespace polyad
