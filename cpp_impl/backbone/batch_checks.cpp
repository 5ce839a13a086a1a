// SPDX-License-Identifier: Apache-2.0
#include "backbone/batch_checks.h"

#include <algorithm>

#include "base/error.h"

namespace polyad {

void check_rows(const Batch& batch) {
    if (batch.row_begin.empty() || batch.row_begin.front() != 0 || batch.row_begin.back() != batch.size())
        fail(Code::invalid_argument, "row_begin does not run from 0 to the batch's ", batch.size(),
             " tokens");
    for (int b = 0; b < batch.rows(); ++b)
        if (batch.row_length(b) < 1) fail(Code::invalid_argument, "row ", b, " of the batch is empty");
}

void check_tokens(const std::vector<int32_t>& tokens, int64_t vocab) {
    for (size_t i = 0; i < tokens.size(); ++i)
        if (tokens[i] < 0 || tokens[i] >= vocab)
            fail(Code::invalid_argument, "token id ", tokens[i], " at position ", i,
                 " is outside the vocabulary [0, ", vocab, ")");
}

void check_slots(const Batch& batch, const ForwardOptions& options) {
    if (static_cast<int>(options.slots.size()) != batch.rows())
        fail(Code::invalid_argument, options.slots.size(), " cache slots for ", batch.rows(), " rows");
    std::vector<int> sorted = options.slots;
    std::sort(sorted.begin(), sorted.end());
    const auto twice = std::adjacent_find(sorted.begin(), sorted.end());
    if (twice != sorted.end()) fail(Code::invalid_argument, "cache slot ", *twice, " is named by two rows");
}

void check_has_head(const Backbone& backbone) {
    if (backbone.info().encoder_only)
        fail(Code::unsupported, "'", backbone.info().name, "' is an encoder (", backbone.info().family,
             "): it gives states of a text and has no head to train, score or generate with");
}

}  // namespace polyad
