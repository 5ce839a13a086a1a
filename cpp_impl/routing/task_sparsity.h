// SPDX-License-Identifier: Apache-2.0
// PEMT's Task Sparsity Loss of one layer (arXiv 2402.15082): gate mass belongs on experts whose direction
// agrees with the layer's output.
//
//     cos(a, c) = a.c / (max(|a|, 1e-8) max(|c|, 1e-8))
//     D_i = mean over tokens of 1 - cos(f, e_i),   L = sum_i (mean over rows of g_i) D_i
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace polyad {

/// Frozen low-rank experts side by side, in the dtype of what they are multiplied with.
struct StackedExperts {
    at::Tensor a, b;  ///< [1, m r, d_in], [1, d_out, m r]
    at::Tensor gram;  ///< B_i^T B_i, [m, r, r] float32
    double scale = 1.0;

    /// From a [m, r, d_in] and b [m, d_out, r].
    static StackedExperts of(const at::Tensor& a, const at::Tensor& b, double scale, at::ScalarType dtype);
};
/// A_i u of every expert, [N, m r] float32: u [N, d_in]. Differentiable in u.
at::Tensor project(const at::Tensor& u, const StackedExperts& experts);
/// cos(f, s B_i v_i) for every expert, [N, m] float32: f [N, d_out], v from project(). No expert's output is
/// made: it needs B_i^T f and |B_i v_i|^2 = v_i^T (B_i^T B_i) v_i only. Differentiable in f and v.
at::Tensor cosine_to_low_rank(const at::Tensor& f, const at::Tensor& v, const StackedExperts& experts);
/// cos(f, e_i) for experts' outputs e_i [N, d_out], [N, m].
at::Tensor cosine_to(const at::Tensor& f, const std::vector<at::Tensor>& experts);
/// L from the cosines [N, m] and the gates [rows, m]; `tokens` [N] (bool, or undefined = all) says which
/// count.
at::Tensor task_sparsity(const at::Tensor& cosines, const at::Tensor& gates, const at::Tensor& tokens);

}  // namespace polyad
