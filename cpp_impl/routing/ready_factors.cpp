// SPDX-License-Identifier: Apache-2.0
#include "routing/ready_factors.h"

#include <ATen/core/grad_mode.h>

namespace polyad {

Factors ReadyFactors::get(size_t site, at::ScalarType dtype, const std::function<Factors()>& make) const {
    if (at::GradMode::is_enabled()) return make();
    const std::lock_guard lock(mutex_);
    if (kept_.size() <= site) kept_.resize(site + 1);
    Factors& kept = kept_[site];
    if (!kept.a.defined() || kept.a.scalar_type() != dtype) {
        const Factors made = make();
        kept = {made.a.detach().to(dtype).contiguous(), made.b.detach().to(dtype).contiguous()};
    }
    return kept;
}

void ReadyFactors::clear() {
    const std::lock_guard lock(mutex_);
    kept_.clear();
}

}  // namespace polyad
