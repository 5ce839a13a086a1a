// SPDX-License-Identifier: Apache-2.0
// PEFT adapters over the fixture models: logits, losses and gradients.
#include <ATen/TensorOperators.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/matmul.h>

#include <cmath>
#include <map>

#include "routing/peft_skillset.h"
#include "side.h"

namespace polyad::parity {
namespace {

constexpr std::string_view head = "base_model.model.";

/// LoRA, rsLoRA and DoRA straight from the file, the same for every row.
class FileAdaptation final : public Adaptation {
  public:
    FileAdaptation(const Backbone& backbone, const Json& config, const Safetensors& weights)
        : backbone_(backbone) {
        const double rank = config.at("r").get<double>();
        scale_ = config.at("lora_alpha").get<double>() /
                 (config.value("use_rslora", false) ? std::sqrt(rank) : rank);
        for (const StoredTensor& stored : weights.tensors) {
            const size_t end = stored.name.find(".lora_");
            factors[stored.name] = tensor_of(stored).requires_grad_(true);
            names_[stored.name.substr(head.size(), end - head.size())].push_back(stored.name);
        }
    }

    std::map<std::string, at::Tensor> factors;  ///< by name in the file

    std::vector<LowRank> at(const Site& site, const at::Tensor&) override {
        if (!names_.contains(site.path)) return {};
        LowRank update;
        update.a = factor(site, ".lora_A.weight").unsqueeze(0);
        update.b = factor(site, ".lora_B.weight").unsqueeze(0);
        update.scale = scale_;
        return {update};
    }

    at::Tensor output_scale(const Site& site) override {
        const auto magnitude = factors.find(text(head, site.path, ".lora_magnitude_vector"));
        if (magnitude == factors.end()) return {};
        const at::Tensor whole =
            backbone_.frozen(site.path + ".weight") +
            at::matmul(factor(site, ".lora_B.weight"), factor(site, ".lora_A.weight")).mul(scale_);
        return magnitude->second / at::linalg_vector_norm(whole, 2, {1}).detach();  // PEFT detaches it
    }

    /// Modules of the file that are no site.
    std::vector<std::string> strangers() const {
        std::vector<std::string> out;
        for (const auto& [path, names] : names_) {
            bool found = false;
            for (const Site& site : backbone_.sites()) found = found || site.path == path;
            if (!found) out.push_back(path);
        }
        return out;
    }

  private:
    const at::Tensor& factor(const Site& site, const char* part) const {
        return factors.at(text(head, site.path, part));
    }

    const Backbone& backbone_;
    double scale_ = 1.0;
    std::map<std::string, std::vector<std::string>> names_;  ///< of each module
};

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
    loss.backward();
}

/// Poly has a table of tasks, so it goes the way of every skillset.
void run_poly(const std::shared_ptr<const Backbone>& backbone, const Safetensors& expected, const Side& side,
              const std::filesystem::path& folder, const std::string& what, Report& report) {
    const PeftAdapter adapter = open_peft(folder);
    for (int task = 0; task <= adapter.tasks; ++task) {
        const bool mixed = task == adapter.tasks;
        const std::string prefix = mixed ? "mixed." : text("task", task, ".");
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
            module.a = expected.at(name + ".poly_lora_A");
            module.b = expected.at(name + ".poly_lora_B");
            module.logits = expected.at(name + ".poly_router.module_logits");
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
    const Json config = parse_json(Bytes::map_file(folder / "adapter_config.json").text(), folder.string());
    const std::string what = "peft " + folder.filename().string() + " ";
    const Safetensors expected = open_safetensors(folder / "expected.safetensors");
    const Side side = backbone->info().encoder_decoder ? read_encoder_decoder_side(inputs)
                                                       : read_decoder_side(inputs, "right.");
    if (config.value("peft_type", "") == "POLY")
        return run_poly(backbone, expected, side, folder, what, report);
    const Safetensors weights = open_safetensors(folder / "adapter_model.safetensors");
    FileAdaptation adaptation(*backbone, config, weights);
    const auto strangers = adaptation.strangers();
    report.result(what + "modules", strangers.empty(),
                  strangers.empty() ? "are all sites" : strangers.front() + " is no site");
    run_forward(*backbone, expected, "", side, adaptation, what, report);
    for (const auto& [name, factor] : adaptation.factors)
        report.compare(what + name, factor.grad(), tensor_of(expected.at("grad." + name)), adapter_gradients);
}

}  // namespace polyad::parity
