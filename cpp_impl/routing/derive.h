// SPDX-License-Identifier: Apache-2.0
// New skillsets made from parts of a trained one (methods.md 5.5, 5.6).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "routing/skillset.h"

namespace polyad {

/// A skillset of the same tasks whose configuration is `learned`'s with `changes` over it. Parameters of the
/// given groups are taken over where name and shape are the same, all others start fresh. `tasks` (indices)
/// keeps only those of the task table; task vectors follow. Empty = all.
std::shared_ptr<Skillset> start_from(const Skillset& learned, const Json& changes,
                                     const std::vector<ParameterGroup>& groups,
                                     const std::vector<int>& tasks = {});

/// Second stage of Task-level MoE: router and task vectors are kept and frozen, the experts start again, and
/// the temperature falls from 300 (an even mix) to 1. `changes` go over that. Code::unsupported for a
/// skillset without task vectors.
std::shared_ptr<Skillset> second_stage(const Skillset& learned, const Json& changes = Json::object());

/// What few-shot training of one task starts from:
///   "squeeze"         plain weights: the task's mixture as one LoRA; of Task-level MoE the one expert per
///                     layer that the router likes best (a LoRA, or the layer's chosen copy)
///   "keep_moe_route"  all experts, router and task vectors frozen
///   "avg"             all experts at equal weight
/// "squeeze" leaves the one task. Code::unsupported for a method that has no such form.
std::shared_ptr<Skillset> for_few_shot(const Skillset& learned, int task, const std::string& how);

/// The same tensors under a configuration with `changes` over it (null takes a key out). Code::invalid_config
/// names the key that is wrong, or the tensor that would have another shape.
std::shared_ptr<Skillset> reconfigured(const Skillset& learned, const Json& changes);

/// All of the above by name: {"form": "copy" | "second_stage" | "squeeze" | "keep_moe_route" | "avg", "task"
/// (squeeze: a name), "changes" (copy, second_stage: a configuration)}. "copy" keeps every tensor under the
/// changed configuration: other routes, disabled experts, another temperature.
std::shared_ptr<Skillset> derive(const Skillset& learned, const Json& options);

}  // namespace polyad
