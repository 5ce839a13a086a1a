// SPDX-License-Identifier: Apache-2.0
// The training configuration: keys as users of PEFT and Hugging Face know them.
#pragma once

#include <cstdint>
#include <string>

#include "base/config.h"
#include "data/sampler.h"
#include "training/optimiser.h"
#include "training/schedule.h"

namespace polyad {

struct TrainingConfig {
    double epochs = 3.0;
    int64_t max_steps = 0;          ///< above 0: instead of epochs
    int batch_size = 8;             ///< rows of one forward
    int max_tokens_per_batch = 0;   ///< above 0: a forward with more tokens is split; the loss stays the same
    int gradient_accumulation = 1;  ///< forwards of batch_size rows per optimiser step
    OptimiserOptions optimiser;
    ScheduleKind schedule = ScheduleKind::linear;
    double warmup_ratio = 0.06;  ///< of all steps
    int64_t warmup_steps = 0;    ///< given: instead of warmup_ratio
    double max_grad_norm = 1.0;  ///< 0 = no clipping
    double label_smoothing = 0.0;
    uint64_t seed = 0;
    SamplerOptions sampling;
    int64_t validation_every = 0;       ///< steps; 0 = after every epoch
    int64_t validation_examples = 256;  ///< at most, dealt out evenly over the tasks; 0 = no validation
    int early_stop_patience = 0;        ///< validations without improvement before stopping; 0 = never
    bool keep_best = true;              ///< end with the weights of the best validation
    bool share_prefixes = true;         ///< compute once what rows of one mixture begin with alike
    int64_t activation_memory_mib = 0;  ///< of one forward; 0 = plan_forwards()'s own
    std::string checkpoint;             ///< file written every checkpoint_every steps
    int64_t checkpoint_every = 0;       ///< steps; 0 = never by itself
    int threads = 0;                    ///< workers of a step, for whoever runs it; 0 = the context's

    /// Code::invalid_config names the key and what is allowed.
    static TrainingConfig from_json(const Json& object);
    /// Everything, defaults filled in: from_json(to_json()) is the same configuration.
    Json to_json() const;
};

}  // namespace polyad
