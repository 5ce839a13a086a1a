// SPDX-License-Identifier: Apache-2.0
// Rows of one task begin with the same words. Laid out as a tree, what they have in common is one row of the
// batch that the others go on from (Batch::parent), and is computed once.
#pragma once

#include <cstdint>
#include <vector>

#include "backbone/batch.h"
#include "data/prompt.h"

namespace polyad {

/// A batch and the examples its rows stand for.
struct SharedBatch {
    Batch batch;
    std::vector<int> example;  ///< per row of the batch: an example it belongs to (of a beginning: the first)
    std::vector<int32_t> stands_for;  ///< per row: how many examples read it
    int64_t saved = 0;                ///< tokens the same examples would take more without sharing
};

/// As pack() for a decoder, but examples with equal `mixture` [examples] share what their prompts have in
/// common, as far as it pays and up to the token before the prompt's last: that one predicts an answer, and
/// every example keeps a row of its own.
SharedBatch pack_shared(const std::vector<const EncodedExample*>& examples, const std::vector<int>& mixture);

}  // namespace polyad
