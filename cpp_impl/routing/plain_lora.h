// SPDX-License-Identifier: Apache-2.0
// One task of a skillset as one plain LoRA: what other programs can load.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "routing/skillset.h"

namespace polyad {

/// y += B(A x) at every site, the scale inside B. One rank for all sites, since most programs want it: sites
/// that need fewer are filled up with zeros, which changes nothing.
struct PlainLora {
    struct Pair {
        Site site;
        at::Tensor a, b;  ///< [rank, d_in], [d_out, rank], contiguous float32
    };
    int64_t rank = 0;
    std::vector<Pair> pairs;
};

/// `task` is an index into the task table, -1 = none named. Code::invalid_argument when the method needs one,
/// Code::unsupported when it has no exact plain form (its routing depends on the input, or it changes more
/// than a low-rank pair can).
PlainLora plain_lora(const Skillset& skillset, int task);

}  // namespace polyad
