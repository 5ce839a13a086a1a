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

void FactorCache::reserve(Stacked& stacked, const Factors& factors, at::ScalarType dtype) const {
    const int64_t rank = factors.a.size(0), had = stacked.a.defined() ? stacked.a.size(1) : 0;
    if (rank <= had) return;
    const auto options = factors.a.options().dtype(dtype);
    Stacked larger{at::empty({capacity_, rank, factors.a.size(1)}, options),
                   at::empty({capacity_, factors.b.size(0), rank}, options)};
    if (had > 0) {  // slots of a smaller rank are padded with zeros; readers keep the tensors they have
        larger.a.narrow(1, 0, had).copy_(stacked.a);
        larger.a.narrow(1, had, rank - had).zero_();
        larger.b.narrow(2, 0, had).copy_(stacked.b);
        larger.b.narrow(2, had, rank - had).zero_();
    }
    stacked = std::move(larger);
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
        const int64_t rank = factors.a.size(0);
        reserve(entry.stacked, factors, dtype);
        const at::Tensor a = entry.stacked.a.select(0, slot), b = entry.stacked.b.select(0, slot);
        const int64_t unused = a.size(0) - rank;
        a.narrow(0, 0, rank).copy_(factors.a);
        b.narrow(1, 0, rank).copy_(factors.b);
        if (unused > 0) {
            a.narrow(0, rank, unused).zero_();
            b.narrow(1, rank, unused).zero_();
        }
        entry.filled[index] = 1;
    }
    return entry.stacked;
}

}  // namespace polyad
