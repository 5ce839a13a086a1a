// SPDX-License-Identifier: Apache-2.0
// Tensors and rows as the kernels take them.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>

#include "backbone/low_rank.h"
#include "kernels/op_table.h"

namespace polyad {

inline float* float_or_null(const at::Tensor& t) {
    return t.defined() ? t.data_ptr<float>() : nullptr;
}

/// Where the element `elements` behind the first lies.
inline void* address_of(const at::Tensor& t, int64_t elements) {
    return static_cast<std::byte*>(t.data_ptr()) + elements * static_cast<int64_t>(t.element_size());
}

inline kernels::Rows kernel_rows(const RowBegin& rows) {
    return {rows.data(), static_cast<int32_t>(rows.size()) - 1};
}

}  // namespace polyad
