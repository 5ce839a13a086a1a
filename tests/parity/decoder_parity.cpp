// SPDX-License-Identifier: Apache-2.0
// Decoder-only fixtures: hidden states, logits, losses, gradients and greedy tokens, left- and right-padded.
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>

#include "report.h"

namespace polyad::parity {
namespace {

/// One padded side of a fixture, and where its real tokens lie.
struct Side {
    std::vector<std::vector<int32_t>> rows, labels;
    std::vector<int64_t> place;  ///< flat [B * T] index of each token of the ragged batch
    Batch batch;
    std::vector<int64_t> predicting;  ///< positions in the ragged batch whose successor is a target
    std::vector<int32_t> targets;
    std::vector<int64_t> target_place;  ///< flat [B * T] index of each target
};

Side read_side(const Safetensors& expected, const std::string& prefix) {
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

/// Picks rows of the first two dimensions taken as one.
at::Tensor pick(const at::Tensor& padded, const std::vector<int64_t>& places) {
    const at::Tensor flat = padded.reshape({padded.size(0) * padded.size(1), -1});
    at::Tensor out = at::empty({static_cast<int64_t>(places.size()), flat.size(1)}, flat.options());
    for (size_t i = 0; i < places.size(); ++i) out[static_cast<int64_t>(i)].copy_(flat[places[i]]);
    return out;
}

at::Tensor select_rows(const at::Tensor& x, const std::vector<int64_t>& rows) {
    at::Tensor index = at::empty({static_cast<int64_t>(rows.size())}, at::TensorOptions().dtype(at::kLong));
    std::copy(rows.begin(), rows.end(), index.data_ptr<int64_t>());
    return x.index_select(0, index);
}

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
    loss.backward();
    report.compare(prefix + "grad.inputs_embeds", options.embeddings.grad(),
                   pick(wanted("grad.inputs_embeds"), side.place), gradients);

    at::NoGradGuard no_grad;
    const at::Tensor plain = backbone.hidden(side.batch);
    report.compare(prefix + "hidden.final without gradients", plain, pick(wanted("hidden.final"), side.place),
                   activations);
}

void run_greedy(const Backbone& backbone, const Safetensors& expected, const Json& about, const Side& side,
                Report& report) {
    if (report.bf16()) return;  // gaps between logits are below bf16's rounding
    for (const char* name : {"gen.tokens", "gen.tokens_eos"}) {
        const StoredTensor& stored = expected.at(name);
        const auto wanted = ids_of(stored);
        const bool stops = name == std::string("gen.tokens_eos");
        const auto steps = static_cast<int>(stored.shape[1]);
        const auto rows =
            greedy(backbone, side.rows, steps, stops ? about.at("gen.eos_id").get<int32_t>() : -1,
                   about.at("gen.pad_id").get<int32_t>());
        for (size_t b = 0; b < rows.size(); ++b)
            report.compare_tokens(text(name, "[", b, "]"), rows[b],
                                  {wanted.begin() + static_cast<int64_t>(b) * steps,
                                   wanted.begin() + static_cast<int64_t>(b + 1) * steps});
    }
}

/// Low-rank factors straight from a PEFT file, the same for every row.
class FileAdaptation final : public Adaptation {
  public:
    std::map<std::string, at::Tensor> a, b;  ///< by site path
    double scale = 1.0;

    std::vector<LowRank> at(const Site& site, const at::Tensor&) override {
        const auto found = a.find(site.path);
        if (found == a.end()) return {};
        LowRank update;
        update.a = found->second.unsqueeze(0);
        update.b = b.at(site.path).unsqueeze(0);
        update.scale = scale;
        return {update};
    }
};

}  // namespace

void run_decoder(const Backbone& backbone, const Safetensors& expected, const Json& about, Report& report) {
    for (const char* prefix : {"right.", "left."}) {
        const Side side = read_side(expected, prefix);
        run_side(backbone, expected, prefix, side, report);
        run_greedy(backbone, expected, about, side, report);
    }
}

void run_adapter(const Backbone& backbone, const Safetensors& inputs, const std::filesystem::path& folder,
                 Report& report) {
    const Json config = parse_json(Bytes::map_file(folder / "adapter_config.json").text(), folder.string());
    if (config.value("peft_type", "") != "LORA" || config.value("use_dora", false)) {
        std::printf("skip %s: only plain LoRA is checked at this level\n", folder.c_str());
        return;
    }
    const std::string what = "peft " + folder.filename().string() + " ";
    const Safetensors weights = open_safetensors(folder / "adapter_model.safetensors");
    const Safetensors expected = open_safetensors(folder / "expected.safetensors");
    FileAdaptation adaptation;
    const double rank = config.at("r").get<double>();
    adaptation.scale =
        config.at("lora_alpha").get<double>() / (config.value("use_rslora", false) ? std::sqrt(rank) : rank);
    constexpr std::string_view head = "base_model.model.";
    for (const StoredTensor& stored : weights.tensors) {
        for (const char* part : {".lora_A.weight", ".lora_B.weight"}) {
            const size_t end = stored.name.rfind(part);
            if (end == std::string::npos) continue;
            auto& bank = part[6] == 'A' ? adaptation.a : adaptation.b;
            bank[stored.name.substr(head.size(), end - head.size())] = tensor_of(stored).requires_grad_(true);
        }
    }
    const Side side = read_side(inputs, "right.");
    ForwardOptions options;
    options.adaptation = &adaptation;
    const at::Tensor hidden = backbone.hidden(side.batch, options);
    report.compare(what + "logits", backbone.logits(hidden.detach()),
                   pick(tensor_of(expected.at("logits")), side.place), activations);
    const at::Tensor loss = backbone.token_nll(select_rows(hidden, side.predicting), side.targets).mean();
    report.compare_value(what + "loss", loss.item<double>(), tensor_of(expected.at("loss")).item<double>(),
                         5e-5);
    loss.backward();
    for (const auto& [path, tensor] : adaptation.a)
        report.compare(what + path + ".A", tensor.grad(),
                       tensor_of(expected.at(text("grad.", head, path, ".lora_A.weight"))),
                       adapter_gradients);
    for (const auto& [path, tensor] : adaptation.b)
        report.compare(what + path + ".B", tensor.grad(),
                       tensor_of(expected.at(text("grad.", head, path, ".lora_B.weight"))),
                       adapter_gradients);
}

}  // namespace polyad::parity
