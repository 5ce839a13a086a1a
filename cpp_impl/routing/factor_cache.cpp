// SPDX-License-Identifier: Apache-2.0
#include "routing/factor_cache.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

namespace polyad {

bool FactorCache::assign(const std::vector<MixtureKey>& keys,
                         const std::function<Mixture(const MixtureKey&)>& mix, std::vector<int32_t>& slots) {
    const std::lock_guard lock(mutex_);
    size_t missing = 0;
    for (const MixtureKey& key : keys) missing += slot_of_.count(key) == 0;
    if (mixtures_.size() + missing > static_cast<size_t>(capacity_)) return false;
    slots.clear();
    for (const MixtureKey& key : keys) {
        const auto [found, added] = slot_of_.try_emplace(key, static_cast<int32_t>(mixtures_.size()));
        if (added) mixtures_.push_back(mix(key));
        slots.push_back(found->second);
    }
    return true;
}

Mixture FactorCache::mixture(int32_t slot) const {
    const std::lock_guard lock(mutex_);
    return mixtures_.at(static_cast<size_t>(slot));
}

FactorCache::Stacked FactorCache::at(size_t site, const std::vector<int32_t>& slots, at::ScalarType dtype,
                                     const Make& make) {
    const std::lock_guard lock(mutex_);
    at::NoGradGuard no_grad;
    SiteFactors& entry = sites_.at(site);
    if (entry.stacked.a.defined() && entry.stacked.a.scalar_type() != dtype) entry = {};
    if (entry.filled.empty()) entry.filled.assign(static_cast<size_t>(capacity_), 0);
    for (const int32_t slot : slots) {
        const auto index = static_cast<size_t>(slot);
        if (entry.filled[index]) continue;
        const Factors factors = make(mixtures_.at(index));
        if (!entry.stacked.a.defined()) {
            const auto options = at::TensorOptions().dtype(dtype);
            entry.stacked.a = at::empty({capacity_, factors.a.size(0), factors.a.size(1)}, options);
            entry.stacked.b = at::empty({capacity_, factors.b.size(0), factors.b.size(1)}, options);
        }
        entry.stacked.a.select(0, slot).copy_(factors.a);
        entry.stacked.b.select(0, slot).copy_(factors.b);
        entry.filled[index] = 1;
    }
    return entry.stacked;
}

}  // namespace polyad
