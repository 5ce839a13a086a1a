// SPDX-License-Identifier: Apache-2.0
#include "backbone/build_info.h"

#include <torch/headeronly/version.h>

#include "backbone/weights.h"
#include "kernels/op_table.h"

namespace polyad {

Json compute_build_info() {
    return {{"libtorch", TORCH_VERSION},
            {"compiler", __VERSION__},
            {"kernels", kernels::ops().isa},
            {"bf16", cpu_has_fast_bf16()},
            {"families", {"llama", "qwen2", "qwen3", "mistral"}}};
}

}  // namespace polyad
