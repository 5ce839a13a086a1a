// SPDX-License-Identifier: Apache-2.0
// What the four low-rank kernels share: which tokens use which group, and the frozen order they are worked
// in.
#pragma once

#include "kernels/cpu/isa/kernels.h"
#include "kernels/cpu/isa/tile.h"

namespace polyad::kernels::POLYAD_ISA {

/// Tokens [begin, end) of one group (-1: none). Neighbouring rows of a group are one segment, short ones and
/// others apart, so that how a row is computed depends on its own length alone.
struct Segment {
    int32_t group, begin, end;
    int32_t slot;         ///< which packed factor it uses; -1 without a group
    int64_t pairs_begin;  ///< where its token pairs start among all segments' pairs
    bool few;             ///< made of rows too short to pay for packed factors: decoded tokens
};

#if defined(__AMX_BF16__)
inline constexpr int64_t piece_tokens = 48;  // whole tiles
#else
inline constexpr int64_t piece_tokens = 24;
#endif

/// A part of a segment short enough to be one thread's work item: up to piece_tokens.
struct Piece {
    int32_t segment, begin, end;
};

class Plan {
  public:
    static constexpr int64_t few_tokens = 4;

    Plan(const int32_t* group_of_row, Rows rows, int depth)
        : segments_(rows.count + 1),
          groups_(rows.count + 1),
          pieces_(rows.count + 1 + (rows.count ? rows.begin[rows.count] - rows.begin[0] : 0) / piece_tokens +
                  1) {
        tokens_ = rows.count ? rows.begin[rows.count] : 0;
        for (int32_t b = 0; b < rows.count; ++b) {
            const int32_t begin = rows.begin[b], end = rows.begin[b + 1], group = group_of_row[b];
            if (begin == end) continue;
            const bool few = end - begin <= few_tokens;
            (few ? few_ : many_) = true;
            if (segment_count_ && segments_[segment_count_ - 1].group == group &&
                segments_[segment_count_ - 1].end == begin && segments_[segment_count_ - 1].few == few)
                segments_[segment_count_ - 1].end = end;
            else
                segments_[segment_count_++] = {group, begin, end, -1, 0, few};
        }
        for (int64_t i = 0; i < segment_count_; ++i) {
            Segment& s = segments_[i];
            s.pairs_begin = pairs_;
            pairs_ += (s.end - s.begin + depth - 1) / depth;
            if (s.group >= 0) s.slot = slot_of(s.group);
            for (int32_t t = s.begin; t < s.end; t += piece_tokens)
                pieces_[piece_count_++] = {static_cast<int32_t>(i), t,
                                           static_cast<int32_t>(least(s.end, t + piece_tokens))};
        }
    }

    int64_t tokens() const { return tokens_; }
    int64_t segment_count() const { return segment_count_; }
    int64_t slots() const { return slots_; }
    int64_t pairs() const { return pairs_; }
    /// Whether there are segments of few tokens, and others.
    bool few() const { return few_; }
    bool many() const { return many_; }
    const Segment& segment(int64_t i) const { return segments_[i]; }
    /// First of the pieces that are the work of the `thread`-th of `threads`: those whose middle lies in its
    /// part of the tokens.
    int64_t first_piece(int64_t thread, int64_t threads) const {
        int64_t i = 0;
        while (i < piece_count_ && (pieces_[i].begin + pieces_[i].end) * threads < 2 * tokens_ * thread) ++i;
        return i;
    }
    /// Inside a parallel region: calls use(piece, its segment) for this thread's pieces.
    template <class Use>
    void each_of_mine(const Use& use) const {
        const int64_t end = first_piece(thread_number() + 1, team_size());
        for (int64_t i = first_piece(thread_number(), team_size()); i < end; ++i)
            use(pieces_[i], segments_[pieces_[i].segment]);
    }
    int32_t group_of_slot(int64_t slot) const { return groups_[slot]; }

  private:
    /// Few distinct groups per batch: looked up from the latest one back.
    int32_t slot_of(int32_t group) {
        for (int64_t i = slots_; i-- > 0;)
            if (groups_[i] == group) return static_cast<int32_t>(i);
        groups_[slots_] = group;
        return static_cast<int32_t>(slots_++);
    }

    Scratch<Segment> segments_;
    Scratch<int32_t> groups_;
    Scratch<Piece> pieces_;
    int64_t tokens_ = 0, segment_count_ = 0, piece_count_ = 0, slots_ = 0, pairs_ = 0;
    bool few_ = false, many_ = false;
};

/// Multiply-adds from which a second thread pays.
inline constexpr double parallel_products = 200e3;

}  // namespace polyad::kernels::POLYAD_ISA
