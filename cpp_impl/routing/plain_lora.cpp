// SPDX-License-Identifier: Apache-2.0
#include "routing/plain_lora.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "base/error.h"

namespace polyad {
namespace {

std::string method_name(const Skillset& skillset) {
    return skillset.method().config().at("method").get<std::string>();
}

at::Tensor widened(const at::Tensor& part, int64_t dim, int64_t rank) {
    const at::Tensor values = part.detach().to(at::kFloat);
    if (values.size(dim) == rank) return values.contiguous();
    std::vector<int64_t> shape = values.sizes().vec();
    shape[static_cast<size_t>(dim)] = rank - values.size(dim);
    return at::cat({values, at::zeros(shape, values.options())}, dim).contiguous();
}

}  // namespace

PlainLora plain_lora(const Skillset& skillset, int task) {
    Method& method = skillset.method();
    if (task < 0 && method.needs_task()) {
        std::string names;
        for (size_t i = 0; i < skillset.tasks().size() && i < 8; ++i)
            names += (i ? ", '" : "'") + skillset.tasks()[i].name + "'";
        fail(Code::invalid_argument, "method '", method_name(skillset),
             "' is a LoRA per task only: name one of its ", skillset.tasks().size(), " tasks (", names,
             skillset.tasks().size() > 8 ? ", ...)" : ")");
    }
    at::NoGradGuard no_grad;
    PlainLora out;
    for (const Site& site : skillset.sites()) {
        const std::optional<CollapsedSite> pair = method.collapse(site, task);
        if (!pair)
            fail(Code::unsupported, "method '", method_name(skillset),
                 "' has no exact form as a plain LoRA (at '", site.path, "')");
        if (pair->a.size(0) == 0) continue;
        for (const at::Tensor& factor : {pair->a, pair->b})
            if (!factor.isfinite().all().item<bool>())
                throw Error(Code::numeric_error,
                            text("site '", site.path, "' holds NaN or infinity: not exported"), site.path);
        out.rank = std::max(out.rank, pair->a.size(0));
        out.pairs.push_back({site, pair->a, pair->b});
    }
    if (out.pairs.empty()) fail(Code::unsupported, "the task changes no site: there is nothing to export");
    for (PlainLora::Pair& pair : out.pairs) {
        pair.a = widened(pair.a, 0, out.rank);
        pair.b = widened(pair.b, 1, out.rank);
    }
    return out;
}

}  // namespace polyad
