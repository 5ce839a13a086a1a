// SPDX-License-Identifier: Apache-2.0
// Decoding on a device without launching every kernel of every step anew: a step is recorded once and played
// for every later one with as many rows (backbone/recorder.h). What differs from step to step lies in device
// memory that is written before: tokens, positions, pages of the cache, the rows' low-rank pairs.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <list>
#include <memory>
#include <utility>
#include <vector>

#include "backbone/decode_step.h"
#include "backbone/kv_cache.h"
#include "backbone/recorder.h"
#include "serving/merged_task.h"
#include "serving/served_skillset.h"

namespace polyad {

/// One row of a step.
struct DecodeRow {
    int slot;                  ///< in the cache
    int32_t token;             ///< that it goes on by
    const ServedSkillset* of;  ///< whose pairs it has; null: none
    int task;                  ///< of `of`
};

/// The recorded steps of one batch. One caller at a time.
class DecodeGraphs {
  public:
    /// A step is recorded when it comes for the third time: rows that change all the time are not worth it.
    static constexpr int first_recorded = 3;
    /// Recordings that may fail, as what other threads do to the device can make them, before none is tried.
    static constexpr int most_failed = 3;
    /// Recordings kept, the latest used.
    static constexpr size_t most_kept = 16;

    /// `cache` must outlive it.
    DecodeGraphs(std::shared_ptr<const Backbone> backbone, DecoderCache& cache);
    ~DecodeGraphs();
    DecodeGraphs(const DecodeGraphs&) = delete;
    DecodeGraphs& operator=(const DecodeGraphs&) = delete;

    /// Logits [rows, vocab] of a step, good until the next call; the cache has grown by it. Undefined where
    /// it is no recorded step yet, or cannot be one: nothing has been done then. `merged`: the weights it
    /// runs on instead of the rows' pairs, or null.
    at::Tensor step(const std::vector<DecodeRow>& rows, const std::shared_ptr<MergedTask>& merged);
    /// Lets go of recordings that run on merged weights other than these.
    void keep_merged(const MergedTask* merged);

    /// Steps that played a recording.
    int64_t played() const { return played_; }

  private:
    using PairsOf = std::pair<int64_t, int>;  ///< version (0 = none) and task
    struct Kept;

    Kept* find(const std::vector<DecodeRow>& rows, const std::shared_ptr<MergedTask>& merged);
    bool raise_ranks(const std::vector<DecodeRow>& rows);
    void set_pairs(Kept& kept, const std::vector<DecodeRow>& rows);
    at::Tensor forward(const Kept& kept, const std::vector<DecodeRow>& rows);
    at::Tensor record(Kept& kept, const std::vector<DecodeRow>& rows);
    void failed(const char* why);

    std::shared_ptr<const Backbone> backbone_;
    DecoderCache& cache_;
    std::unique_ptr<Recorder> recorder_;  ///< null: no step is recorded, now or later
    std::vector<int32_t> ranks_;  ///< [sites] most ranks a row's pair has had: what launches allow for
    std::list<Kept> kept_;        ///< latest first
    int failed_ = 0;
    int64_t played_ = 0;
};

}  // namespace polyad
