// SPDX-License-Identifier: Apache-2.0
// One plain forward without a cache: what bindings and tests compare.
#pragma once

#include <cstdint>
#include <vector>

#include "routing/skillset.h"

namespace polyad {

/// Logits after the last token (of an encoder-decoder: the answer's first), [vocab]. `skillset` may be null;
/// `task` -1 = none.
std::vector<float> last_logits(const Backbone& backbone, const Skillset* skillset, int task,
                               const std::vector<int32_t>& tokens);

}  // namespace polyad
