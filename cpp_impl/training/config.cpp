// SPDX-License-Identifier: Apache-2.0
#include "training/config.h"

#include <limits>

namespace polyad {
namespace {

constexpr int64_t many = int64_t{1} << 40;

const char* schedule_name(ScheduleKind kind) {
    static constexpr const char* names[] = {"linear", "cosine", "constant"};
    return names[static_cast<int>(kind)];
}

/// "<group>_<what>", except that the skills group is the plain key.
struct GroupKey {
    ParameterGroup group;
    const char *learning_rate, *weight_decay;
};
constexpr GroupKey group_keys[] = {
    {ParameterGroup::skills, "learning_rate", "weight_decay"},
    {ParameterGroup::router, "router_learning_rate", "router_weight_decay"},
    {ParameterGroup::private_weights, "private_learning_rate", "private_weight_decay"},
    {ParameterGroup::task_vectors, "task_vector_learning_rate", "task_vector_weight_decay"},
    {ParameterGroup::scalars, "scalar_learning_rate", "scalar_weight_decay"},
};
/// Two-speed learning: routing logits 10 to 100 times faster than the skills (methods.md 8.4, 8.5).
constexpr double router_speed = 10.0;

void read_groups(ConfigReader& read, OptimiserOptions& out) {
    const double base =
        read.number("learning_rate", out.group(ParameterGroup::skills).learning_rate, 0.0, 10.0);
    for (const GroupKey& key : group_keys) {
        GroupOptions& group = out.group(key.group);
        const double follows = key.group == ParameterGroup::router ? router_speed * base : base;
        group.learning_rate = read.number(key.learning_rate, follows, 0.0, 100.0);
        group.weight_decay = read.number(key.weight_decay, group.weight_decay, 0.0, 10.0);
    }
    out.beta1 = read.number("adam_beta1", out.beta1, 0.0, 0.999999);
    out.beta2 = read.number("adam_beta2", out.beta2, 0.0, 0.9999999);
    out.epsilon = read.number("adam_epsilon", out.epsilon, 1e-30, 1.0);
}

SamplerOptions read_sampling(ConfigReader& read, uint64_t seed) {
    Json sampling = Json::object();
    sampling["strategy"] =
        read.choice("sampling", "proportional", {"uniform", "proportional", "temperature"});
    sampling["temperature"] = read.number("sampling_temperature", 2.0, 1.0, 1e6);
    sampling["seed"] = seed;
    return SamplerOptions::from_json(sampling);
}

}  // namespace

TrainingConfig TrainingConfig::from_json(const Json& object) {
    ConfigReader read(object, "training");
    TrainingConfig out;
    out.epochs = read.number("epochs", out.epochs, 0.0, 1e6);
    out.max_steps = read.integer("max_steps", out.max_steps, 0, many);
    if (out.max_steps == 0 && out.epochs == 0.0)
        read.refuse("epochs", "0 epochs and no max_steps leave nothing to train");
    out.batch_size = static_cast<int>(read.integer("batch_size", out.batch_size, 1, 65536));
    out.max_tokens_per_batch =
        static_cast<int>(read.integer("max_tokens_per_batch", out.max_tokens_per_batch, 0, 1 << 30));
    out.gradient_accumulation =
        static_cast<int>(read.integer("gradient_accumulation", out.gradient_accumulation, 1, 65536));
    read_groups(read, out.optimiser);
    const std::string schedule = read.choice("schedule", "linear", {"linear", "cosine", "constant"});
    out.schedule = schedule == "linear"   ? ScheduleKind::linear
                   : schedule == "cosine" ? ScheduleKind::cosine
                                          : ScheduleKind::constant;
    out.warmup_ratio = read.number("warmup_ratio", out.warmup_ratio, 0.0, 1.0);
    out.warmup_steps = read.integer("warmup_steps", out.warmup_steps, 0, many);
    out.max_grad_norm = read.number("max_grad_norm", out.max_grad_norm, 0.0, 1e12);
    out.label_smoothing = read.number("label_smoothing", out.label_smoothing, 0.0, 0.999);
    out.seed = static_cast<uint64_t>(read.integer("seed", 0, 0, std::numeric_limits<int64_t>::max()));
    out.sampling = read_sampling(read, out.seed);
    out.validation_every = read.integer("validation_every", out.validation_every, 0, many);
    out.validation_examples = read.integer("validation_examples", out.validation_examples, 0, many);
    out.early_stop_patience =
        static_cast<int>(read.integer("early_stop_patience", out.early_stop_patience, 0, 1 << 30));
    out.keep_best = read.boolean("keep_best", out.keep_best);
    out.share_prefixes = read.boolean("share_prefixes", out.share_prefixes);
    out.activation_memory_mib = read.integer("activation_memory_mib", out.activation_memory_mib, 0, 1 << 24);
    out.checkpoint = read.string("checkpoint", "");
    out.checkpoint_every = read.integer("checkpoint_every", out.checkpoint_every, 0, many);
    out.threads = static_cast<int>(read.integer("threads", out.threads, 0, 1024));
    if (out.checkpoint_every > 0 && out.checkpoint.empty())
        read.refuse("checkpoint_every", "needs \"checkpoint\", the file to write");
    read.finish();
    return out;
}

Json TrainingConfig::to_json() const {
    Json out = {{"epochs", epochs},
                {"max_steps", max_steps},
                {"batch_size", batch_size},
                {"max_tokens_per_batch", max_tokens_per_batch},
                {"gradient_accumulation", gradient_accumulation},
                {"adam_beta1", optimiser.beta1},
                {"adam_beta2", optimiser.beta2},
                {"adam_epsilon", optimiser.epsilon},
                {"schedule", schedule_name(schedule)},
                {"warmup_ratio", warmup_ratio},
                {"warmup_steps", warmup_steps},
                {"max_grad_norm", max_grad_norm},
                {"label_smoothing", label_smoothing},
                {"seed", seed},
                {"sampling", sampling.to_json().at("strategy")},
                {"sampling_temperature", sampling.temperature},
                {"validation_every", validation_every},
                {"validation_examples", validation_examples},
                {"early_stop_patience", early_stop_patience},
                {"keep_best", keep_best},
                {"share_prefixes", share_prefixes},
                {"activation_memory_mib", activation_memory_mib},
                {"checkpoint", checkpoint},
                {"checkpoint_every", checkpoint_every},
                {"threads", threads}};
    for (const GroupKey& key : group_keys) {
        out[key.learning_rate] = optimiser.group(key.group).learning_rate;
        out[key.weight_decay] = optimiser.group(key.group).weight_decay;
    }
    return out;
}

}  // namespace polyad
