// SPDX-License-Identifier: Apache-2.0
#include "routing/task_moe_options.h"

#include <algorithm>
#include <cmath>

namespace polyad {
namespace {

/// "task_vectors": the name of how they are made, or the vectors themselves, one list of numbers per task.
void read_vectors(ConfigReader& reader, const Json& config, TaskMoeOptions& options) {
    const auto value = config.find("task_vectors");
    if (value == config.end() || !value->is_array()) {
        options.task_vectors =
            reader.choice("task_vectors", "random", {"random", "text", "finetuned_text", "fisher", "given"});
    } else {
        reader.accept("task_vectors");
        options.task_vectors = "given";
        for (const Json& row : *value) {
            if (!row.is_array() || row.empty() || row.size() != value->front().size() ||
                !std::all_of(row.begin(), row.end(),
                             [](const Json& n) { return n.is_number() && std::isfinite(n.get<double>()); }))
                reader.refuse("task_vectors", "needs one list of finite numbers per task, all of one length");
            options.given_vectors.push_back(row.get<std::vector<float>>());
        }
    }
    options.vector_options = reader.object("task_vector_options");
    options.vector_width = reader.integer("task_vec_dim", 0, 0, 1 << 20);
    options.train_vectors = reader.boolean("train_task_vectors", options.task_vectors == "random");
}

void read_experts(ConfigReader& reader, const Json& config, TaskMoeOptions& options) {
    options.layer_copies = reader.choice("expert_kind", "layer", {"layer", "lora"}) == "layer";
    options.experts = reader.integer("n_experts", 3, 1, 4096);
    if (options.layer_copies) {
        options.init_eps = reader.number("init_eps", 1e-8, 0.0, 1.0);
        options.memory_gib = reader.number("expert_memory_gib", 32.0, 1e-3, 1e6);
        for (const double layer : reader.numbers("vanilla_layers", {})) {
            if (layer < 0 || layer != std::floor(layer) || layer > 65536)
                reader.refuse("vanilla_layers", "needs numbers of layers, counted from 0");
            options.vanilla_layers.push_back(static_cast<int64_t>(layer));
        }
    } else {
        options.rank = reader.integer("rank", 8, 1, 4096);
        options.alpha = reader.number("alpha", 16.0, 1e-6, 1e6);
        options.init = read_skill_init(reader);
    }
    reader.accept("disabled_experts");
    if (const auto disabled = config.find("disabled_experts"); disabled != config.end()) {
        const auto index = [](const Json& n) {
            return n.is_number_integer() && n.get<int64_t>() >= 0 && n.get<int64_t>() < 65536;
        };
        const bool pairs =
            disabled->is_array() && std::all_of(disabled->begin(), disabled->end(), [&](const Json& pair) {
                return pair.is_array() && pair.size() == 2 && index(pair[0]) && index(pair[1]);
            });
        if (!pairs) reader.refuse("disabled_experts", "needs a list of [layer, expert], counted from 0");
        for (const Json& pair : *disabled)
            options.disabled.emplace_back(pair[0].get<int64_t>(), pair[1].get<int64_t>());
    }
}

}  // namespace

TaskMoeOptions TaskMoeOptions::read(const Json& config) {
    ConfigReader reader(config, "task_moe");
    reader.accept("method");
    TaskMoeOptions options;
    read_experts(reader, config, options);
    options.routing =
        reader.choice("routing", "learned", {"learned", "average", "instance_random", "task_random"});
    if (options.learned()) {
        options.router = TaskRouterOptions::read(reader);
        read_vectors(reader, config, options);
        options.select = read_expert_choice(reader, "select");
        options.eval_route =
            reader.choice("eval_route", options.select == ExpertChoice::softmax ? "softmax" : "argmax",
                          {"argmax", "softmax", "sample"});
        options.tau0 = reader.number("tau", 2.0, 1e-3, 1e6);
        options.tau_rate = reader.number("tau_rate", 3e-4, 0.0, 1e3);
        options.tau_min = reader.number("tau_min", std::min(0.1, options.tau0), 1e-3, 1e6);
        options.exploration = reader.number("exploration", 0.0, 0.0, 1.0);
        options.exploration_route = reader.choice("exploration_route", "one_hot", {"one_hot", "uniform"});
        options.alternate_every = reader.integer("alternate_every", 0, 0, INT64_MAX);
        options.train = reader.choice("train", "all", {"all", "router", "experts", "uniform"});
    } else {
        if (options.routing == "task_random")
            options.random_experts = reader.integer("random_experts", 1, 1, options.experts);
        options.train = reader.choice("train", "all", {"all", "experts"});
    }
    options.regularization = reader.number("expert_regularization", 0.0, 0.0, 1e6);
    reader.finish();
    return options;
}

Json TaskMoeOptions::to_json() const {
    Json out = {{"method", "task_moe"},
                {"expert_kind", layer_copies ? "layer" : "lora"},
                {"n_experts", experts},
                {"routing", routing},
                {"expert_regularization", regularization},
                {"disabled_experts", disabled},
                {"train", train}};
    if (layer_copies) {
        out["init_eps"] = init_eps;
        out["expert_memory_gib"] = memory_gib;
        out["vanilla_layers"] = vanilla_layers;
    } else {
        out["rank"] = rank;
        out["alpha"] = alpha;
        out["init"] = skill_init_name(init);
    }
    if (routing == "task_random") out["random_experts"] = random_experts;
    if (!learned()) return out;
    router.write(out);
    out["task_vectors"] = task_vectors;
    out["task_vector_options"] = vector_options;
    out["task_vec_dim"] = vector_width;
    out["train_task_vectors"] = train_vectors;
    out["select"] = expert_choice_name(select);
    out["eval_route"] = eval_route;
    out["tau"] = tau0;
    out["tau_rate"] = tau_rate;
    out["tau_min"] = tau_min;
    out["exploration"] = exploration;
    out["exploration_route"] = exploration_route;
    out["alternate_every"] = alternate_every;
    return out;
}

}  // namespace polyad
