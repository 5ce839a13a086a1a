// SPDX-License-Identifier: Apache-2.0
// What every family refuses before it computes anything.
#pragma once

#include <cstdint>
#include <vector>

#include "backbone/backbone.h"

namespace polyad {

/// Code::invalid_argument unless row_begin runs from 0 to the batch's tokens and no row is empty.
void check_rows(const Batch& batch);
/// Code::invalid_argument naming the first id outside [0, vocab).
void check_tokens(const std::vector<int32_t>& tokens, int64_t vocab);
/// Code::invalid_argument unless every row has a cache slot of its own.
void check_slots(const Batch& batch, const ForwardOptions& options);

/// Code::unsupported for a backbone that only encodes: nothing can be trained, scored or generated on it.
void check_has_head(const Backbone& backbone);

}  // namespace polyad
