// SPDX-License-Identifier: Apache-2.0
// The factors of the groups a plan uses, laid out for its products.
#pragma once

#include "kernels/cpu/isa/low_rank.h"
#include "kernels/cpu/isa/tile.h"

namespace polyad::kernels::POLYAD_ISA {

/// A [rank, d] of each used group as columns of cells [rank cells][stride].
template <class T>
inline void pack_down(const Plan& plan, const T* a, int64_t d, int64_t rank, int64_t stride, float* out) {
    constexpr int depth = cell_depth<T>;
    const int64_t rank_cells = (rank + depth - 1) / depth;
#pragma omp parallel for schedule(static) if (plan.slots() * rank * d >= parallel_elements)
    for (int64_t i = 0; i < plan.slots() * rank_cells; ++i) {
        const T* from = a + plan.group_of_slot(i / rank_cells) * rank * d;
        const int64_t r = i % rank_cells * depth;
        column_cells<T>(from + r * d, depth == 2 && r + 1 < rank ? from + (r + 1) * d : nullptr, d,
                        out + i * stride);
        for (int64_t c = d; c < stride; ++c) out[i * stride + c] = 0;
    }
}

inline constexpr int64_t rows_at_once = 16;

#if defined(__AMX_BF16__)
/// A [rank, d] of each used group as cells [d / 2][rank] of pairs along d.
inline void pack_down_pairs(const Plan& plan, const bf16* a, int64_t d, int64_t rank, float* out) {
    constexpr int64_t at_once = 128;
    const int64_t cells = d / 2, blocks = (cells + at_once - 1) / at_once;
#pragma omp parallel for schedule(static) if (plan.slots() * rank * d >= parallel_elements)
    for (int64_t i = 0; i < plan.slots() * blocks; ++i) {
        const int64_t slot = i / blocks, c = i % blocks * at_once;
        const auto* from = reinterpret_cast<const float*>(a + plan.group_of_slot(slot) * rank * d);
        transpose(from + c, cells, rank, least(at_once, cells - c), out + (slot * cells + c) * rank, rank);
    }
}

/// B [d, rank] of each used group alike.
inline void pack_up_pairs(const Plan& plan, const bf16* b, int64_t d, int64_t rank, float* out) {
    const int64_t cells = d / 2;
#pragma omp parallel for schedule(static) if (plan.slots() * rank * d >= parallel_elements)
    for (int64_t i = 0; i < plan.slots() * cells; ++i) {
        const bf16* from = b + (plan.group_of_slot(i / cells) * d + i % cells * 2) * rank;
        column_cells<bf16>(from, from + rank, rank, out + i * rank);
    }
}
#endif

/// B [d, rank] of each used group as columns of cells [rank cells][stride].
template <class T>
inline void pack_up(const Plan& plan, const T* b, int64_t d, int64_t rank, int64_t stride, float* out) {
    constexpr int depth = cell_depth<T>;
    const int64_t rank_cells = (rank + depth - 1) / depth;
    const int64_t blocks = stride / rows_at_once;
    const Scratch<float> scratch(thread_limit() * rows_at_once * (rank_cells + 16));
#pragma omp parallel for schedule(static) if (plan.slots() * rank * d >= parallel_elements)
    for (int64_t i = 0; i < plan.slots() * blocks; ++i) {
        const int64_t slot = i / blocks, at = i % blocks * rows_at_once, count = least(rows_at_once, d - at);
        const T* from = b + (plan.group_of_slot(slot) * d + at) * rank;
        float* to = out + slot * rank_cells * stride + at;
        if (sizeof(T) * depth == 4 && rank % depth == 0 &&
            count == rows_at_once) {  // rows of cells as they lie
            transpose(reinterpret_cast<const float*>(from), rank_cells, rows_at_once, rank_cells, to, stride);
            continue;
        }
        float* rows = scratch.get() + thread_number() * rows_at_once * (rank_cells + 16);
        for (int64_t j = 0; j < count; ++j) row_cells<T>(from + j * rank, rank, rows + j * rank_cells);
        std::memset(rows + count * rank_cells, 0,
                    static_cast<size_t>((rows_at_once - count) * rank_cells) * 4);
        transpose(rows, rank_cells, rows_at_once, rank_cells, to, stride);
    }
}

/// B [d, rank] of each used group as rows [rank, d] of the same type.
template <class T>
void transpose_up(const Plan& plan, const T* b, int64_t d, int64_t rank, T* out) {
    const int64_t blocks = (d + rows_at_once - 1) / rows_at_once;
    const int64_t scratch_stride = 2 * rows_at_once * (rank + 16);
    const Scratch<float> scratch(thread_limit() * scratch_stride);
#pragma omp parallel for schedule(static) if (plan.slots() * rank * d >= parallel_elements)
    for (int64_t i = 0; i < plan.slots() * blocks; ++i) {
        const int64_t slot = i / blocks, at = i % blocks * rows_at_once, count = least(rows_at_once, d - at);
        const T* from = b + (plan.group_of_slot(slot) * d + at) * rank;
        float* rows = scratch.get() + thread_number() * scratch_stride;
        float* columns = rows + rows_at_once * (rank + 16);
        sweep(count * rank, [&](int64_t k, auto w) { store(rows + k, load(from + k, w), w); });
        transpose(rows, rank, count, rank, columns, rows_at_once);
        for (int64_t r = 0; r < rank; ++r) {
            T* to = out + (slot * rank + r) * d + at;
            sweep(count,
                  [&](int64_t k, auto w) { store(to + k, load(columns + r * rows_at_once + k, w), w); });
        }
    }
}

}  // namespace polyad::kernels::POLYAD_ISA
