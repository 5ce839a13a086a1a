// SPDX-License-Identifier: Apache-2.0
// The indices of a decoding step at addresses that stay: a recording of one step then is a recording of every
// later one with as many rows.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "backbone/fused.h"
#include "backbone/recorder.h"

namespace polyad {

class DecoderCache;

/// One token for each of some rows of a cache. Kernels read tokens, positions and the rows' pages from the
/// device; the host's plan and past hold the most a row may have, which bounds the launches.
class DecodeStep {
  public:
    /// `plan` and `past` as a forward over rows of one token would have them whose caches hold all tokens but
    /// one of the most they may; `recorder` must outlive this.
    DecodeStep(std::shared_ptr<const AttentionPlan> plan, const std::vector<int32_t>& past_lengths,
               at::Device device, Recorder& recorder);
    ~DecodeStep();
    DecodeStep(const DecodeStep&) = delete;
    DecodeStep& operator=(const DecodeStep&) = delete;

    int rows() const { return plan_->rows(); }
    /// Most keys of a row, the new one included.
    int keys() const { return keys_; }
    /// The next step's: a token for each row, whose slot has room for it. Queued.
    void set(const std::vector<int32_t>& tokens, const DecoderCache& cache, const std::vector<int>& slots);

    /// [rows] int32, on the device.
    const at::Tensor& tokens() const { return tokens_; }
    const std::shared_ptr<const AttentionPlan>& plan() const { return plan_; }
    const std::shared_ptr<const PastRows>& past() const { return past_; }

  private:
    struct Part {
        int64_t begin, count;  ///< int32 entries of twin_
    };
    template <class T>
    Part bind(const std::vector<T>& host, int64_t& end);

    std::shared_ptr<const AttentionPlan> plan_;
    std::shared_ptr<const PastRows> past_;
    Recorder& recorder_;
    int keys_, pages_;  ///< per row
    at::Tensor twin_, tokens_;
    std::vector<int32_t> host_;  ///< what twin_ is given
    Part position_, key_count_, length_, page_;
};

}  // namespace polyad
