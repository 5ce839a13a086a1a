// SPDX-License-Identifier: Apache-2.0
// PEFT adapters over the fixture models: logits, losses and gradients.
#include <ATen/TensorOperators.h>

#include "backbone/device.h"
#include "routing/peft_skillset.h"
#include "side.h"

namespace polyad::parity {
namespace {

constexpr std::string_view head = "base_model.model.";

/// Logits and loss; leaves the loss's gradients behind.
void run_forward(const Backbone& backbone, const Safetensors& expected, const std::string& prefix,
                 const Side& side, Adaptation& adaptation, const std::string& what, Report& report) {
    ForwardOptions options;
    options.adaptation = &adaptation;
    const at::Tensor hidden = backbone.hidden(side.batch, options);
    report.compare(what + "logits", backbone.logits(hidden.detach()),
                   pick(tensor_of(expected.at(prefix + "logits")), side.place), activations);
    const at::Tensor loss = backbone.token_nll(select_rows(hidden, side.predicting), side.targets).mean();
    report.compare_value(what + "loss", loss.item<double>(),
                         tensor_of(expected.at(prefix + "loss")).item<double>(), 5e-5);
    run_backward(loss);
}

/// One forward with the adapter as a skillset; with Poly one for each task, and one of mixed tasks.
void run_imported(const std::shared_ptr<const Backbone>& backbone, const Safetensors& expected,
                  const Side& side, const std::filesystem::path& folder, const std::string& what,
                  Report& report) {
    const PeftAdapter adapter = open_peft(folder);
    const bool poly = adapter.kind == PeftKind::poly;
    for (int task = 0; task <= (poly ? adapter.tasks : 0); ++task) {
        const bool mixed = poly && task == adapter.tasks;
        const std::string prefix = !poly ? "" : mixed ? "mixed." : text("task", task, ".");
        const auto skillset = import_peft(backbone, adapter);
        RouteInput route;
        route.row_begin = side.batch.row_begin;
        route.source_begin = side.batch.source_begin;
        route.prompt_length = side.batch.prompt_length;
        route.task_ids.assign(static_cast<size_t>(side.batch.rows()), task);
        if (mixed) route.task_ids = ids_of(expected.at("mixed.task_ids"));
        const auto adaptation = skillset->method().adapt(route);
        run_forward(*backbone, expected, prefix, side, *adaptation, what + prefix, report);
        // A gradient is laid out like its tensor: a "file" of gradients, imported, has them by parameter.
        PeftAdapter gradients = adapter;
        for (PeftModule& module : gradients.modules) {
            const std::string name = text(prefix, "grad.", head, module.path);
            module.a = expected.at(name + (poly ? ".poly_lora_A" : ".lora_A.weight"));
            module.b = expected.at(name + (poly ? ".poly_lora_B" : ".lora_B.weight"));
            if (poly) module.logits = expected.at(name + ".poly_router.module_logits");
            if (module.magnitude) module.magnitude = expected.at(name + ".lora_magnitude_vector");
        }
        const auto wanted = import_peft(backbone, gradients);
        for (size_t i = 0; i < skillset->method().parameters().size(); ++i) {
            const Parameter& got = skillset->method().parameters()[i];
            report.compare(what + prefix + got.name, got.value.grad(), wanted->method().parameters()[i].value,
                           adapter_gradients);
        }
    }
}

}  // namespace

void run_adapter(const std::shared_ptr<const Backbone>& backbone, const Safetensors& inputs,
                 const std::filesystem::path& folder, Report& report) {
    const std::string what = "peft " + folder.filename().string() + " ";
    const Safetensors expected = open_safetensors(folder / "expected.safetensors");
    const Side side = backbone->info().encoder_decoder ? read_encoder_decoder_side(inputs)
                                                       : read_decoder_side(inputs, "right.");
    run_imported(backbone, expected, side, folder, what, report);
}

}  // namespace polyad::parity
