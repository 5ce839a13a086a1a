// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/config.h"

namespace polyad {

/// {"libtorch", "compiler", "kernels": chosen set, "bf16": whether this CPU multiplies it fast, "families":
/// [...]}.
Json compute_build_info();

}  // namespace polyad
