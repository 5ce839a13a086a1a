// SPDX-License-Identifier: Apache-2.0
#include "backbone/gate.h"

#include <ATen/Parallel.h>

#include <algorithm>

namespace polyad {
namespace {

// Rows run in parallel: a row's gate gradient then has one writer, in a fixed order of tokens.
template <class Body>
void for_each_token(const GateShape& shape, const RowBegin& rows, const Body& body) {
    const auto count = static_cast<int64_t>(rows.size()) - 1;
    at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
        for (int64_t b = begin; b < end; ++b)
            for (int64_t t = rows[b]; t < rows[b + 1]; ++t) body(t, (shape.per_token ? t : b) * shape.width);
    });
}

}  // namespace

void apply_gate(const GateShape& shape, const RowBegin& rows, const float* gate, const float* u, float* v) {
    const int64_t r1 = shape.ranks_in, r2 = shape.ranks_out;
    for_each_token(shape, rows, [&](int64_t t, int64_t offset) {
        const float* g = gate + offset;
        const float* ut = u + t * r1;
        float* vt = v + t * r2;
        if (shape.kind == Gate::diagonal) {
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

void apply_gate_backward(const GateShape& shape, const RowBegin& rows, const float* gate, const float* u,
                         const float* dv, float* du, float* dgate) {
    const int64_t r1 = shape.ranks_in, r2 = shape.ranks_out;
    for_each_token(shape, rows, [&](int64_t t, int64_t offset) {
        const float* g = gate + offset;
        const float* ut = u + t * r1;
        const float* dvt = dv + t * r2;
        float* dut = du + t * r1;
        float* dg = dgate ? dgate + offset : nullptr;
        if (shape.kind == Gate::diagonal) {
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

}  // namespace polyad
