// SPDX-License-Identifier: Apache-2.0
// A site's factors laid out for the operator, kept while no parameter changes: where no gradient is recorded,
// a decoded token would spend more time on laying them out than on all else.
#pragma once

#include <functional>
#include <mutex>
#include <vector>

#include "skills/mixing.h"

namespace polyad {

class ReadyFactors {
  public:
    /// What `make` lays out; without recording in `dtype`, contiguous, and made once. Any thread.
    Factors get(size_t site, at::ScalarType dtype, const std::function<Factors()>& make) const;
    /// A parameter changed.
    void clear();

  private:
    mutable std::mutex mutex_;
    mutable std::vector<Factors> kept_;  ///< per site; undefined until asked for
};

}  // namespace polyad
