// SPDX-License-Identifier: Apache-2.0
// Tensor names of llama.cpp's decoders and Hugging Face's, both ways.
#pragma once

#include <string>

namespace polyad {

/// blk.N.attn_q.weight -> model.layers.N.self_attn.q_proj.weight; the name itself when it has no counterpart
/// (rope_freqs.weight).
std::string hugging_face_name(const std::string& gguf);
/// The way back; "" when it has no counterpart.
std::string gguf_name(const std::string& hugging_face);

}  // namespace polyad
