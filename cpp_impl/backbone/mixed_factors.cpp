// SPDX-License-Identifier: Apache-2.0
#include "backbone/mixed_factors.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/tensor.h>

#include <map>

#include "base/error.h"

namespace polyad {
namespace {

/// A bank whose groups read chosen skills, as one in which they read all of a longer one: weights [G, H, K]
/// spread over [G, H, G K] skills.
FactorBank gathered(const FactorBank& bank) {
    if (bank.chosen.empty()) return bank;
    const int64_t groups = bank.weights.size(0), splits = bank.weights.size(1), k = bank.weights.size(2);
    const at::Tensor rows = at::tensor(bank.chosen, at::kInt).to(bank.a.device(), at::kLong);
    FactorBank all;
    all.a = bank.a.index_select(0, rows);
    all.b = bank.b.index_select(0, rows);
    std::vector<at::Tensor> parts;
    for (int64_t g = 0; g < groups; ++g) {
        const at::Tensor own = bank.weights.narrow(0, g, 1);
        parts.push_back(at::cat(
            {own.new_zeros({1, splits, g * k}), own, own.new_zeros({1, splits, (groups - g - 1) * k})}, 2));
    }
    all.weights = at::cat(parts, 0);
    all.rank_begin = bank.rank_begin;
    return all;
}

}  // namespace

at::Tensor mix_down(const at::Tensor& weights, const at::Tensor& a) {
    const int64_t groups = weights.size(0), splits = weights.size(1);
    const int64_t skills = a.size(0), rank = a.size(1), d_in = a.size(2);
    if (splits == 1) return at::mm(weights.select(1, 0), a.view({skills, -1})).view({groups, rank, d_in});
    const at::Tensor blocks =
        a.view({skills, rank, splits, d_in / splits}).permute({2, 0, 1, 3}).reshape({splits, skills, -1});
    return at::bmm(weights.permute({1, 0, 2}), blocks)
        .view({splits, groups, rank, d_in / splits})
        .permute({1, 2, 0, 3})
        .reshape({groups, rank, d_in});
}

at::Tensor mix_up(const at::Tensor& weights, const at::Tensor& b) {
    const int64_t groups = weights.size(0), splits = weights.size(1);
    const int64_t skills = b.size(0), d_out = b.size(1), rank = b.size(2);
    if (splits == 1) return at::mm(weights.select(1, 0), b.view({skills, -1})).view({groups, d_out, rank});
    const at::Tensor blocks = b.view({skills, splits, d_out / splits * rank}).permute({1, 0, 2}).contiguous();
    return at::bmm(weights.permute({1, 0, 2}), blocks).permute({1, 0, 2}).reshape({groups, d_out, rank});
}

int64_t ranks_of(const std::vector<FactorBank>& banks) {
    int64_t ranks = 0;
    std::map<int64_t, int64_t> rank_at;
    for (const FactorBank& bank : banks) {
        const int64_t rank = bank.a.size(1);
        if (bank.rank_begin == ranks) {
            rank_at[ranks] = rank;
            ranks += rank;
            continue;
        }
        const auto found = rank_at.find(bank.rank_begin);
        if (found == rank_at.end() || found->second != rank)
            fail(Code::invalid_argument, "low-rank update: a bank of rank ", rank, " starts at rank ",
                 bank.rank_begin, " of a pair that has ", ranks, " so far");
    }
    return ranks;
}

LowRank with_mixed_factors(LowRank update) {
    if (update.banks.empty()) return update;
    ranks_of(update.banks);
    std::map<int64_t, std::pair<at::Tensor, at::Tensor>> pair_at;
    for (const FactorBank& raw : update.banks) {
        const FactorBank bank = gathered(raw);
        at::Tensor a = mix_down(bank.weights, bank.a), b = mix_up(bank.weights, bank.b);
        auto& [sum_a, sum_b] = pair_at[bank.rank_begin];
        sum_a = sum_a.defined() ? sum_a + a : a;
        sum_b = sum_b.defined() ? sum_b + b : b;
    }
    std::vector<at::Tensor> a, b;
    for (const auto& entry : pair_at) {
        a.push_back(entry.second.first);
        b.push_back(entry.second.second);
    }
    update.a = a.size() == 1 ? a[0] : at::cat(a, 1);
    update.b = b.size() == 1 ? b[0] : at::cat(b, 2);
    update.banks.clear();
    return update;
}

}  // namespace polyad
