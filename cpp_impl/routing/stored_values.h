// SPDX-License-Identifier: Apache-2.0
// Tensors of adapter files and back, always float32.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <string>
#include <utility>

#include "io/tensor_file.h"

namespace polyad {

inline at::Tensor values_of(const StoredTensor& stored) {
    at::Tensor out = at::empty(stored.shape, at::TensorOptions().dtype(at::kFloat));
    to_float(stored, out.mutable_data_ptr<float>());
    return out;
}

inline StoredTensor stored_values(const at::Tensor& value, std::string name = {}) {
    const at::Tensor plain = value.detach().to(at::kCPU, at::kFloat).contiguous();
    return float_tensor(std::move(name), plain.sizes().vec(),
                        {plain.const_data_ptr<float>(), static_cast<size_t>(plain.numel())});
}

}  // namespace polyad
