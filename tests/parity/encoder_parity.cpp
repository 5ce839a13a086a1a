// SPDX-License-Identifier: Apache-2.0
// Encoder fixtures: states, mean-pooled sentence vectors and gradients of a tiny BERT, and the sentence
// vectors of the public all-MiniLM-L6-v2.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>

#include "backbone/device.h"
#include "backbone/sentence_encoder.h"
#include "side.h"

namespace polyad::parity {
namespace {

constexpr Tolerance sentence_vectors{1e-5, 0.0, false, 0.999};

/// Same row lengths as the fixture: every site gets an update of its own, whose effect must vanish with b.
class ZeroUpdates final : public Adaptation {
  public:
    int asked = 0;
    std::vector<LowRank> at(const Site& site, const at::Tensor& x) override {
        ++asked;
        LowRank update;
        update.a =
            at::zeros({1, 2, site.d_in}, x.options().dtype(at::kFloat)).fill_(0.5).requires_grad_(true);
        update.b = at::zeros({1, site.d_out, 2}, x.options().dtype(at::kFloat)).requires_grad_(true);
        leaves.push_back(update.b);
        return {update};
    }
    std::vector<at::Tensor> leaves;
};

void run_types(const Backbone& backbone, const Safetensors& expected, const std::string& prefix,
               Report& report) {
    const StoredTensor& stored = expected.at("input_ids");
    const int64_t length = stored.shape[1];
    const auto ids = ids_of(stored), mask = ids_of(expected.at("attention_mask")),
               types = ids_of(expected.at(prefix + "token_type_ids"));
    std::vector<std::vector<int32_t>> rows(static_cast<size_t>(stored.shape[0]));
    std::vector<int64_t> place, type_of_place;
    for (size_t i = 0; i < ids.size(); ++i) {
        if (!mask[i]) continue;
        rows[i / static_cast<size_t>(length)].push_back(ids[i]);
        place.push_back(static_cast<int64_t>(i));
        type_of_place.push_back(types[i]);
    }
    const Batch batch = ragged(rows);
    const auto wanted = [&](const std::string& name) { return tensor_of(expected.at(prefix + name)); };

    // The backbone adds the first segment's embedding: other segments bring the difference with their words.
    const at::Tensor table =
        backbone.frozen("embeddings.token_type_embeddings.weight").to(backbone.compute_dtype());
    const at::Tensor words = backbone.embed(batch.tokens).requires_grad_(true);
    std::vector<at::Tensor> trace;
    ForwardOptions options;
    options.trace = &trace;
    options.embeddings = words + (select_rows(table, type_of_place) - table[0]);
    const at::Tensor hidden = backbone.hidden(batch, options);
    report.result(prefix + "layers", static_cast<int64_t>(trace.size()) == backbone.info().layers + 1,
                  text(trace.size(), " traced states"));
    for (size_t l = 0; l < trace.size(); ++l) {
        const std::string name = l == 0 ? "hidden.embed" : text("hidden.", l - 1);
        report.compare(prefix + name, trace[l], pick(wanted(name), place), activations);
    }
    report.compare(prefix + "hidden.final", hidden, pick(wanted("hidden.final"), place), activations);
    const at::Tensor pooled = mean_pool(hidden, batch.row_begin), embedding = unit_rows(pooled);
    report.compare(prefix + "mean_pooled", pooled, wanted("mean_pooled"), activations);
    report.compare(prefix + "embedding", embedding, wanted("embedding"), sentence_vectors);
    const at::Tensor loss = (tensor_of(expected.at("probe")).to(embedding.device()) * embedding).sum();
    report.compare_value(prefix + "loss", loss.item<double>(), wanted("loss").item<double>(), 5e-5);
    run_backward(loss);
    report.compare(prefix + "grad.inputs_embeds", words.grad(), pick(wanted("grad.inputs_embeds"), place),
                   gradients);
    if (prefix != "tt0.") return;

    const at::NoGradGuard no_grad;
    const at::Tensor plain = backbone.hidden(batch);
    report.compare(prefix + "hidden.final without gradients", plain, pick(wanted("hidden.final"), place),
                   activations);
    for (size_t b = 0; b < rows.size(); ++b)  // no row sees another
        report.compare(text(prefix, "row ", b, " alone"), backbone.hidden(ragged({rows[b]})),
                       plain.slice(0, batch.row_begin[b], batch.row_begin[b + 1]), activations);
}

void run_updates(const Backbone& backbone, const Safetensors& expected, Report& report) {
    const auto ids = ids_of(expected.at("input_ids"));
    const Batch batch = ragged({{ids[0], ids[1], ids[2], ids[3], ids[4]}, {ids[5], ids[6]}});
    ZeroUpdates updates;
    ForwardOptions options;
    options.adaptation = &updates;
    const at::Tensor hidden = backbone.hidden(batch, options);
    report.compare("fresh updates", hidden, backbone.hidden(batch), Tolerance{0.0, 0.0, false, 1.0});
    report.result("every site is asked", updates.asked == static_cast<int>(backbone.sites().size()),
                  text(updates.asked, " of ", backbone.sites().size()));
    run_backward((hidden * hidden.detach()).sum());
    bool all = true;
    for (const at::Tensor& b : updates.leaves)
        all = all && b.grad().defined() && b.grad().abs().sum().item<double>() > 0.0;
    report.result("every site's update has a gradient", all, "");
}

}  // namespace

void run_encoder(const Backbone& backbone, const Safetensors& expected, Report& report) {
    for (const char* prefix : {"tt0.", "tt1."}) run_types(backbone, expected, prefix, report);
    run_updates(backbone, expected, report);
}

void run_minilm(const std::shared_ptr<const Backbone>& backbone, const std::filesystem::path& folder,
                Report& report) {
    const Json about = parse_json(Bytes::map_file(folder / "minilm_expected.json").text(), folder.string());
    const Safetensors expected = open_safetensors(folder / "minilm_expected.safetensors");
    const SentenceEncoder encoder(backbone, about.at("max_seq_length").get<int>());
    std::vector<std::string> texts;
    for (const Json& sentence : about.at("sentences")) {
        texts.push_back(sentence.at("text").get<std::string>());
        report.compare_tokens(text("sentence ", texts.size() - 1, " ids"), encoder.tokens(texts.back()),
                              sentence.at("ids").get<std::vector<int32_t>>());
    }
    const at::Tensor embeddings = encoder.embed(texts);
    report.compare("embeddings", embeddings, tensor_of(expected.at("embeddings")), sentence_vectors);
    for (size_t i = 0; i < texts.size(); ++i)
        report.compare(text("sentence ", i, " alone"), encoder.embed({texts[i]})[0],
                       embeddings[static_cast<int64_t>(i)], sentence_vectors);
    const at::NoGradGuard no_grad;
    report.compare("sentence 0 last_hidden_state", backbone->hidden(ragged({encoder.tokens(texts[0])})),
                   tensor_of(expected.at("sentence.0.last_hidden_state")), activations);
    const SentenceEncoder short_encoder(backbone, 128);
    report.compare("cut to 128 tokens", short_encoder.embed({texts.back()})[0],
                   tensor_of(expected.at("embedding_truncated_to_128")), sentence_vectors);
}

}  // namespace polyad::parity
