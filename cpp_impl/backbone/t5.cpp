// SPDX-License-Identifier: Apache-2.0
#include "backbone/t5.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/log.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>

#include <cmath>

#include "backbone/fused.h"
#include "base/error.h"

namespace polyad {
namespace {

/// T5 has no longest input of its own: relative positions beyond the largest bucket share it. This is what
/// the library allows a row at most.
constexpr int64_t longest_row = 1 << 20;

/// Bucket of key - query, in the float32 arithmetic of the published code, which decides at the buckets'
/// edges. Half the buckets are for keys behind the query when it may look ahead; of what is left the first
/// half are exact distances, the rest grow with the logarithm up to max_distance.
at::Tensor bucket_of(const at::Tensor& relative, bool bidirectional, int64_t buckets, int64_t max_distance) {
    at::Tensor out = at::zeros_like(relative), distance;
    if (bidirectional) {
        buckets /= 2;
        out = relative.gt(0).to(at::kLong) * buckets;
        distance = relative.abs();
    } else {
        distance = relative.neg().clamp_min(0);
    }
    const int64_t exact = buckets / 2;
    const at::Tensor grown = at::log(distance.to(at::kFloat) / static_cast<double>(exact)) /
                             std::log(static_cast<double>(max_distance) / static_cast<double>(exact)) *
                             static_cast<double>(buckets - exact);
    const at::Tensor large = (grown.clamp_min(0).to(at::kLong) + exact).clamp_max(buckets - 1);
    return out + at::where(distance.lt(exact), distance, large);
}

}  // namespace

T5::T5(const ModelFiles& files, const LoadPlan& plan, std::shared_ptr<const Tokenizer> tokenizer)
    : EncoderDecoder(files, plan, std::move(tokenizer)) {
    info_.context = longest_row;
    // The decoder's exact distances; from there to the largest the buckets grow with the logarithm.
    if (const int64_t exact = config_.relative_buckets / 2; config_.relative_max_distance <= exact)
        fail(Code::bad_format, "'", info_.name,
             "': relative_attention_max_distance = ", config_.relative_max_distance, ", with ",
             config_.relative_buckets, " buckets it must be above ", exact);
    if (info_.decoder_start < 0)
        info_.decoder_start = static_cast<int32_t>(std::max<int64_t>(0, config_.pad_id));
    load_embedding("shared.weight", "lm_head.weight");
    load_stack(encoder_, "encoder", config_.layers);
    load_stack(decoder_, "decoder", config_.decoder_layers);
    finish_loading();
}

EncoderDecoder::Attention T5::load_attention(const std::string& block, const char* name, int layer,
                                             Stream queries, Stream keys) {
    const std::string path = block + "." + name;
    const int64_t inner = config_.q_width(), width = config_.width;
    const auto linear = [&](const char* part, int64_t d_out, int64_t d_in, Stream stream) {
        return load_linear(path + part, d_out, d_in, false, layer, Role::attention, stream);
    };
    Attention out;
    out.q = linear(".q", inner, width, queries);
    out.k = linear(".k", inner, width, keys);
    out.v = linear(".v", inner, width, keys);
    out.o = linear(".o", width, inner, queries);
    out.norm = load_norm(block + ".layer_norm", false, layer);
    return out;
}

void T5::load_stack(Stack& stack, const std::string& name, int64_t layers) {
    const Stream own = stack.decoder ? Stream::tokens : Stream::source;
    for (int64_t i = 0; i < layers; ++i) {
        const std::string block = text(name, ".block.", i, ".layer.");
        const int number = static_cast<int>(stack.first_layer + i);
        Layer layer;
        layer.self = load_attention(block + "0", "SelfAttention", number, own, own);
        if (stack.decoder)
            layer.cross = load_attention(block + "1", "EncDecAttention", number, own, Stream::source);
        const std::string ffn = block + (stack.decoder ? "2" : "1");
        const auto in = [&](const char* part) {
            layer.ffn_in.push_back(load_linear(ffn + ".DenseReluDense." + part, config_.ffn, config_.width,
                                               false, number, Role::feed_forward_in, own));
        };
        if (config_.gated_ffn) {
            in("wi_0");
            in("wi_1");
        } else {
            in("wi");
        }
        layer.ffn_out = load_linear(ffn + ".DenseReluDense.wo", config_.width, config_.ffn, false, number,
                                    Role::feed_forward_out, own);
        layer.ffn_norm = load_norm(ffn + ".layer_norm", false, number);
        stack.layers.push_back(std::move(layer));
    }
    stack.outer_norm = load_norm(name + ".final_layer_norm", false, -1);
    const StoredTensor& stored =
        store().expect(name + ".block.0.layer.0.SelfAttention.relative_attention_bias.weight",
                       {config_.relative_buckets, config_.heads});
    bias_table_[stack.decoder] = FrozenMatrix(stored, {device_, at::kFloat, false}).dense();
    info_.parameters += bias_table_[stack.decoder].numel();
}

at::Tensor T5::normed(Adaptation* adaptation, const Norm& norm, const at::Tensor& x) const {
    return rms_norm(x, trained_or(adaptation, norm.path + ".weight", norm.gain), config_.norm_eps);
}

at::Tensor T5::enter(const Stack&, Adaptation*, const at::Tensor& embeddings,
                     const std::vector<int32_t>&) const {
    return embeddings;
}

at::Tensor T5::around(Adaptation* adaptation, const Norm& norm, const at::Tensor& x, const Part& part) const {
    return x + part(normed(adaptation, norm, x));
}

at::Tensor T5::leave(const Stack& stack, Adaptation* adaptation, const at::Tensor& x) const {
    return normed(adaptation, stack.outer_norm, x);
}

double T5::head_scale() const {
    // The published v1.0 code scales because the head is tied.
    return config_.scale_decoder_output ? 1.0 / std::sqrt(static_cast<double>(config_.width)) : 1.0;
}

at::Tensor T5::position_bias(bool decoder, int64_t past, int64_t queries) const {
    const int64_t keys = past + queries;
    const auto options = at::TensorOptions().dtype(at::kLong).device(device_);
    const at::Tensor relative =
        at::arange(keys, options).unsqueeze(0) - at::arange(past, keys, options).unsqueeze(1);
    const at::Tensor bucket =
        bucket_of(relative, !decoder, config_.relative_buckets, config_.relative_max_distance);
    return bias_table_[decoder]
        .index_select(0, bucket.reshape({-1}))
        .view({queries, keys, config_.heads})
        .permute({2, 0, 1});
}

}  // namespace polyad
