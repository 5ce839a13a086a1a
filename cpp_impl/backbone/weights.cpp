// SPDX-License-Identifier: Apache-2.0
#include "backbone/weights.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <cstring>

#include "backbone/buffer_pool.h"
#include "backbone/device.h"
#include "backbone/frozen_gemm.h"
#include "base/error.h"
#include "base/mapped_pages.h"

namespace polyad {
namespace {

// Rows a thread expands at a time: large enough to hide the hand-over, small enough to balance.
constexpr int64_t rows_per_task = 64;
// Tokens that read packed weights; beyond, the dense product's arithmetic is cheaper than expanding again.
constexpr int64_t few = 16;

/// This thread's buffer for a packed matrix; it grows to the largest one and stays.
at::Tensor scratch_matrix(at::Device device, at::ScalarType dtype, int64_t rows, int64_t columns) {
    thread_local at::Tensor buffers[2];
    at::Tensor& buffer = buffers[dtype == at::kBFloat16];
    if (!buffer.defined() || buffer.numel() < rows * columns || buffer.device() != device)
        buffer = at::empty({rows * columns}, at::TensorOptions().dtype(dtype).device(device));
    return buffer.narrow(0, 0, rows * columns).view({rows, columns});
}

}  // namespace

kernels::Float float_of(at::ScalarType type) {
    POLYAD_CHECK(type == at::kFloat || type == at::kBFloat16);
    return type == at::kFloat ? kernels::Float::f32 : kernels::Float::bf16;
}

FrozenMatrix::FrozenMatrix(at::Tensor dense)
    : dense_(dense.detach()),
      dtype_(dense.scalar_type()),
      device_(dense.device()),
      rows_(dense.size(0)),
      columns_(dense.size(1)) {}

FrozenMatrix::FrozenMatrix(const StoredTensor& stored, const LoadPlan& plan, int64_t unpermute_head_dim)
    : stored_(stored), dtype_(plan.dtype), device_(plan.device) {
    if (stored.shape.size() != 2)
        fail(Code::bad_format, "tensor '", stored.name, "' has ", stored.shape.size(),
             " dimensions, 2 wanted");
    rows_ = stored.shape[0];
    columns_ = stored.shape[1];
    quant_of(stored.dtype);  // refuses what is no weight
    if (unpermute_head_dim > 0)
        for (int64_t row = 0; row < rows_; ++row)
            source_row_.push_back(static_cast<int32_t>(TensorStore::permuted_row(row, unpermute_head_dim)));
    if (on_cpu()) {
        if (plan.packed) return;
        dense_ = expand(0, rows_, false);
        release_pages(stored_.owner, stored_.data);
        if (block_elements(stored.dtype) == 1) stored_ = {};  // not quantised: lets go of the file's pages
        return;
    }
    // The stored bytes travel, rows already in order; what is expanded at once is expanded over there.
    at::Tensor bytes = at::empty({rows_, row_bytes()}, at::TensorOptions().dtype(at::kByte));
    const auto width = static_cast<size_t>(row_bytes());
    for (int64_t row = 0; row < rows_; ++row)
        std::memcpy(
            bytes.mutable_data_ptr<uint8_t>() + static_cast<size_t>(row) * width,
            stored_.data.data() + static_cast<size_t>(source_row_.empty() ? row : source_row_[row]) * width,
            width);
    blocks_ = bytes.to(device_);
    source_row_.clear();
    stored_.data = {};
    if (plan.packed) return;
    dense_ = expand_blocks(blocks_, false);
    blocks_ = at::Tensor();
}

int64_t FrozenMatrix::row_bytes() const {
    return columns_ / block_elements(stored_.dtype) * block_bytes(stored_.dtype);
}

at::Tensor FrozenMatrix::expand_blocks(const at::Tensor& blocks, bool scratch) const {
    const int64_t rows = blocks.size(0);
    at::Tensor out = scratch
                         ? scratch_matrix(device_, dtype_, rows, columns_)
                         : new_lasting({rows, columns_}, at::TensorOptions().dtype(dtype_).device(device_));
    const auto& ops = ops_on(device_);
    const auto quant = quant_of(stored_.dtype);
    if (dtype_ == at::kFloat)
        ops.dequantise(quant, blocks.const_data_ptr(), static_cast<float*>(out.data_ptr()), out.numel());
    else
        ops.dequantise_bf16(quant, blocks.const_data_ptr(), static_cast<uint16_t*>(out.data_ptr()),
                            out.numel());
    return out;
}

void FrozenMatrix::expand_row(int64_t row, void* out) const {
    const int64_t source = source_row_.empty() ? row : source_row_[static_cast<size_t>(row)];
    const std::byte* src = stored_.data.data() + source * row_bytes();
    const auto& ops = kernels::ops();
    if (dtype_ == at::kFloat)
        ops.dequantise(quant_of(stored_.dtype), src, static_cast<float*>(out), columns_);
    else
        ops.dequantise_bf16(quant_of(stored_.dtype), src, static_cast<uint16_t*>(out), columns_);
}

at::Tensor FrozenMatrix::expand(int64_t begin, int64_t end, bool scratch) const {
    if (blocks_.defined()) return expand_blocks(blocks_.narrow(0, begin, end - begin), scratch);
    at::Tensor out = scratch ? scratch_matrix(at::kCPU, dtype_, end - begin, columns_)
                             : new_lasting({end - begin, columns_}, at::TensorOptions().dtype(dtype_));
    auto* data = static_cast<std::byte*>(out.data_ptr());
    const int64_t stride = columns_ * static_cast<int64_t>(out.element_size());
    at::parallel_for(begin, end, rows_per_task, [&](int64_t first, int64_t last) {
        for (int64_t row = first; row < last; ++row) expand_row(row, data + (row - begin) * stride);
    });
    return out;
}

std::optional<kernels::PanelBranch> FrozenMatrix::panels(int64_t tokens) const {
    if (tokens > few || !on_cpu() || stored_.data.size() == 0) return std::nullopt;
    const kernels::Quant quant = quant_of(stored_.dtype);
    std::call_once(panels_made_, [&] {
        const int64_t bytes = kernels::ops().panel_bytes(quant, rows_, columns_);
        if (bytes == 0) return;
        panels_ = new_lasting({bytes}, at::TensorOptions().dtype(at::kByte));
        kernels::ops().make_panels(quant, stored_.data.data(),
                                   source_row_.empty() ? nullptr : source_row_.data(), rows_, columns_,
                                   panels_.data_ptr());
        if (dense_.defined()) release_pages(stored_.owner, stored_.data);
    });
    if (!panels_.defined()) return std::nullopt;
    kernels::PanelBranch branch{};
    branch.quant = quant;
    branch.panels = panels_.data_ptr();
    branch.rows = rows_;
    return branch;
}

bool FrozenMatrix::multiplies_packed(int64_t tokens) const {
    return blocks_.defined() && block_elements(stored_.dtype) > 1 && tokens <= few;
}

at::Tensor FrozenMatrix::multiply(const at::Tensor& x) const {
    at::Tensor y = new_buffer({x.size(0), rows_}, x.options());
    if (multiplies_packed(x.size(0)))
        ops_on(device_).multiply_packed(quant_of(stored_.dtype), blocks_.const_data_ptr(), nullptr,
                                        float_of(x.scalar_type()), x.const_data_ptr(), x.size(0), rows_,
                                        columns_, y.data_ptr());
    else
        multiply_rows(y, x, dense(), Way::forward, false, true);
    return y;
}

at::Tensor FrozenMatrix::decode(const at::Tensor& x, at::ScalarType out) const {
    auto branch = panels(x.size(0));
    if (!branch) return multiply(x).to(out);
    at::Tensor y = at::empty({x.size(0), rows_}, x.options().dtype(out));
    branch->y_type = float_of(out);
    branch->y = y.data_ptr();
    const int32_t begin[] = {0, static_cast<int32_t>(x.size(0))};
    kernels::ops().multiply_panels(float_of(x.scalar_type()), x.data_ptr(), {begin, 1}, columns_, &*branch,
                                   1);
    return y;
}

at::Tensor FrozenMatrix::rows_of(int64_t begin, int64_t end) const {
    return dense_.defined() ? dense_.narrow(0, begin, end - begin) : expand(begin, end, true);
}

at::Tensor FrozenMatrix::gather(const std::vector<int32_t>& rows) const {
    if (!on_cpu()) return gather_by(device_list(rows, device_));
    const auto count = static_cast<int64_t>(rows.size());
    at::Tensor out = at::empty({count, columns_}, at::TensorOptions().dtype(dtype_));
    auto* data = static_cast<std::byte*>(out.data_ptr());
    const auto stride = static_cast<size_t>(columns_) * out.element_size();
    for (int64_t i = 0; i < count; ++i) {
        if (dense_.defined())
            std::memcpy(data + i * stride,
                        static_cast<const std::byte*>(dense_.data_ptr()) + rows[i] * stride, stride);
        else
            expand_row(rows[i], data + i * stride);
    }
    return out;
}

at::Tensor FrozenMatrix::gather_by(const at::Tensor& rows) const {
    POLYAD_CHECK(!on_cpu());
    if (dense_.defined()) return dense_.index_select(0, rows);
    return expand_blocks(blocks_.index_select(0, rows), false);
}

at::Tensor load_vector(const StoredTensor& stored, at::Device device) {
    if (stored.shape.size() != 1)
        fail(Code::bad_format, "tensor '", stored.name, "' has ", stored.shape.size(),
             " dimensions, 1 wanted");
    at::Tensor out = at::empty({stored.shape[0]}, at::TensorOptions().dtype(at::kFloat));
    to_float(stored, out.data_ptr<float>());
    return out.to(device);
}

bool cpu_has_fast_bf16() {
#if defined(__x86_64__) && defined(__GNUC__)
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512bf16");
#else
    return false;
#endif
}

}  // namespace polyad
