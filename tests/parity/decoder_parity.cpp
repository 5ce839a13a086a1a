// SPDX-License-Identifier: Apache-2.0
// Decoder-only fixtures: hidden states, logits, losses, gradients and greedy tokens, left- and right-padded.
#include <ATen/core/grad_mode.h>

#include "backbone/device.h"
#include "side.h"

namespace polyad::parity {
namespace {

void run_side(const Backbone& backbone, const Safetensors& expected, const std::string& prefix,
              const Side& side, Report& report) {
    std::vector<at::Tensor> trace;
    ForwardOptions options;
    options.trace = &trace;
    options.embeddings = backbone.embed(side.batch.tokens).requires_grad_(true);
    const at::Tensor hidden = backbone.hidden(side.batch, options);
    for (size_t l = 0; l < trace.size(); ++l) {
        const std::string name = prefix + (l == 0 ? "hidden.embed" : text("hidden.", l - 1));
        report.compare(name, trace[l], pick(tensor_of(expected.at(name)), side.place), activations);
    }
    report.result(prefix + "layers", static_cast<int64_t>(trace.size()) == backbone.info().layers + 1,
                  text(trace.size(), " traced states"));
    const auto wanted = [&](const char* name) { return tensor_of(expected.at(prefix + name)); };
    report.compare(prefix + "hidden.final", hidden, pick(wanted("hidden.final"), side.place), activations);
    report.compare(prefix + "logits", backbone.logits(hidden.detach()), pick(wanted("logits"), side.place),
                   activations);

    const at::Tensor nll = backbone.token_nll(select_rows(hidden, side.predicting), side.targets);
    report.compare(prefix + "nll", nll, pick(wanted("nll"), side.target_place), activations);
    const at::Tensor loss = nll.mean();
    report.compare_value(prefix + "loss", loss.item<double>(), wanted("loss").item<double>(), 5e-5);
    run_backward(loss);
    report.compare(prefix + "grad.inputs_embeds", options.embeddings.grad(),
                   pick(wanted("grad.inputs_embeds"), side.place), gradients);

    at::NoGradGuard no_grad;
    const at::Tensor plain = backbone.hidden(side.batch);
    report.compare(prefix + "hidden.final without gradients", plain, pick(wanted("hidden.final"), side.place),
                   activations);
}

}  // namespace

Side read_decoder_side(const Safetensors& expected, const std::string& prefix) {
    const StoredTensor& stored = expected.at(prefix + "input_ids");
    const int64_t rows = stored.shape[0], length = stored.shape[1];
    const auto ids = ids_of(stored), mask = ids_of(expected.at(prefix + "attention_mask"));
    const auto labels = ids_of(expected.at(prefix + "labels"));
    Side side;
    for (int64_t b = 0; b < rows; ++b) {
        side.rows.emplace_back();
        for (int64_t t = 0; t < length; ++t) {
            const int64_t flat = b * length + t;
            if (!mask[static_cast<size_t>(flat)]) continue;
            const int32_t label = labels[static_cast<size_t>(flat)];
            if (label >= 0 && !side.rows.back().empty()) {
                side.predicting.push_back(static_cast<int64_t>(side.place.size()) - 1);
                side.targets.push_back(label);
                side.target_place.push_back(flat);
            }
            side.rows.back().push_back(ids[static_cast<size_t>(flat)]);
            side.place.push_back(flat);
        }
    }
    side.batch = ragged(side.rows);
    return side;
}

void run_decoder(const Backbone& backbone, const Safetensors& expected, const Json& about, Report& report) {
    for (const char* prefix : {"right.", "left."}) {
        const Side side = read_decoder_side(expected, prefix);
        run_side(backbone, expected, prefix, side, report);
        run_greedy(backbone, expected, about, side, report);
    }
}

}  // namespace polyad::parity
