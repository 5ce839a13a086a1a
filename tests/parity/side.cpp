// SPDX-License-Identifier: Apache-2.0
#include "side.h"

#include <ATen/ops/empty.h>

#include "backbone/device.h"

namespace polyad::parity {

at::Tensor pick(const at::Tensor& padded, const std::vector<int64_t>& places) {
    const at::Tensor flat = padded.reshape({padded.size(0) * padded.size(1), -1});
    at::Tensor out = at::empty({static_cast<int64_t>(places.size()), flat.size(1)}, flat.options());
    for (size_t i = 0; i < places.size(); ++i) out[static_cast<int64_t>(i)].copy_(flat[places[i]]);
    return out;
}

at::Tensor select_rows(const at::Tensor& x, const std::vector<int64_t>& rows) {
    return x.index_select(0, device_list(rows, x.device()));
}

void run_greedy(const Backbone& backbone, const Safetensors& expected, const Json& about, const Side& side,
                Report& report) {
    if (report.bf16()) return;  // gaps between logits are below bf16's rounding
    for (const char* name : {"gen.tokens", "gen.tokens_eos"}) {
        const StoredTensor& stored = expected.at(name);
        const auto wanted = ids_of(stored);
        const bool stops = name == std::string("gen.tokens_eos");
        const auto steps = static_cast<int>(stored.shape[1]);
        const auto rows =
            greedy(backbone, side.rows, steps, stops ? about.at("gen.eos_id").get<int32_t>() : -1,
                   about.at("gen.pad_id").get<int32_t>());
        for (size_t b = 0; b < rows.size(); ++b)
            report.compare_tokens(text(name, "[", b, "]"), rows[b],
                                  {wanted.begin() + static_cast<int64_t>(b) * steps,
                                   wanted.begin() + static_cast<int64_t>(b + 1) * steps});
    }
}

}  // namespace polyad::parity
