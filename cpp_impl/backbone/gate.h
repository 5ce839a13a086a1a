// SPDX-License-Identifier: Apache-2.0
// The G of y = W0 x + s Up(G Down(x)): between the two low-rank products, in float32.
#pragma once

#include <cstdint>
#include <vector>

#include "backbone/low_rank.h"

namespace polyad {

struct GateShape {
    Gate kind = Gate::none;
    bool per_token = false;
    int64_t ranks_in = 0;   ///< R of Down
    int64_t ranks_out = 0;  ///< R of Up; == ranks_in unless kind is full
    int64_t width = 0;      ///< entries per gate row
};

/// v = G u for every token. u [N, ranks_in], v [N, ranks_out].
void apply_gate(const GateShape& shape, const RowBegin& rows, const float* gate, const float* u, float* v);
/// du = G^T dv (written), dgate += what u and dv make of it (null = not wanted).
void apply_gate_backward(const GateShape& shape, const RowBegin& rows, const float* gate, const float* u,
                         const float* dv, float* du, float* dgate);

}  // namespace polyad
