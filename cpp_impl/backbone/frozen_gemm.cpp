// SPDX-License-Identifier: Apache-2.0
#include "backbone/frozen_gemm.h"

#include <ATen/ops/addmm.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include "kernels/op_table.h"

namespace polyad {
namespace {

constexpr int64_t block = 256, grain = 32;
constexpr int64_t few = 16;  ///< decoding: as it comes, padding would cost more than it saves
/// oneDNN's AMX kernels read a row to the end of a tile and multiply what lies behind it, the head of the
/// next row, by zero: what is not finite there does reach the row before it.
constexpr int64_t tile_columns = 32;

/// `count` rows from t's first on, as far as t's memory goes on behind its last; undefined when it does not.
at::Tensor extended(const at::Tensor& t, int64_t count) {
    const auto element = static_cast<int64_t>(t.element_size());
    const int64_t end = (t.storage_offset() + count * t.size(1)) * element;
    if (!t.is_contiguous() || end > static_cast<int64_t>(t.storage().nbytes())) return {};
    return t.as_strided({count, t.size(1)}, {t.size(1), 1});
}

/// The product by our own kernel where the machine's set has one for it.
bool multiplied(at::Tensor& out, const at::Tensor& x, const at::Tensor& weight, Way way, bool accumulate) {
    const auto product = kernels::ops().multiply_dense;
    if (!product || !x.is_cpu() || x.scalar_type() != at::kBFloat16 || x.size(0) <= few ||
        weight.size(0) % tile_columns != 0 || weight.size(1) % tile_columns != 0 || !weight.is_contiguous() ||
        !x.is_contiguous() || !out.is_contiguous())
        return false;
    const auto cells = [](const at::Tensor& t) { return static_cast<const uint16_t*>(t.const_data_ptr()); };
    const kernels::DenseWeights weights{cells(weight), weight.size(0), weight.size(1), way == Way::backward};
    product(cells(x), x.size(0), weights, accumulate, static_cast<uint16_t*>(out.data_ptr()));
    return true;
}

}  // namespace

int64_t padded_rows(int64_t n) {
    if (n <= few) return n;
    // Some forty sizes up to a thousand rows, and at most one row in sixteen for nothing.
    int64_t step = grain;
    while (step * 16 < n && step < block) step *= 2;
    return (n + step - 1) / step * step;
}

void multiply_rows(at::Tensor& out, const at::Tensor& x, const at::Tensor& weight, Way way, bool accumulate,
                   bool room) {
    if (multiplied(out, x, weight, way, accumulate)) return;
    const at::Tensor m = way == Way::forward ? weight.t() : weight;
    const auto direct = [&](int64_t begin, int64_t count) {
        at::Tensor part = out.narrow(0, begin, count);
        if (accumulate)
            at::addmm_out(part, part, x.narrow(0, begin, count), m);
        else
            at::mm_out(part, x.narrow(0, begin, count), m);
    };
    if (!x.is_cpu()) return direct(0, x.size(0));
    const bool whole_tiles = x.size(1) % tile_columns == 0;
    if (const int64_t rows = padded_rows(x.size(0)); room && whole_tiles && rows > x.size(0)) {
        const at::Tensor in = extended(x, rows);
        at::Tensor to = extended(out, rows);
        if (in.defined() && to.defined()) {
            if (accumulate)
                at::addmm_out(to, to, in, m);
            else
                at::mm_out(to, in, m);
            return;
        }
    }
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
