// SPDX-License-Identifier: Apache-2.0
// Mixed factors kept between forwards: one slot per mixture and, per site, one low-rank pair in each slot,
// ready for the operator in the backbone's dtype. Slots are filled when first asked for and never rewritten,
// so a reader needs no lock once it has the tensors; a changed parameter throws the whole cache away.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <map>
#include <mutex>
#include <vector>

#include "routing/row_groups.h"
#include "skills/mixing.h"

namespace polyad {

/// The weights of one batch (or one cached task), for every router table of a method.
struct Mixture {
    RowGroups groups;
    std::vector<at::Tensor> gate, weights;  ///< per table, [G, splits, skills]
    std::vector<at::Tensor> specific;       ///< per table, [G, private skills] (C-Poly); else empty
};

class FactorCache {
  public:
    FactorCache(size_t sites, int capacity) : capacity_(capacity), sites_(sites) {}

    int capacity() const { return capacity_; }
    /// Slots of `keys`, in order; false when they do not all fit. `mix` makes the mixture of one key.
    bool assign(const std::vector<MixtureKey>& keys, const std::function<Mixture(const MixtureKey&)>& mix,
                std::vector<int32_t>& slots);
    const std::map<MixtureKey, int32_t>& slots() const { return slot_of_; }
    Mixture mixture(int32_t slot) const;

    struct Stacked {
        at::Tensor a, b;  ///< [capacity, R, d_in], [capacity, d_out, R]; only the slots asked for are filled
    };
    using Make = std::function<Factors(const Mixture&)>;
    Stacked at(size_t site, const std::vector<int32_t>& slots, at::ScalarType dtype, const Make& make);

  private:
    /// Makes room for a pair of this rank (mixtures of one site may differ in rank).
    void reserve(Stacked& stacked, const Factors& factors, at::ScalarType dtype) const;

    struct SiteFactors {
        Stacked stacked;
        std::vector<char> filled;
    };
    const int capacity_;
    mutable std::mutex mutex_;
    std::map<MixtureKey, int32_t> slot_of_;
    std::vector<Mixture> mixtures_;  ///< per slot
    std::vector<SiteFactors> sites_;
};

}  // namespace polyad
