// SPDX-License-Identifier: Apache-2.0
// Frozen weights: expanded once into the compute dtype, or kept as the file's quantised bytes and expanded
// into a scratch buffer for each use.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "backbone/load_plan.h"
#include "backbone/low_rank.h"
#include "io/model_files.h"
#include "kernels/op_table.h"

namespace polyad {

/// The kernels' number of an activation dtype.
kernels::Float float_of(at::ScalarType type);

/// A frozen [rows, columns] matrix. Immutable; any number of threads may use it.
class FrozenMatrix {
  public:
    /// A tensor that already is what dense() should return.
    explicit FrozenMatrix(at::Tensor dense);
    /// Expands now, or keeps the bytes when `packed`. `unpermute_head_dim` > 0 undoes the row order
    /// llama.cpp's converter gives q and k (TensorStore::permuted_row).
    FrozenMatrix(const StoredTensor& stored, const LoadPlan& plan, int64_t unpermute_head_dim = 0);

    int64_t rows() const { return rows_; }
    int64_t columns() const { return columns_; }
    at::ScalarType dtype() const { return dtype_; }
    at::Device device() const { return device_; }
    /// The whole matrix in compute dtype. When packed: this thread's scratch, good until its next dense().
    at::Tensor dense() const { return dense_.defined() ? dense_ : expand(0, rows_, true); }
    /// x W^T [N, rows], no gradients; x [N, columns] contiguous, in the compute dtype.
    at::Tensor multiply(const at::Tensor& x) const;
    /// The same in dtype `out` where nothing is trained: see panels().
    at::Tensor decode(const at::Tensor& x, at::ScalarType out) const;
    /// True when multiply() of so many tokens goes through dense()'s scratch, which moves as it grows.
    bool uses_scratch(int64_t tokens) const { return !dense_.defined() && !multiplies_packed(tokens); }
    /// For kernels::multiply_panels: format, place and rows of a quantised matrix, laid out with the first
    /// use. A few tokens wait for memory, and this is a quarter of the dense matrix. Nothing when `tokens`
    /// are too many for it to pay, or the matrix is not quantised.
    std::optional<kernels::PanelBranch> panels(int64_t tokens) const;
    /// Rows [begin, end), lifetime as for dense().
    at::Tensor rows_of(int64_t begin, int64_t end) const;
    /// Chosen rows (token embeddings), [count, columns], the caller's own.
    at::Tensor gather(const std::vector<int32_t>& rows) const;
    /// On a device, by an index that lies there, too.
    at::Tensor gather_by(const at::Tensor& rows) const;

  private:
    bool on_cpu() const { return device_.is_cpu(); }
    bool multiplies_packed(int64_t tokens) const;
    at::Tensor expand(int64_t begin, int64_t end, bool scratch) const;
    void expand_row(int64_t row, void* out) const;
    /// Blocks on the device as a new matrix in compute dtype, or in this thread's scratch.
    at::Tensor expand_blocks(const at::Tensor& blocks, bool scratch) const;
    int64_t row_bytes() const;

    at::Tensor dense_;     ///< undefined when packed
    at::Tensor blocks_;    ///< packed on a device: [rows, row_bytes()] bytes, rows in order; else undefined
    StoredTensor stored_;  ///< what dense_ came from, when it is smaller; empty when it is not
    std::vector<int32_t> source_row_;  ///< where stored_ keeps each row, empty = in order
    mutable std::once_flag panels_made_;
    mutable at::Tensor panels_;  ///< bytes; undefined until panels() is asked for
    at::ScalarType dtype_;
    at::Device device_ = at::kCPU;
    int64_t rows_ = 0, columns_ = 0;
};

/// A linear of the backbone: W [d_out, d_in] and, maybe, a bias in compute dtype.
struct Linear {
    std::shared_ptr<const FrozenMatrix> weight;
    at::Tensor bias;
};

/// A float32 vector (norm gains).
at::Tensor load_vector(const StoredTensor& stored, at::Device device = at::kCPU);

/// True when this CPU multiplies bf16 faster than float32 (AVX512-BF16 or AMX).
bool cpu_has_fast_bf16();

}  // namespace polyad
