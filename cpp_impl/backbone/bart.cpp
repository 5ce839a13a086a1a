// SPDX-License-Identifier: Apache-2.0
#include "backbone/bart.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/layer_norm.h>

#include <cmath>

#include "base/error.h"

namespace polyad {
namespace {

constexpr int32_t published_start = 2;  // decoder_start_token_id where config.json has none

}  // namespace

Bart::Bart(const ModelFiles& files, const LoadPlan& plan, std::shared_ptr<const Tokenizer> tokenizer)
    : EncoderDecoder(files, plan, std::move(tokenizer)) {
    if (info_.decoder_start < 0 && config_.vocab > published_start) info_.decoder_start = published_start;
    encoder_.shape.scale = 1.0 / std::sqrt(static_cast<double>(encoder_.shape.head_dim));
    decoder_.shape.heads = config_.decoder_heads;
    decoder_.shape.head_dim = config_.width / config_.decoder_heads;
    decoder_.shape.scale = 1.0 / std::sqrt(static_cast<double>(decoder_.shape.head_dim));
    load_embedding("model.shared.weight", "lm_head.weight");
    load_stack(encoder_, "model.encoder", config_.layers, config_.ffn);
    load_stack(decoder_, "model.decoder", config_.decoder_layers, config_.decoder_ffn);
    if (store().find("final_logits_bias")) {
        const std::vector<float> bias = to_float(store().expect("final_logits_bias", {1, config_.vocab}));
        head_bias_ =
            at::from_blob(const_cast<float*>(bias.data()), {config_.vocab}, at::kFloat).clone().to(device_);
    }
    finish_loading();
}

EncoderDecoder::Attention Bart::load_attention(const std::string& path, int layer, Stream queries,
                                               Stream keys) {
    const auto linear = [&](const char* part, Stream stream) {
        return load_linear(path + part, config_.width, config_.width, true, layer, Role::attention, stream);
    };
    Attention out;
    out.q = linear(".q_proj", queries);
    out.k = linear(".k_proj", keys);
    out.v = linear(".v_proj", keys);
    out.o = linear(".out_proj", queries);
    out.norm = load_norm(path + "_layer_norm", true, layer);
    return out;
}

void Bart::load_stack(Stack& stack, const std::string& name, int64_t layers, int64_t ffn) {
    const Stream own = stack.decoder ? Stream::tokens : Stream::source;
    positions_[stack.decoder] = load_matrix(name + ".embed_positions.weight",
                                            config_.context + config_.position_offset, config_.width);
    stack.outer_norm = load_norm(name + ".layernorm_embedding", true, -1);
    for (int64_t i = 0; i < layers; ++i) {
        const std::string path = text(name, ".layers.", i, ".");
        const int number = static_cast<int>(stack.first_layer + i);
        Layer layer;
        layer.self = load_attention(path + "self_attn", number, own, own);
        if (stack.decoder) layer.cross = load_attention(path + "encoder_attn", number, own, Stream::source);
        layer.ffn_in.push_back(
            load_linear(path + "fc1", ffn, config_.width, true, number, Role::feed_forward_in, own));
        layer.ffn_out =
            load_linear(path + "fc2", config_.width, ffn, true, number, Role::feed_forward_out, own);
        layer.ffn_norm = load_norm(path + "final_layer_norm", true, number);
        stack.layers.push_back(std::move(layer));
    }
}

at::Tensor Bart::normed(Adaptation* adaptation, const Norm& norm, const at::Tensor& x) const {
    const at::Tensor gain = trained_or(adaptation, norm.path + ".weight", norm.gain);
    const at::Tensor bias = trained_or(adaptation, norm.path + ".bias", norm.bias);
    if (gain.dim() == 2 || bias.dim() == 2)  // of each token its own: rows that train norms apart
        return (at::layer_norm(x.to(at::kFloat), {config_.width}, {}, {}, config_.norm_eps) * gain + bias)
            .to(x.scalar_type());
    return at::layer_norm(x.to(at::kFloat), {config_.width}, gain, bias, config_.norm_eps)
        .to(x.scalar_type());
}

at::Tensor Bart::enter(const Stack& stack, Adaptation* adaptation, const at::Tensor& embeddings,
                       const std::vector<int32_t>& positions) const {
    std::vector<int32_t> rows;
    for (const int32_t position : positions)
        rows.push_back(position + static_cast<int32_t>(config_.position_offset));
    return normed(adaptation, stack.outer_norm, embeddings + positions_[stack.decoder]->gather(rows));
}

at::Tensor Bart::around(Adaptation* adaptation, const Norm& norm, const at::Tensor& x,
                        const Part& part) const {
    return normed(adaptation, norm, x + part(x));
}

at::Tensor Bart::leave(const Stack&, Adaptation*, const at::Tensor& x) const {
    return x;
}

}  // namespace polyad
