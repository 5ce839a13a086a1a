// SPDX-License-Identifier: Apache-2.0
// The G of y = W0 x + s Up(G Down(x)): between the two low-rank products, in float32.
#include <algorithm>

#include "kernels/cpu/isa/kernels.h"
#include "kernels/cpu/isa/vec.h"

namespace polyad::kernels::POLYAD_ISA {
namespace {

// Rows run in parallel: a row's gate gradient then has one writer, in a fixed order of tokens.
template <class Body>
void for_each_token(const GateShape& shape, Rows rows, const Body& body) {
    const int64_t tokens = rows.count ? rows.begin[rows.count] : 0;
#pragma omp parallel for schedule(dynamic) if (tokens * shape.ranks_in >= parallel_elements)
    for (int32_t b = 0; b < rows.count; ++b)
        for (int64_t t = rows.begin[b]; t < rows.begin[b + 1]; ++t)
            body(t, (shape.per_token ? t : b) * shape.width);
}

}  // namespace

void gate(const GateShape& shape, Rows rows, const float* gate, const float* u, float* v) {
    const int64_t r1 = shape.ranks_in, r2 = shape.ranks_out;
    for_each_token(shape, rows, [&](int64_t t, int64_t offset) {
        const float* g = gate + offset;
        const float* ut = u + t * r1;
        float* vt = v + t * r2;
        if (shape.kind == GateKind::diagonal) {
            const int64_t block = r1 / shape.width;
            for (int64_t w = 0; w < shape.width; ++w)
                for (int64_t j = w * block; j < (w + 1) * block; ++j) vt[j] = g[w] * ut[j];
            return;
        }
        std::fill(vt, vt + r2, 0.0f);
        for (int64_t i = 0; i < r1; ++i)
            for (int64_t j = 0; j < r2; ++j) vt[j] += g[i * r2 + j] * ut[i];
    });
}

void gate_backward(const GateShape& shape, Rows rows, const float* gate, const float* u, const float* dv,
                   float* du, float* dgate) {
    const int64_t r1 = shape.ranks_in, r2 = shape.ranks_out;
    for_each_token(shape, rows, [&](int64_t t, int64_t offset) {
        const float* g = gate + offset;
        const float* ut = u + t * r1;
        const float* dvt = dv + t * r2;
        float* dut = du + t * r1;
        float* dg = dgate ? dgate + offset : nullptr;
        if (shape.kind == GateKind::diagonal) {
            const int64_t block = r1 / shape.width;
            for (int64_t w = 0; w < shape.width; ++w) {
                float sum = 0.0f;
                for (int64_t j = w * block; j < (w + 1) * block; ++j) {
                    dut[j] = g[w] * dvt[j];
                    sum += ut[j] * dvt[j];
                }
                if (dg) dg[w] += sum;
            }
            return;
        }
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
