// SPDX-License-Identifier: Apache-2.0
// The G of y = W0 x + s Up(G Down(x)): between the two low-rank products, in float32.
#include <algorithm>

#include "kernels/cpu/isa/kernels.h"
#include "kernels/cpu/isa/vec.h"

namespace polyad::kernels::POLYAD_ISA {
namespace {

// Rows run in parallel: a row's gate gradient then has one writer, in a fixed order of tokens. body(row,
// scratch) with `floats` of scratch.
template <class Body>
void for_each_row(const GateShape& shape, Rows rows, int64_t floats, const Body& body) {
    const int64_t tokens = rows.count ? rows.begin[rows.count] : 0;
    floats = round_up(floats, 16);  // no cache line is two threads'
    const Scratch<float> scratch(thread_limit() * floats);
#pragma omp parallel for schedule(dynamic) if (tokens * shape.ranks_in >= parallel_elements)
    for (int32_t b = 0; b < rows.count; ++b) body(b, scratch.get() + thread_number() * floats);
}

/// Every rank's entry of a diagonal line.
inline void expand(const float* g, const GateShape& shape, float* entry) {
    const int64_t block = shape.ranks_in / shape.width;
    for (int64_t w = 0; w < shape.width; ++w) std::fill(entry + w * block, entry + (w + 1) * block, g[w]);
}

inline void add_blocks(const float* products, const GateShape& shape, float* dg) {
    const int64_t block = shape.ranks_in / shape.width;
    for (int64_t w = 0; w < shape.width; ++w)
        for (int64_t j = w * block; j < (w + 1) * block; ++j) dg[w] += products[j];
}

void diagonal(const GateShape& shape, Rows rows, const float* gate, const float* u, float* v) {
    const int64_t ranks = shape.ranks_in;
    for_each_row(shape, rows, ranks, [&](int32_t b, float* entry) {
        if (!shape.per_token) expand(gate + b * shape.width, shape, entry);
        for (int64_t t = rows.begin[b]; t < rows.begin[b + 1]; ++t) {
            if (shape.per_token) expand(gate + t * shape.width, shape, entry);
            sweep(ranks, [&](int64_t j, auto part) {
                store(v + t * ranks + j, load(u + t * ranks + j, part) * load(entry + j, part), part);
            });
        }
    });
}

void diagonal_backward(const GateShape& shape, Rows rows, const float* gate, const float* u, const float* dv,
                       float* du, float* dgate) {
    const int64_t ranks = shape.ranks_in;
    for_each_row(shape, rows, 2 * ranks, [&](int32_t b, float* entry) {
        float* const products = entry + ranks;  // of u and dv; summed over the tokens of a line
        const auto begin = [&](int64_t line) {
            expand(gate + line * shape.width, shape, entry);
            std::fill(products, products + ranks, 0.0f);
        };
        const auto end = [&](int64_t line) {
            if (dgate) add_blocks(products, shape, dgate + line * shape.width);
        };
        if (!shape.per_token) begin(b);
        for (int64_t t = rows.begin[b]; t < rows.begin[b + 1]; ++t) {
            if (shape.per_token) begin(t);
            sweep(ranks, [&](int64_t j, auto part) {
                const vf d = load(dv + t * ranks + j, part);
                store(du + t * ranks + j, d * load(entry + j, part), part);
                store(products + j, fma(load(u + t * ranks + j, part), d, load(products + j, part)), part);
            });
            if (shape.per_token) end(t);
        }
        if (!shape.per_token) end(b);
    });
}

/// Calls body(token, place of its line) for every token.
template <class Body>
void for_each_token(const GateShape& shape, Rows rows, const Body& body) {
    for_each_row(shape, rows, 0, [&](int32_t b, float*) {
        for (int64_t t = rows.begin[b]; t < rows.begin[b + 1]; ++t)
            body(t, (shape.per_token ? t : b) * shape.width);
    });
}

}  // namespace

void gate(const GateShape& shape, Rows rows, const float* gate, const float* u, float* v) {
    if (shape.kind == GateKind::diagonal) return diagonal(shape, rows, gate, u, v);
    const int64_t r1 = shape.ranks_in, r2 = shape.ranks_out;
    for_each_token(shape, rows, [&](int64_t t, int64_t offset) {
        const float* g = gate + offset;
        const float* ut = u + t * r1;
        float* vt = v + t * r2;
        std::fill(vt, vt + r2, 0.0f);
        for (int64_t i = 0; i < r1; ++i)
            for (int64_t j = 0; j < r2; ++j) vt[j] += g[i * r2 + j] * ut[i];
    });
}

void gate_backward(const GateShape& shape, Rows rows, const float* gate, const float* u, const float* dv,
                   float* du, float* dgate) {
    if (shape.kind == GateKind::diagonal) return diagonal_backward(shape, rows, gate, u, dv, du, dgate);
    const int64_t r1 = shape.ranks_in, r2 = shape.ranks_out;
    for_each_token(shape, rows, [&](int64_t t, int64_t offset) {
        const float* g = gate + offset;
        const float* ut = u + t * r1;
        const float* dvt = dv + t * r2;
        float* dut = du + t * r1;
        float* dg = dgate ? dgate + offset : nullptr;
        for (int64_t i = 0; i < r1; ++i) {
            float sum = 0.0f;
            for (int64_t j = 0; j < r2; ++j) sum += g[i * r2 + j] * dvt[j];
            dut[i] = sum;
        }
        if (!dg) return;
        for (int64_t i = 0; i < r1; ++i)
            for (int64_t j = 0; j < r2; ++j) dg[i * r2 + j] += ut[i] * dvt[j];
    });
}

}  // namespace polyad::kernels::POLYAD_ISA
