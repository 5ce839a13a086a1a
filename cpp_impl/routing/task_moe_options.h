// SPDX-License-Identifier: Apache-2.0
// Options of Task-level MoE (methods.md 5, arXiv 2205.12701), named as there.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/config.h"
#include "routing/task_router.h"
#include "skills/expert_choice.h"
#include "skills/start.h"

namespace polyad {

struct TaskMoeOptions {
    bool layer_copies = true;  ///< expert_kind: "layer", else "lora"
    int64_t experts = 3;

    int64_t rank = 8;  ///< lora
    double alpha = 16.0;
    SkillInit init = SkillInit::kaiming;

    double init_eps = 1e-8;               ///< layer
    std::vector<int64_t> vanilla_layers;  ///< kept single
    double memory_gib = 32.0;             ///< most that the copies and their optimiser state may take

    std::string routing = "learned";  ///< or average, instance_random, task_random
    int64_t random_experts = 1;       ///< task_random: experts a task has in a layer
    TaskRouterOptions router;
    std::string task_vectors = "random";
    std::vector<std::vector<float>> given_vectors;  ///< "task_vectors" as a matrix
    Json vector_options = Json::object();           ///< how they are computed: kept for tasks to come
    int64_t vector_width = 0;                       ///< 0 = as the vectors are, or 768
    bool train_vectors = true;
    ExpertChoice select = ExpertChoice::gumbel_st;
    std::string eval_route;
    double tau0 = 2.0, tau_rate = 3e-4, tau_min = 0.1;
    double exploration = 0.0;
    std::string exploration_route = "one_hot";
    int64_t alternate_every = 0;

    double regularization = 0.0;
    std::vector<std::pair<int64_t, int64_t>> disabled;  ///< layer, expert
    std::string train = "all";

    bool learned() const { return routing == "learned"; }
    double scale() const { return alpha / static_cast<double>(rank); }
    static TaskMoeOptions read(const Json& config);
    Json to_json() const;
};

}  // namespace polyad
