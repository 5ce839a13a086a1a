// SPDX-License-Identifier: Apache-2.0
// Skillsets as Hugging Face PEFT adapters.
#pragma once

#include "io/peft.h"
#include "routing/skillset.h"

namespace polyad {

/// With a `task` (index): that task as plain LoRA, exactly (plain_lora.h). With -1: the whole skillset as
/// PEFT's own kind: "lora" as LoRA, rsLoRA or DoRA, "poly" and "mhr" that mix factors as Poly; other methods
/// are refused (Code::invalid_argument where naming a task helps, else Code::unsupported). `options`:
/// {"base_model": "name or path for base_model_name_or_path"}.
PeftAdapter export_peft(const Skillset& skillset, int task, const Json& options = Json::object());

}  // namespace polyad
