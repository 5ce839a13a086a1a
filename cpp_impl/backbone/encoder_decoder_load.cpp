// SPDX-License-Identifier: Apache-2.0
#include "backbone/encoder_decoder.h"
#include "base/error.h"

namespace polyad {

EncoderDecoder::EncoderDecoder(const ModelFiles& files, const LoadPlan& plan,
                               std::shared_ptr<const Tokenizer> tokenizer)
    : config_(files.config),
      dtype_(plan.dtype),
      device_(plan.device),
      tokenizer_(std::move(tokenizer)),
      loading_(Loading{&files.tensors, plan}) {
    files.tensors.validate(config_);
    info_.name = files.name;
    info_.family = family_name(config_.family);
    info_.fingerprint = files.fingerprint();
    info_.layers = config_.layers + config_.decoder_layers;
    info_.encoder_layers = config_.layers;
    info_.width = config_.width;
    info_.vocab = config_.vocab;
    info_.context = config_.context;
    info_.encoder_decoder = true;
    info_.decoder_start = static_cast<int32_t>(config_.decoder_start_id);
    encoder_.shape = {config_.heads, config_.head_dim, 1.0};
    decoder_.decoder = true;
    decoder_.first_layer = config_.layers;
    decoder_.shape = encoder_.shape;
}

const TensorStore& EncoderDecoder::store() const {
    POLYAD_CHECK(loading_);
    return *loading_->store;
}

void EncoderDecoder::finish_loading() {
    if (info_.decoder_start < 0)
        fail(Code::bad_format, "'", info_.name,
             "': config.json names no decoder_start_token_id inside the vocabulary");
    loading_.reset();
}

std::shared_ptr<const FrozenMatrix> EncoderDecoder::load_matrix(const std::string& path, int64_t rows,
                                                                int64_t columns) {
    info_.parameters += rows * columns;
    return std::make_shared<const FrozenMatrix>(store().expect(path, {rows, columns}), loading_->plan);
}

void EncoderDecoder::load_embedding(const std::string& embedding, const std::string& head) {
    embedding_ = load_matrix(embedding, config_.vocab, config_.width);
    head_ = config_.tied ? embedding_ : load_matrix(head, config_.vocab, config_.width);
}

EncoderDecoder::Place EncoderDecoder::load_linear(const std::string& path, int64_t d_out, int64_t d_in,
                                                  bool biased, int layer, Role role, Stream stream) {
    Place place;
    place.linear.weight = load_matrix(path + ".weight", d_out, d_in);
    if (biased) {
        place.linear.bias = load_vector(store().expect(path + ".bias", {d_out}), device_).to(dtype_);
        info_.parameters += d_out;
    }
    Site site;
    site.index = place.site = static_cast<int>(sites_.size());
    site.path = path;
    site.layer = layer;
    site.d_in = d_in;
    site.d_out = d_out;
    site.role = role;
    site.stream = stream;
    sites_.push_back(std::move(site));
    return place;
}

EncoderDecoder::Norm EncoderDecoder::load_norm(const std::string& path, bool biased, int layer) {
    const auto load = [&](const std::string& name) {
        norm_sites_.push_back({name, layer, config_.width});
        info_.parameters += config_.width;
        return load_vector(store().expect(name, {config_.width}), device_);
    };
    Norm norm{path, load(path + ".weight"), {}};
    if (biased) norm.bias = load(path + ".bias");
    return norm;
}

void EncoderDecoder::for_each_part(const std::function<void(const Place&)>& place,
                                   const std::function<void(const Norm&)>& norm) const {
    const auto attention = [&](const Attention& a) {
        for (const Place* one : {&a.q, &a.k, &a.v, &a.o}) place(*one);
        norm(a.norm);
    };
    for (const Stack* stack : {&encoder_, &decoder_}) {
        for (const Layer& layer : stack->layers) {
            attention(layer.self);
            if (layer.cross) attention(*layer.cross);
            for (const Place& one : layer.ffn_in) place(one);
            place(layer.ffn_out);
            norm(layer.ffn_norm);
        }
        norm(stack->outer_norm);
    }
}

at::Tensor EncoderDecoder::frozen(const std::string& path) const {
    at::Tensor found;
    const auto offer = [&](const std::string& name, const at::Tensor& value) {
        if (path == name && value.defined()) found = value.to(at::kFloat, false, true);
    };
    const auto offer_norm = [&](const Norm& norm) {
        offer(norm.path + ".weight", norm.gain);
        offer(norm.path + ".bias", norm.bias);
    };
    for_each_part(
        [&](const Place& place) {
            const std::string& site = sites_[static_cast<size_t>(place.site)].path;
            if (path == site + ".weight") offer(path, place.linear.weight->dense());
            offer(site + ".bias", place.linear.bias);
        },
        offer_norm);
    return found;
}

}  // namespace polyad
