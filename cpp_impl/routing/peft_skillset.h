// SPDX-License-Identifier: Apache-2.0
// Hugging Face PEFT adapters as skillsets.
#pragma once

#include <memory>

#include "io/peft.h"
#include "routing/skillset.h"

namespace polyad {

/// LoRA and rsLoRA become "lora", Poly becomes "poly" ("mhr" with more than one split) with tasks named
/// "task0", "task1",
/// ... Code::unsupported for DoRA and for LoRA whose rank or scale differs between modules; Code::bad_format
/// when the adapter does not fit the backbone.
std::shared_ptr<Skillset> import_peft(std::shared_ptr<const Backbone> backbone, const PeftAdapter& adapter);

}  // namespace polyad
