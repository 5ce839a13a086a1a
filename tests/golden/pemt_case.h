// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "golden/case.h"

namespace polyad::golden {

/// A case of `pemt` (one feed-forward of stage 2) or `pemt_prompt` (its correlated prompt).
std::string run_pemt_case(const Case& c);

}  // namespace polyad::golden
