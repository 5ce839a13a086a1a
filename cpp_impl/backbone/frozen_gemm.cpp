// SPDX-License-Identifier: Apache-2.0
#include "backbone/frozen_gemm.h"

#include <ATen/ops/addmm.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

namespace polyad {
namespace {

constexpr int64_t block = 256, grain = 32;
constexpr int64_t few = 16;  ///< decoding: as it comes, padding would cost more than it saves

}  // namespace

void multiply_rows(at::Tensor& out, const at::Tensor& x, const at::Tensor& m, bool accumulate) {
    const auto direct = [&](int64_t begin, int64_t count) {
        at::Tensor part = out.narrow(0, begin, count);
        if (accumulate)
            at::addmm_out(part, part, x.narrow(0, begin, count), m);
        else
            at::mm_out(part, x.narrow(0, begin, count), m);
    };
    if (!x.is_cpu()) return direct(0, x.size(0));
    const int64_t n = x.size(0), whole = n / block * block, rest = n - whole;
    const int64_t padded = (rest + grain - 1) / grain * grain;
    if (n <= few || padded == rest) {
        if (n <= few) return direct(0, n);
        if (whole) direct(0, whole);
        if (rest) direct(whole, rest);
        return;
    }
    if (whole) direct(0, whole);
    at::Tensor tail = at::zeros({padded, x.size(1)}, x.options());
    tail.narrow(0, 0, rest).copy_(x.narrow(0, whole, rest));
    const at::Tensor product = at::mm(tail, m).narrow(0, 0, rest);
    at::Tensor part = out.narrow(0, whole, rest);
    if (accumulate)
        part.add_(product);
    else
        part.copy_(product);
}

}  // namespace polyad
