// SPDX-License-Identifier: Apache-2.0
#include "io/model_layout.h"

namespace polyad {
namespace {

using Shape = std::vector<int64_t>;

/// Passes specs on until the visitor has had enough.
class Walk {
  public:
    explicit Walk(const std::function<bool(const TensorSpec&)>& visit) : visit_(visit) {}

    bool going() const { return going_; }
    void tensor(std::string name, Shape shape, bool optional = false) {
        if (going_) going_ = visit_({std::move(name), std::move(shape), optional});
    }
    void linear(const std::string& name, int64_t out, int64_t in, bool bias) {
        tensor(name + ".weight", {out, in});
        if (bias) tensor(name + ".bias", {out});
    }
    void layer_norm(const std::string& name, int64_t width) {
        tensor(name + ".weight", {width});
        tensor(name + ".bias", {width});
    }

  private:
    const std::function<bool(const TensorSpec&)>& visit_;
    bool going_ = true;
};

void rotary(const ModelConfig& c, Walk& walk) {
    walk.tensor("model.embed_tokens.weight", {c.vocab, c.width});
    walk.tensor("rope_freqs.weight", {c.rotary_dim / 2}, true);
    for (int64_t i = 0; i < c.layers && walk.going(); ++i) {
        const std::string layer = "model.layers." + std::to_string(i) + ".";
        walk.tensor(layer + "input_layernorm.weight", {c.width});
        walk.linear(layer + "self_attn.q_proj", c.q_width(), c.width, c.qkv_bias);
        walk.linear(layer + "self_attn.k_proj", c.kv_width(), c.width, c.qkv_bias);
        walk.linear(layer + "self_attn.v_proj", c.kv_width(), c.width, c.qkv_bias);
        walk.linear(layer + "self_attn.o_proj", c.width, c.q_width(), c.output_bias);
        if (c.qk_norm) {
            walk.tensor(layer + "self_attn.q_norm.weight", {c.head_dim});
            walk.tensor(layer + "self_attn.k_norm.weight", {c.head_dim});
        }
        walk.tensor(layer + "post_attention_layernorm.weight", {c.width});
        walk.linear(layer + "mlp.gate_proj", c.ffn, c.width, c.mlp_bias);
        walk.linear(layer + "mlp.up_proj", c.ffn, c.width, c.mlp_bias);
        walk.linear(layer + "mlp.down_proj", c.width, c.ffn, c.mlp_bias);
    }
    walk.tensor("model.norm.weight", {c.width});
    if (!c.tied) walk.tensor("lm_head.weight", {c.vocab, c.width});
}

void t5_attention(const ModelConfig& c, Walk& walk, const std::string& name) {
    for (const char* part : {".q", ".k", ".v"}) walk.linear(name + part, c.q_width(), c.width, false);
    walk.linear(name + ".o", c.width, c.q_width(), false);
}

void t5_stack(const ModelConfig& c, Walk& walk, const std::string& stack, int64_t layers, bool decoder) {
    for (int64_t i = 0; i < layers && walk.going(); ++i) {
        const std::string block = stack + ".block." + std::to_string(i) + ".layer.";
        t5_attention(c, walk, block + "0.SelfAttention");
        if (i == 0)
            walk.tensor(block + "0.SelfAttention.relative_attention_bias.weight",
                        {c.relative_buckets, c.heads});
        walk.tensor(block + "0.layer_norm.weight", {c.width});
        if (decoder) {
            t5_attention(c, walk, block + "1.EncDecAttention");
            walk.tensor(block + "1.layer_norm.weight", {c.width});
        }
        const std::string ffn = block + (decoder ? "2" : "1");
        if (c.gated_ffn) {
            walk.linear(ffn + ".DenseReluDense.wi_0", c.ffn, c.width, false);
            walk.linear(ffn + ".DenseReluDense.wi_1", c.ffn, c.width, false);
        } else {
            walk.linear(ffn + ".DenseReluDense.wi", c.ffn, c.width, false);
        }
        walk.linear(ffn + ".DenseReluDense.wo", c.width, c.ffn, false);
        walk.tensor(ffn + ".layer_norm.weight", {c.width});
    }
    walk.tensor(stack + ".final_layer_norm.weight", {c.width});
}

void t5(const ModelConfig& c, Walk& walk) {
    walk.tensor("shared.weight", {c.vocab, c.width});
    t5_stack(c, walk, "encoder", c.layers, false);
    t5_stack(c, walk, "decoder", c.decoder_layers, true);
    if (!c.tied) walk.tensor("lm_head.weight", {c.vocab, c.width});
}

void bart_stack(const ModelConfig& c, Walk& walk, const std::string& stack, int64_t layers, int64_t ffn,
                bool decoder) {
    walk.tensor(stack + ".embed_positions.weight", {c.context + c.position_offset, c.width});
    walk.layer_norm(stack + ".layernorm_embedding", c.width);
    for (int64_t i = 0; i < layers && walk.going(); ++i) {
        const std::string layer = stack + ".layers." + std::to_string(i) + ".";
        for (const char* attention : {"self_attn", "encoder_attn"}) {
            if (attention[0] == 'e' && !decoder) continue;
            for (const char* part : {".q_proj", ".k_proj", ".v_proj", ".out_proj"})
                walk.linear(layer + attention + part, c.width, c.width, true);
            walk.layer_norm(layer + attention + "_layer_norm", c.width);
        }
        walk.linear(layer + "fc1", ffn, c.width, true);
        walk.linear(layer + "fc2", c.width, ffn, true);
        walk.layer_norm(layer + "final_layer_norm", c.width);
    }
}

void bart(const ModelConfig& c, Walk& walk) {
    walk.tensor("model.shared.weight", {c.vocab, c.width});
    bart_stack(c, walk, "model.encoder", c.layers, c.ffn, false);
    bart_stack(c, walk, "model.decoder", c.decoder_layers, c.decoder_ffn, true);
    walk.tensor("final_logits_bias", {1, c.vocab}, true);
    if (!c.tied) walk.tensor("lm_head.weight", {c.vocab, c.width});
}

void bert(const ModelConfig& c, Walk& walk) {
    walk.tensor("embeddings.word_embeddings.weight", {c.vocab, c.width});
    walk.tensor("embeddings.position_embeddings.weight", {c.context, c.width});
    walk.tensor("embeddings.token_type_embeddings.weight", {c.type_vocab, c.width});
    walk.layer_norm("embeddings.LayerNorm", c.width);
    for (int64_t i = 0; i < c.layers && walk.going(); ++i) {
        const std::string layer = "encoder.layer." + std::to_string(i) + ".";
        for (const char* part : {"query", "key", "value"})
            walk.linear(layer + "attention.self." + part, c.width, c.width, true);
        walk.linear(layer + "attention.output.dense", c.width, c.width, true);
        walk.layer_norm(layer + "attention.output.LayerNorm", c.width);
        walk.linear(layer + "intermediate.dense", c.ffn, c.width, true);
        walk.linear(layer + "output.dense", c.width, c.ffn, true);
        walk.layer_norm(layer + "output.LayerNorm", c.width);
    }
    walk.tensor("pooler.dense.weight", {c.width, c.width}, true);
    walk.tensor("pooler.dense.bias", {c.width}, true);
}

}  // namespace

void for_each_tensor(const ModelConfig& config, const std::function<bool(const TensorSpec&)>& visit) {
    Walk walk(visit);
    switch (config.family) {
        case Family::t5:
            return t5(config, walk);
        case Family::bart:
            return bart(config, walk);
        case Family::bert:
            return bert(config, walk);
        default:
            return rotary(config, walk);
    }
}

std::vector<TensorSpec> model_layout(const ModelConfig& config) {
    std::vector<TensorSpec> out;
    for_each_tensor(config, [&](const TensorSpec& spec) {
        out.push_back(spec);
        return true;
    });
    return out;
}

}  // namespace polyad
