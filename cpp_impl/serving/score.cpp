// SPDX-License-Identifier: Apache-2.0
#include "serving/score.h"

#include <ATen/core/grad_mode.h>

#include "backbone/device.h"
#include "base/error.h"
#include "routing/clusters.h"

namespace polyad {

std::vector<float> last_logits(const Backbone& backbone, const Skillset* skillset, int task,
                               const std::vector<int32_t>& tokens) {
    const at::NoGradGuard no_gradients;  // not InferenceMode: mixtures made here are cached for others
    const int size = static_cast<int>(tokens.size());
    if (size == 0) fail(Code::invalid_argument, "at least one token id is needed");
    if (size > backbone.info().context)
        fail(Code::context_overflow, size, " tokens, but the backbone holds ", backbone.info().context);
    Batch batch;
    batch.tokens = tokens;
    batch.row_begin = {0, size};
    batch.prompt_length = {size};
    if (backbone.info().encoder_decoder) {
        batch.source = tokens;
        batch.source_begin = batch.row_begin;
        batch.tokens = {backbone.info().decoder_start};
        batch.row_begin = {0, 1};
    }
    std::unique_ptr<Adaptation> adaptation;
    if (skillset) {
        RouteInput route;
        route.row_begin = batch.row_begin;
        route.source_begin = batch.source_begin;
        route.prompt_length = batch.prompt_length;
        route.task_ids = {task};
        const std::vector<float> intuition = skillset->intuition_of(tokens);
        route.intuition = intuition_rows({&intuition});
        adaptation = skillset->method().adapt(route);
    }
    ForwardOptions options;
    options.adaptation = adaptation.get();
    const at::Tensor logits =
        on_host(backbone.logits(backbone.hidden(batch, options).narrow(0, batch.size() - 1, 1)));
    const float* data = logits.const_data_ptr<float>();
    return {data, data + logits.numel()};
}

}  // namespace polyad
