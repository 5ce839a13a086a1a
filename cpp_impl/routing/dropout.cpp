// SPDX-License-Identifier: Apache-2.0
#include "routing/dropout.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <cmath>

#include "backbone/device.h"

namespace polyad {

at::Tensor dropout_mask(Generator::State start, int64_t rows, int64_t width, double dropout,
                        at::Device device) {
    const auto threshold = static_cast<uint32_t>(std::lround(dropout * 65536.0));
    const auto kept = static_cast<float>(65536.0 / (65536.0 - threshold));
    at::Tensor mask = at::empty({rows, width}, at::TensorOptions().dtype(at::kFloat));
    float* out = mask.mutable_data_ptr<float>();
    const auto words = static_cast<uint64_t>((width + 1) / 2);
    at::parallel_for(0, rows, 16, [&](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t) {
            Generator generator({start.seed, start.stream, start.counter + static_cast<uint64_t>(t) * words});
            float* row = out + t * width;
            for (int64_t i = 0; i < width; i += 2) {
                const uint32_t word = generator.next_u32();
                row[i] = (word & 0xffff) >= threshold ? kept : 0.0f;
                if (i + 1 < width) row[i + 1] = (word >> 16) >= threshold ? kept : 0.0f;
            }
        }
    });
    return on_device(mask, device);
}

}  // namespace polyad
