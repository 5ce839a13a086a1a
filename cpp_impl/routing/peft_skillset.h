// SPDX-License-Identifier: Apache-2.0
// Hugging Face PEFT adapters as skillsets.
#pragma once

#include <memory>

#include "io/peft.h"
#include "routing/skillset.h"

namespace polyad {

/// LoRA, rsLoRA and DoRA become "lora", Poly becomes "poly" ("mhr" with more than one split).
/// `options`: {"tasks": [names]} (Poly: one per row of its table; default: those the file keeps, else
/// "task0", "task1", ...) and {"prompt": {...}} (data/prompt.h). Code::unsupported for DoRA and for LoRA
/// whose rank or scale differs between modules; Code::bad_format when the adapter does not fit the backbone.
std::shared_ptr<Skillset> import_peft(std::shared_ptr<const Backbone> backbone, const PeftAdapter& adapter,
                                      const Json& options = Json::object());

}  // namespace polyad
