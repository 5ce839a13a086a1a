// SPDX-License-Identifier: Apache-2.0
// From logits to the next token.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/random.h"

namespace polyad {

struct SamplingOptions {
    int max_tokens = 64;
    float temperature = 0.0f;         ///< 0 = greedy
    int top_k = 0;                    ///< 0 = off
    float top_p = 1.0f;               ///< 1 = off
    float repetition_penalty = 1.0f;  ///< 1 = off; over prompt and answer, as Hugging Face does
    uint64_t seed = 0;
    std::vector<std::string> stop;  ///< the answer ends before the first of these
    bool ignore_eos = false;

    /// Code::invalid_argument names the option and what is allowed.
    void check() const;
};

/// Penalty, temperature, top-k, top-p, draw: in this order. `seen` are prompt and answer so far. Ties go to
/// the lower id. Code::numeric_error when a logit is NaN or every one is minus infinity.
int32_t pick_token(std::span<const float> logits, const SamplingOptions& options,
                   std::span<const int32_t> prompt, std::span<const int32_t> answer, Generator& random);

}  // namespace polyad
