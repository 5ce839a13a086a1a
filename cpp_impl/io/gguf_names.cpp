// SPDX-License-Identifier: Apache-2.0
#include "io/gguf_names.h"

#include <string_view>
#include <utility>

namespace polyad {
namespace {

constexpr std::pair<std::string_view, std::string_view> outer[] = {
    {"token_embd", "model.embed_tokens"}, {"output_norm", "model.norm"}, {"output", "lm_head"}};
constexpr std::pair<std::string_view, std::string_view> inner[] = {
    {"attn_norm", "input_layernorm"},    {"attn_q", "self_attn.q_proj"},
    {"attn_k", "self_attn.k_proj"},      {"attn_v", "self_attn.v_proj"},
    {"attn_output", "self_attn.o_proj"}, {"attn_q_norm", "self_attn.q_norm"},
    {"attn_k_norm", "self_attn.k_norm"}, {"ffn_norm", "post_attention_layernorm"},
    {"ffn_gate", "mlp.gate_proj"},       {"ffn_up", "mlp.up_proj"},
    {"ffn_down", "mlp.down_proj"}};
constexpr std::string_view block = "blk.", layer = "model.layers.";

}  // namespace

std::string hugging_face_name(const std::string& name) {
    const size_t dot = name.rfind('.');
    if (dot == std::string::npos) return name;
    const std::string_view stem = std::string_view(name).substr(0, dot),
                           suffix = std::string_view(name).substr(dot);
    for (const auto& [from, to] : outer)
        if (stem == from) return std::string(to).append(suffix);
    const size_t end = stem.find('.', block.size());
    if (!stem.starts_with(block) || end == std::string_view::npos) return name;
    for (const auto& [from, to] : inner)
        if (stem.substr(end + 1) == from)
            return std::string(layer)
                .append(stem.substr(block.size(), end - block.size()))
                .append(".")
                .append(to)
                .append(suffix);
    return name;
}

std::string gguf_name(const std::string& name) {
    const size_t dot = name.rfind('.');
    if (dot == std::string::npos) return {};
    const std::string_view stem = std::string_view(name).substr(0, dot),
                           suffix = std::string_view(name).substr(dot);
    for (const auto& [to, from] : outer)
        if (stem == from) return std::string(to).append(suffix);
    const size_t end = stem.find('.', layer.size());
    if (!stem.starts_with(layer) || end == std::string_view::npos) return {};
    for (const auto& [to, from] : inner)
        if (stem.substr(end + 1) == from)
            return std::string(block)
                .append(stem.substr(layer.size(), end - layer.size()))
                .append(".")
                .append(to)
                .append(suffix);
    return {};
}

}  // namespace polyad
