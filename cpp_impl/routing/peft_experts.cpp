// SPDX-License-Identifier: Apache-2.0
#include "routing/peft_experts.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>

#include <algorithm>

#include "base/error.h"

namespace polyad {

at::Tensor tensor_of(const StoredTensor& stored) {
    at::Tensor out = at::empty(stored.shape, at::TensorOptions().dtype(at::kFloat));
    to_float(stored, out.mutable_data_ptr<float>());
    return out;
}

int64_t largest_expert_rank(const std::vector<PeftAdapter>& adapters) {
    int64_t rank = 0;
    for (const PeftAdapter& adapter : adapters)
        for (const PeftModule& module : adapter.modules) rank = std::max(rank, module.rank);
    return rank;
}

void check_experts(const std::vector<PeftAdapter>& adapters, const std::vector<Site>& sites) {
    for (size_t e = 0; e < adapters.size(); ++e) {
        const PeftAdapter& adapter = adapters[e];
        if (adapter.kind != PeftKind::lora && adapter.kind != PeftKind::rslora)
            fail(Code::unsupported, "adapters[", e, "] is ", peft_kind_name(adapter.kind),
                 ": experts are LoRA or rsLoRA adapters");
        for (const PeftModule& module : adapter.modules) {
            const auto site = std::find_if(sites.begin(), sites.end(),
                                           [&](const Site& s) { return s.path == module.path; });
            if (site == sites.end())
                fail(Code::bad_format, "adapters[", e, "] changes '", module.path,
                     "', which is no linear of target_modules");
            if (module.d_in != site->d_in || module.d_out != site->d_out)
                fail(Code::bad_format, "adapters[", e, "]: '", module.path, "' is [", module.d_out, ", ",
                     module.d_in, "] there, the backbone has [", site->d_out, ", ", site->d_in, "]");
        }
    }
}

void fill_experts(const std::vector<PeftAdapter>& adapters, const Site& site, double scale, at::Tensor a,
                  at::Tensor b) {
    a.zero_();
    b.zero_();
    for (size_t e = 0; e < adapters.size(); ++e)
        for (const PeftModule& module : adapters[e].modules) {
            if (module.path != site.path) continue;
            const auto expert = static_cast<int64_t>(e);
            a.select(0, expert).narrow(0, 0, module.rank).copy_(tensor_of(module.a));
            b.select(0, expert).narrow(1, 0, module.rank).copy_(tensor_of(module.b) * (module.scale / scale));
        }
}

}  // namespace polyad
