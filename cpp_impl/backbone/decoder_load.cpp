// SPDX-License-Identifier: Apache-2.0
#include "backbone/decoder.h"
#include "base/error.h"

namespace polyad {
namespace {

constexpr const char* place_paths[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                                       "self_attn.o_proj", "mlp.gate_proj",    "mlp.up_proj",
                                       "mlp.down_proj"};

}  // namespace

Decoder::Decoder(const ModelFiles& files, const LoadPlan& plan, std::shared_ptr<const Tokenizer> tokenizer)
    : config_(files.config), dtype_(plan.dtype), device_(plan.device), tokenizer_(std::move(tokenizer)) {
    const TensorStore& store = files.tensors;
    store.validate(config_);

    info_.name = files.name;
    info_.family = family_name(config_.family);
    info_.fingerprint = files.fingerprint();
    info_.layers = config_.layers;
    info_.width = config_.width;
    info_.vocab = config_.vocab;
    info_.context = config_.context;

    embedding_ = std::make_shared<const FrozenMatrix>(
        store.expect("model.embed_tokens.weight", {config_.vocab, config_.width}), plan);
    head_ = config_.tied ? embedding_
                         : std::make_shared<const FrozenMatrix>(
                               store.expect("lm_head.weight", {config_.vocab, config_.width}), plan);
    const auto norm = [&](const std::string& path, int layer, int64_t width) {
        norms_.push_back({path, layer, width});
        info_.parameters += width;
        return Norm{path, load_vector(store.expect(path, {width}), device_)};
    };
    final_norm_ = norm("model.norm.weight", -1, config_.width);
    std::vector<float> factors;
    if (const StoredTensor* stored = store.find("rope_freqs.weight")) factors = to_float(*stored);
    rope_ = std::make_unique<Rope>(config_, factors, device_);
    info_.parameters += config_.vocab * config_.width * (config_.tied ? 1 : 2);
    for (int64_t l = 0; l < config_.layers; ++l) load_layer(files, plan, l);
}

void Decoder::load_layer(const ModelFiles& files, const LoadPlan& plan, int64_t index) {
    const TensorStore& store = files.tensors;
    const std::string prefix = text("model.layers.", index, ".");
    const int64_t inputs[] = {config_.width, config_.width, config_.width, config_.q_width(),
                              config_.width, config_.width, config_.ffn};
    const int64_t outputs[] = {config_.q_width(), config_.kv_width(), config_.kv_width(), config_.width,
                               config_.ffn,       config_.ffn,        config_.width};
    const auto norm = [&](const char* name, int64_t width) {
        const std::string path = prefix + name;
        norms_.push_back({path, static_cast<int>(index), width});
        info_.parameters += width;
        return Norm{path, load_vector(store.expect(path, {width}), device_)};
    };
    Layer layer;
    for (int place = 0; place < places; ++place) {
        const std::string path = prefix + place_paths[place];
        const bool rotated = place == q_proj || place == k_proj;
        const int64_t unpermute = rotated && store.permuted_qk() ? config_.head_dim : 0;
        Linear& linear = layer.linear[place];
        linear.weight = std::make_shared<const FrozenMatrix>(
            store.expect(path + ".weight", {outputs[place], inputs[place]}), plan, unpermute);
        info_.parameters += outputs[place] * inputs[place];
        const bool biased = place <= v_proj   ? config_.qkv_bias
                            : place == o_proj ? config_.output_bias
                                              : config_.mlp_bias;
        if (biased) {
            at::Tensor bias = load_vector(store.expect(path + ".bias", {outputs[place]}));
            if (unpermute) {
                const at::Tensor stored = bias.clone();
                for (int64_t row = 0; row < outputs[place]; ++row)
                    bias.data_ptr<float>()[row] =
                        stored.data_ptr<float>()[TensorStore::permuted_row(row, unpermute)];
            }
            linear.bias = bias.to(device_, dtype_);
            info_.parameters += outputs[place];
        }
        Site site;
        site.index = static_cast<int>(sites_.size());
        site.path = path;
        site.layer = static_cast<int>(index);
        site.d_in = inputs[place];
        site.d_out = outputs[place];
        site.role = place == down_proj   ? Role::feed_forward_out
                    : place >= gate_proj ? Role::feed_forward_in
                                         : Role::attention;
        sites_.push_back(std::move(site));
    }
    layer.input_norm = norm("input_layernorm.weight", config_.width);
    layer.post_norm = norm("post_attention_layernorm.weight", config_.width);
    if (config_.qk_norm) {
        layer.q_norm = norm("self_attn.q_norm.weight", config_.head_dim);
        layer.k_norm = norm("self_attn.k_norm.weight", config_.head_dim);
    }
    layers_.push_back(std::move(layer));
}

at::Tensor Decoder::frozen(const std::string& path) const {
    const auto copy = [](const at::Tensor& t) { return t.to(at::kFloat, false, true); };
    for (const Site& site : sites_) {
        if (!path.starts_with(site.path)) continue;
        const Linear& linear = layers_[static_cast<size_t>(site.layer)].linear[site.index % places];
        if (path == site.path + ".weight") return copy(linear.weight->dense());
        if (path == site.path + ".bias" && linear.bias.defined()) return copy(linear.bias);
    }
    if (path == final_norm_.path) return copy(final_norm_.gain);
    for (const Layer& layer : layers_)
        for (const Norm* norm : {&layer.input_norm, &layer.post_norm, &layer.q_norm, &layer.k_norm})
            if (path == norm->path) return copy(norm->gain);
    return {};
}

}  // namespace polyad
