// SPDX-License-Identifier: Apache-2.0
// The two ends of a Spread, each one autograd node that saves as little as it can.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "backbone/adaptation.h"

namespace polyad {

/// A Spread checked and made ready for `tokens` positions.
struct SpreadPlan {
    SpreadPlan(Spread spread, int64_t tokens);

    int64_t tokens = 0;          ///< N
    std::vector<int32_t> token;  ///< [M]
    RowBegin rows;               ///< [copies + 1]
    at::Tensor weight;           ///< [M] float32
    at::Tensor token_list;       ///< [M] the same beside the weights, where those lie on a device
    /// Where token n went: member[begin[n]], ..., member[begin[n + 1] - 1] of the M.
    std::vector<int32_t> begin, member;

    int64_t places() const { return static_cast<int64_t>(token.size()); }  ///< M
};

/// out[m] = x[token[m]]. x [N, width]; result [M, width].
at::Tensor spread_tokens(const at::Tensor& x, const std::shared_ptr<const SpreadPlan>& plan);

/// out[n] = sum of weight[m] y[m] over the m with token[m] = n, plus onto[n] where `onto` [N, width] is
/// defined: its storage becomes the result's. y [M, width]. `again` (optional) makes y when the backward pass
/// wants it, so that it need not be kept.
at::Tensor joined_tokens(const at::Tensor& y, const std::shared_ptr<const SpreadPlan>& plan,
                         const at::Tensor& onto = {}, std::function<at::Tensor()> again = {});

}  // namespace polyad
