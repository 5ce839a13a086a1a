// SPDX-License-Identifier: Apache-2.0
// Several PEFT adapters as one skillset: side by side, or merged into one.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "io/peft.h"
#include "routing/skillset.h"

namespace polyad {

/// `names`: one per adapter. All must be LoRA or rsLoRA (Code::unsupported).
/// `options` (Code::invalid_config):
///   "combination": "set" (method "lora_set", one skill and one task per adapter: mixed by a request's
///   weights) |
///                  "linear" | "cat" | "ties" | "dare_linear" | "dare_ties" | "magnitude_prune" (method
///                  "lora": merged once, as PEFT's add_weighted_adapter does)
///   "weights": one number per adapter, default 1; "density": (0, 1], required by all that drop entries;
///   "majority_sign": "total" | "frequency"; "seed" of dare; these four not with "set"
///   "tasks": names of the tasks, default `names` ("set") or "task0"; "prompt"
std::shared_ptr<Skillset> import_peft_set(std::shared_ptr<const Backbone> backbone,
                                          const std::vector<PeftAdapter>& adapters,
                                          const std::vector<std::string>& names,
                                          const Json& options = Json::object());

/// An X-LoRA folder's experts (adapter_config.json of peft_type XLORA and a folder per expert) as a set; its
/// classifier is left out, with a warning in the log.
std::shared_ptr<Skillset> import_xlora_experts(std::shared_ptr<const Backbone> backbone,
                                               const std::filesystem::path& folder, const Json& options);

/// Any PEFT folder: X-LoRA as above, LoRA whose rank or scale differs between modules filled up to one rank,
/// the rest as import_peft says. `options` as there.
std::shared_ptr<Skillset> import_peft_folder(std::shared_ptr<const Backbone> backbone,
                                             const std::filesystem::path& folder, const Json& options);

}  // namespace polyad
