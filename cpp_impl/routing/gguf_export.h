// SPDX-License-Identifier: Apache-2.0
// Tasks of a skillset as LoRA files for llama.cpp.
#pragma once

#include <string>

#include "routing/skillset.h"

namespace polyad {

/// The bytes of a GGUF adapter file (general.type = adapter, adapter.type = lora): the task as plain LoRA
/// (plain_lora.h; -1 = none named), tensors blk.N.attn_q.weight.lora_a [r, d_in] and .lora_b [d_out, r], ...
/// , adapter.lora.alpha = r so that llama.cpp's scale is 1. Rows of lora_b for the query and key projections
/// of llama and mistral are put in the order llama.cpp's converter gives these weights. `options`: {"name":
/// "general.name"}. Code::unsupported for backbones other than decoders.
std::string export_gguf_lora(const Skillset& skillset, int task, const Json& options = Json::object());

}  // namespace polyad
