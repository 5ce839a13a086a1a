// SPDX-License-Identifier: Apache-2.0
#include "serving/device_sampling.h"

#include <ATen/ops/empty.h>

#include "backbone/cuda.h"
#include "backbone/device.h"

namespace polyad {

bool samples_on_device(at::Device device) {
    return cuda_ops(device) != nullptr;
}

std::vector<int32_t> sample_on_device(const at::Tensor& logits, const std::vector<SampledRow>& rows) {
    std::vector<kernels::Sampling> options;
    std::vector<int32_t> seen, seen_begin{0};
    for (const SampledRow& row : rows) {
        const SamplingOptions& o = *row.options;
        const double draw = o.temperature > 0.0f ? static_cast<double>(row.random->uniform()) : 0.0;
        options.push_back({o.temperature, o.top_k, o.top_p, o.repetition_penalty, draw});
        if (o.repetition_penalty != 1.0f) {
            seen.insert(seen.end(), row.prompt.begin(), row.prompt.end());
            seen.insert(seen.end(), row.answer.begin(), row.answer.end());
        }
        seen_begin.push_back(static_cast<int32_t>(seen.size()));
    }
    const at::Tensor values = logits.contiguous();
    const at::Tensor token = at::empty({values.size(0)}, values.options().dtype(at::kInt));
    cuda_ops(values.device())
        ->sample(values.const_data_ptr<float>(), options.data(), seen.data(),
                 {seen_begin.data(), static_cast<int32_t>(rows.size())}, values.size(0), values.size(1),
                 token.mutable_data_ptr<int32_t>());
    const at::Tensor found = on_host(token);
    return {found.const_data_ptr<int32_t>(), found.const_data_ptr<int32_t>() + found.numel()};
}

}  // namespace polyad
