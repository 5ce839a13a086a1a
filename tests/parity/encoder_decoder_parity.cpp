// SPDX-License-Identifier: Apache-2.0
// Encoder-decoder fixtures: states of both stacks, position biases, logits, losses, gradients of both sides'
// embeddings, and greedy tokens.
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>

#include "backbone/device.h"
#include "backbone/t5.h"
#include "side.h"

namespace polyad::parity {
namespace {

/// Sees what the encoder hands to the decoder.
class Listener final : public Adaptation {
  public:
    at::Tensor states;
    std::vector<LowRank> at(const Site&, const at::Tensor&) override { return {}; }
    void encoded(const at::Tensor& encoder_states) override { states = encoder_states; }
};

void compare_trace(const std::vector<at::Tensor>& trace, size_t first, int64_t layers, const char* stack,
                   const Safetensors& expected, const std::vector<int64_t>& place, Report& report) {
    for (int64_t l = 0; l <= layers; ++l) {
        const std::string name = l == 0 ? text(stack, "hidden.embed") : text(stack, "hidden.", l - 1);
        report.compare(name, trace[first + static_cast<size_t>(l)], pick(tensor_of(expected.at(name)), place),
                       activations);
    }
}

void run_forward(const Backbone& backbone, const Safetensors& expected, const Side& side, Report& report) {
    const BackboneInfo& info = backbone.info();
    const auto wanted = [&](const char* name) { return tensor_of(expected.at(name)); };
    std::vector<at::Tensor> trace;
    Listener listener;
    const at::Tensor source = backbone.embed(side.batch.source).requires_grad_(true),
                     tokens = backbone.embed(side.batch.tokens).requires_grad_(true);
    ForwardOptions options;
    options.trace = &trace;
    options.adaptation = &listener;
    options.embeddings = at::cat({source, tokens}, 0);
    const at::Tensor hidden = backbone.hidden(side.batch, options);
    const int64_t decoder_layers = info.layers - info.encoder_layers;
    const bool complete = static_cast<int64_t>(trace.size()) == info.layers + 2;
    report.result("layers", complete, text(trace.size(), " traced states"));
    if (!complete) return;
    compare_trace(trace, 0, info.encoder_layers, "enc.", expected, side.source_place, report);
    compare_trace(trace, static_cast<size_t>(info.encoder_layers) + 1, decoder_layers, "dec.", expected,
                  side.place, report);
    report.compare("enc.hidden.final", listener.states, pick(wanted("enc.hidden.final"), side.source_place),
                   activations);
    report.compare("dec.hidden.final", hidden, pick(wanted("dec.hidden.final"), side.place), activations);
    report.compare("logits", backbone.logits(hidden.detach()), pick(wanted("logits"), side.place),
                   activations);

    const at::Tensor nll = backbone.token_nll(select_rows(hidden, side.predicting), side.targets);
    report.compare("nll", nll, pick(wanted("nll"), side.target_place), activations);
    const at::Tensor loss = nll.mean();
    report.compare_value("loss", loss.item<double>(), wanted("loss").item<double>(), 5e-5);
    run_backward(loss);
    report.compare("grad.inputs_embeds", source.grad(), pick(wanted("grad.inputs_embeds"), side.source_place),
                   gradients);
    report.compare("grad.decoder_inputs_embeds", tokens.grad(),
                   pick(wanted("grad.decoder_inputs_embeds"), side.place), gradients);

    at::NoGradGuard no_grad;
    report.compare("hidden without gradients", backbone.hidden(side.batch),
                   pick(wanted("dec.hidden.final"), side.place), activations);
}

void run_position_bias(const T5& backbone, const Safetensors& expected, Report& report) {
    for (const bool decoder : {false, true}) {
        const char* name = decoder ? "dec.position_bias" : "enc.position_bias";
        const at::Tensor wanted = tensor_of(expected.at(name));
        const int64_t length = wanted.size(1), past = length / 2;
        report.compare(name, backbone.position_bias(decoder, 0, length), wanted, activations);
        report.compare(text(name, " from the middle"), backbone.position_bias(decoder, past, length - past),
                       wanted.narrow(1, past, length - past), activations);
    }
}

}  // namespace

Side read_encoder_decoder_side(const Safetensors& expected) {
    const StoredTensor& sources = expected.at("input_ids");
    const StoredTensor& tokens = expected.at("decoder_input_ids");
    const int64_t rows = sources.shape[0], source_length = sources.shape[1], length = tokens.shape[1];
    const auto source_ids = ids_of(sources), source_mask = ids_of(expected.at("attention_mask"));
    const auto ids = ids_of(tokens), mask = ids_of(expected.at("decoder_mask"));
    const auto labels = ids_of(expected.at("labels"));
    Side side;
    Batch& batch = side.batch;
    batch.row_begin = batch.source_begin = {0};
    for (int64_t b = 0; b < rows; ++b) {
        side.rows.emplace_back();
        for (int64_t flat = b * source_length; flat < (b + 1) * source_length; ++flat) {
            if (!source_mask[static_cast<size_t>(flat)]) continue;
            side.rows.back().push_back(source_ids[static_cast<size_t>(flat)]);
            side.source_place.push_back(flat);
        }
        for (int64_t flat = b * length; flat < (b + 1) * length; ++flat) {
            if (!mask[static_cast<size_t>(flat)]) continue;
            if (const int32_t label = labels[static_cast<size_t>(flat)]; label >= 0) {
                side.predicting.push_back(batch.size());
                side.targets.push_back(label);
                side.target_place.push_back(flat);
            }
            batch.tokens.push_back(ids[static_cast<size_t>(flat)]);
            side.place.push_back(flat);
        }
        batch.source.insert(batch.source.end(), side.rows.back().begin(), side.rows.back().end());
        batch.prompt_length.push_back(static_cast<int32_t>(side.rows.back().size()));
        batch.source_begin.push_back(static_cast<int32_t>(batch.source.size()));
        batch.row_begin.push_back(batch.size());
    }
    return side;
}

void run_encoder_decoder(const Backbone& backbone, const Safetensors& expected, const Json& about,
                         Report& report) {
    const Side side = read_encoder_decoder_side(expected);
    run_forward(backbone, expected, side, report);
    if (const auto* t5 = dynamic_cast<const T5*>(&backbone)) run_position_bias(*t5, expected, report);
    run_greedy(backbone, expected, about, side, report);
}

}  // namespace polyad::parity
