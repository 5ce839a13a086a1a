// SPDX-License-Identifier: Apache-2.0
// What `make claims` compares: one line each. A method this build does not have is left out and said to be.
#pragma once

namespace claims {

struct Configuration {
    const char* name;    ///< short, also the name of its files
    const char* group;   ///< "active": rank 8 in use per site; "trainable": as many parameters as C-Poly;
                         ///< "own": as published;
                         ///< "scale": one of "active" with another alpha
    const char* method;  ///< configuration; $TASKS = number of training tasks, $ENCODER = sentence encoder
    /// Few-shot: "" = the trained skillset gets the new task as a row and goes on; else a fresh skillset of
    /// this configuration, $BUNDLE = the trained one (PEMT's second stage).
    const char* transfer = "";
    const char* training = "{}";  ///< differences from the common training configuration, shown in the table
};

/// The base of every relative gain.
inline constexpr const char* reference = "lora_r8";

inline constexpr Configuration configurations[] = {
    // Equal active parameters: rank 8 in all that a token meets at a site, as in C-Poly's paper.
    {"lora_r8", "active", R"({"method": "lora", "rank": 8})"},
    {"private_lora_r8", "active", R"({"method": "private_lora", "rank": 8})"},
    {"dora_r8", "active", R"({"method": "lora", "rank": 8, "use_dora": true})"},
    {"uniform_4x2", "active", R"({"method": "poly", "n_skills": 4, "rank": 2, "train": "uniform"})"},
    {"poly_4x2", "active", R"({"method": "poly", "n_skills": 4, "rank": 2})"},
    {"mhr_4x2", "active", R"({"method": "mhr", "n_skills": 4, "rank": 2, "n_splits": 8})"},
    {"molora_4x2", "active", R"({"method": "molora", "n_experts": 4, "rank": 2})"},
    {"moelora_8", "active", R"({"method": "moelora_task", "n_experts": 4, "rank": 8})"},
    {"orchmoe_4x2", "active", R"({"method": "orchmoe", "n_skills": 4, "rank": 2})"},
    {"softmax_gate_4x2", "active",
     R"({"method": "orchmoe", "n_skills": 4, "rank": 2, "router": "softmax_gate"})"},  // OrchMoE's ablation
    {"cpoly_3+1x2", "active", R"({"method": "cpoly", "common_skills": 3, "private_skills": 1, "rank": 2})"},
    {"cpoly_one_hot", "active",
     R"({"method": "cpoly", "common_skills": 3, "private_skills": 1, "rank": 2, "specific_routing": "one_hot"})"},
    // Equal trainable parameters: C-Poly's 3 + 24 skills of rank 2 are 54 ranks.
    {"lora_r54", "trainable", R"({"method": "lora", "rank": 54, "alpha": 54})"},
    {"private_lora_r2", "trainable", R"({"method": "private_lora", "rank": 2, "alpha": 2})"},
    {"poly_27x2", "trainable", R"({"method": "poly", "n_skills": 27, "rank": 2})"},
    {"mhr_27x2", "trainable", R"({"method": "mhr", "n_skills": 27, "rank": 2, "n_splits": 8})"},
    {"molora_27x2", "trainable", R"({"method": "molora", "n_experts": 27, "rank": 2})"},
    // As published, with their own defaults. Task-level MoE stands here with low-rank experts: three
    // copies of every layer train 20 to 40 times as many parameters as everything else in the table.
    {"task_moe_lora", "own", R"({"method": "task_moe", "expert_kind": "lora", "task_vectors": "text"})"},
    {"task_moe_average", "own", R"({"method": "task_moe", "expert_kind": "lora", "routing": "average"})"},
    {"mor1e", "own", R"({"method": "mor1e", "intuition": {"encoder": "$ENCODER"}})"},
    {"mor1e_no_intuition", "own", R"({"method": "mor1e", "ablation": "intuition"})"},
    {"molora", "own", R"({"method": "molora"})"},
    {"mixlora", "own", R"({"method": "mixlora"})"},
    {"xlora", "own", R"({"method": "xlora"})"},
    {"pemt", "own", R"({"method": "pemt_source", "rank": 16})",
     R"({"method": "pemt", "sources": ["$BUNDLE"]})"},
    // What an update counts, alpha / rank, differs by default: 0.5 for Poly and its kin at rank 2, 1 for
    // LoRA, 4 for MOELoRA, 8 for MoLoRA. At one learning rate and few steps that alone can decide, so here is
    // MoLoRA's scale for the others.
    {"lora_r8_x8", "scale", R"({"method": "lora", "rank": 8, "alpha": 64})"},
    {"poly_4x2_x8", "scale", R"({"method": "poly", "n_skills": 4, "rank": 2, "alpha": 16})"},
    {"mhr_4x2_x8", "scale", R"({"method": "mhr", "n_skills": 4, "rank": 2, "n_splits": 8, "alpha": 16})"},
    {"orchmoe_4x2_x8", "scale", R"({"method": "orchmoe", "n_skills": 4, "rank": 2, "alpha": 16})"},
    {"cpoly_3+1x2_x8", "scale",
     R"({"method": "cpoly", "common_skills": 3, "private_skills": 1, "rank": 2, "alpha": 16})"},
    {"molora_4x2_x1", "scale", R"({"method": "molora", "n_experts": 4, "rank": 2, "alpha": 2})"},
};

}  // namespace claims
