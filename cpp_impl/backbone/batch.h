// SPDX-License-Identifier: Apache-2.0
// Rows of different length laid end to end. A row costs its own tokens: there is no padding anywhere.
#pragma once

#include <cstdint>
#include <vector>

namespace polyad {

struct Batch {
    std::vector<int32_t> tokens;         ///< [N] all rows' ids, one after the other
    std::vector<int32_t> row_begin;      ///< [rows + 1]; row b is tokens[row_begin[b] .. row_begin[b + 1])
    std::vector<int32_t> prompt_length;  ///< [rows] leading tokens of row b that belong to its prompt
    std::vector<int32_t>
        targets;  ///< [N] id to predict at this position (already shifted) or -1; may be empty
    /// Encoder-decoders only: what the encoder reads, [M] ids, and its rows, [rows + 1]. `tokens` are then
    /// the decoder's, and a row's prompt is its source. A row's source may be empty when its encoder states
    /// lie in the cache.
    std::vector<int32_t> source, source_begin;
    /// Rows that share a beginning (training on decoders that say so): row b goes on where row parent[b], an
    /// earlier one, ends, and sees its tokens as if they were its own; -1 = it begins by itself. Empty = all
    /// do.
    std::vector<int32_t> parent;

    int rows() const { return row_begin.empty() ? 0 : static_cast<int>(row_begin.size()) - 1; }
    int size() const { return static_cast<int>(tokens.size()); }
    int row_length(int b) const { return row_begin[b + 1] - row_begin[b]; }
    int source_length(int b) const { return source_begin[b + 1] - source_begin[b]; }
};

}  // namespace polyad
