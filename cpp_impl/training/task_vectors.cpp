// SPDX-License-Identifier: Apache-2.0
#include "training/task_vectors.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/linalg_eigh.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

#include "backbone/device.h"
#include "base/error.h"
#include "data/dataset.h"
#include "training/trainer.h"

namespace polyad {
namespace {

constexpr int64_t fisher_width = 128;
constexpr size_t rows_per_forward = 8;

bool computed(const std::string& kind) {
    return kind == "text" || kind == "finetuned_text" || kind == "fisher";
}

/// Passes everything on to another adaptation (which may be null) and keeps the encoder's states.
class EncoderStates final : public Adaptation {
  public:
    explicit EncoderStates(Adaptation* inner) : inner_(inner) {}
    std::vector<LowRank> at(const Site& site, const at::Tensor& x) override {
        return inner_ ? inner_->at(site, x) : std::vector<LowRank>();
    }
    void begin(const Backbone& backbone, const Batch& batch, const ForwardOptions& options) override {
        if (inner_) inner_->begin(backbone, batch, options);
    }
    void encoded(const at::Tensor& states) override { states_ = states; }
    const at::Tensor& states() const { return states_; }

  private:
    Adaptation* inner_;
    at::Tensor states_;
};

std::vector<const Example*> some_examples(const Task& task, int64_t wanted) {
    const std::vector<Example>& train = task.examples(Split::train);
    if (train.empty())
        throw Error(
            Code::bad_data,
            text("task_vectors: task '", task.name, "' has no training examples to compute its vector from"),
            task.name);
    std::vector<const Example*> out;
    for (const Example& example : train) {
        if (wanted > 0 && static_cast<int64_t>(out.size()) == wanted) break;
        out.push_back(&example);
    }
    return out;
}

/// Sum over the rows' mean states, [width].
at::Tensor sum_of_means(const Backbone& backbone, const std::vector<std::vector<int32_t>>& prompts,
                        Method* method) {
    const BackboneInfo& info = backbone.info();
    Batch batch;
    RouteInput route;
    batch.row_begin = {0};
    if (info.encoder_decoder) batch.source_begin = {0};
    for (const std::vector<int32_t>& prompt : prompts) {
        std::vector<int32_t>& read = info.encoder_decoder ? batch.source : batch.tokens;
        read.insert(read.end(), prompt.begin(), prompt.end());
        if (info.encoder_decoder) {
            batch.tokens.push_back(info.decoder_start);
            batch.source_begin.push_back(static_cast<int32_t>(batch.source.size()));
        }
        batch.row_begin.push_back(batch.size());
        batch.prompt_length.push_back(static_cast<int32_t>(prompt.size()));
        route.task_ids.push_back(0);
    }
    route.row_begin = batch.row_begin;
    route.source_begin = batch.source_begin;
    route.prompt_length = batch.prompt_length;
    const std::unique_ptr<Adaptation> adapted = method ? method->adapt(route) : nullptr;
    EncoderStates watched(adapted.get());
    ForwardOptions options;
    options.adaptation = &watched;
    at::Tensor states = backbone.hidden(batch, options);
    if (info.encoder_decoder) states = watched.states();
    const RowBegin& rows = info.encoder_decoder ? batch.source_begin : batch.row_begin;
    at::Tensor sum;
    for (size_t b = 0; b + 1 < rows.size(); ++b) {
        const at::Tensor mean = states.slice(0, rows[b], rows[b + 1]).to(at::kFloat).mean(0);
        sum = sum.defined() ? sum + mean : mean;
    }
    return sum;
}

at::Tensor text_vector(const Backbone& backbone, const PromptEncoder& encoder, const Task& task,
                       const TaskVectorOptions& options, Method* method) {
    const at::NoGradGuard no_grad;
    at::Tensor sum;
    std::vector<std::vector<int32_t>> prompts;
    const std::vector<const Example*> examples = some_examples(task, options.examples);
    for (size_t i = 0; i < examples.size(); ++i) {
        prompts.push_back(encoder.prompt(task, examples[i]->input));
        if (prompts.size() < rows_per_forward && i + 1 < examples.size()) continue;
        const at::Tensor part = sum_of_means(backbone, prompts, method);
        sum = sum.defined() ? sum + part : part;
        prompts.clear();
    }
    return sum / static_cast<double>(examples.size());
}

/// A LoRA trained on one task for a few steps.
std::shared_ptr<Skillset> tuned(const std::shared_ptr<const Backbone>& backbone, const Task& task,
                                const Json& config, const TaskVectorOptions& options) {
    Json lora = {{"method", "lora"}, {"rank", options.rank}};
    for (const char* key : {"target_modules", "seed", "prompt"})
        if (config.contains(key)) lora[key] = config.at(key);
    some_examples(task, 1);
    std::string rows;
    for (const Example& example : task.examples(Split::train))
        rows += Json({{"task", task.name},
                      {"instruction", task.instruction},
                      {"input", example.input},
                      {"outputs", example.outputs},
                      {"split", "train"}})
                    .dump() +
                "\n";
    const auto data = std::make_shared<const Dataset>(
        Dataset::from_jsonl(Bytes::copy_of(rows, "task '" + task.name + "'")));
    auto skillset = Skillset::create(backbone, data->tasks(), lora);
    Trainer trainer(skillset, data,
                    {{"max_steps", options.steps},
                     {"batch_size", options.batch_size},
                     {"learning_rate", options.learning_rate},
                     {"validation_examples", 0},
                     {"seed", config.value("seed", 0)}});
    while (!trainer.progress().done) trainer.step();
    return skillset;
}

/// dL/dtheta of one example, L summed over its answer; all factors laid end to end.
at::Tensor gradient(const Skillset& skillset, const EncodedExample& example) {
    const Backbone& backbone = *skillset.backbone();
    const bool two = backbone.info().encoder_decoder;
    Batch batch;
    if (two) {
        batch.source = example.prompt;
        batch.source_begin = {0, static_cast<int32_t>(batch.source.size())};
        batch.tokens = {backbone.info().decoder_start};
    } else {
        batch.tokens = example.prompt;
    }
    const int64_t first = batch.size() - 1;
    batch.tokens.insert(batch.tokens.end(), example.answer.begin(), example.answer.end() - 1);
    batch.row_begin = {0, batch.size()};
    batch.prompt_length = {static_cast<int32_t>(example.prompt.size())};
    RouteInput route;
    route.row_begin = batch.row_begin;
    route.source_begin = batch.source_begin;
    route.prompt_length = batch.prompt_length;
    route.task_ids = {0};

    const at::AutoGradMode follow(true);
    const std::unique_ptr<Adaptation> adaptation = skillset.method().adapt(route);
    ForwardOptions options;
    options.adaptation = adaptation.get();
    const at::Tensor hidden =
        backbone.hidden(batch, options).narrow(0, first, static_cast<int64_t>(example.answer.size()));
    run_backward(backbone.token_nll(hidden, example.answer).sum());
    std::vector<at::Tensor> parts;
    for (Parameter& p : skillset.method().parameters()) {
        const at::Tensor& grad = p.value.grad();
        parts.push_back(grad.defined()
                            ? grad.flatten()
                            : at::zeros({p.value.numel()}, p.value.options().requires_grad(false)));
        p.value.mutable_grad() = at::Tensor();
    }
    return at::cat(parts, 0);
}

/// mean over examples of (dL/dtheta)^2
at::Tensor fisher(const Skillset& skillset, const Task& task, const TaskVectorOptions& options) {
    at::Tensor sum;
    const std::vector<const Example*> examples = some_examples(task, options.examples);
    for (const Example* example : examples) {
        const at::Tensor one =
            gradient(skillset, skillset.prompts().encode(task, example->input, example->outputs.front()))
                .square();
        sum = sum.defined() ? sum + one : one;
    }
    return sum / static_cast<double>(examples.size());
}

at::Tensor unit_mean_square(const at::Tensor& rows) {
    const double size = rows.square().mean().item<double>();
    return size > 0.0 ? rows / std::sqrt(size) : rows;
}

/// Scores on the first `width` principal components: of the centred rows X, U sqrt(lambda) of X X^T. Each
/// component's largest entry is positive, so that the result does not depend on the solver's signs.
at::Tensor principal_components(const at::Tensor& rows, int64_t width) {
    const at::Tensor centred = (rows - rows.mean(0, true)).to(at::kCPU, at::kDouble);
    const auto [lambda, u] = at::linalg_eigh(at::mm(centred, centred.t()));
    std::vector<at::Tensor> columns;
    for (int64_t k = 0; k < width; ++k) {
        const int64_t at = rows.size(0) - 1 - k;  // eigenvalues ascend
        const at::Tensor column = u.select(1, at) * lambda[at].clamp_min(0.0).sqrt();
        const at::Tensor largest = column[column.abs().argmax().item<int64_t>()];
        columns.push_back(largest.item<double>() < 0.0 ? -column : column);
    }
    return at::stack(columns, 1).to(at::kFloat).contiguous();
}

}  // namespace

TaskVectorOptions TaskVectorOptions::from_json(const Json& object) {
    ConfigReader reader(object, "task_vector_options");
    TaskVectorOptions options;
    options.examples = reader.integer("examples", 32, 0, 1 << 20);
    options.centre = reader.boolean("centre", false);
    options.steps = reader.integer("steps", 100, 1, 1 << 20);
    options.rank = reader.integer("rank", 8, 1, 4096);
    options.batch_size = static_cast<int>(reader.integer("batch_size", 8, 1, 4096));
    options.learning_rate = reader.number("learning_rate", 1e-3, 0.0, 10.0);
    reader.finish();
    return options;
}

at::Tensor task_vectors(const std::shared_ptr<const Backbone>& backbone, const std::vector<Task>& tasks,
                        const std::string& kind, const Json& config, int64_t width) {
    if (!computed(kind))
        fail(Code::invalid_config, "task_vectors: '", kind,
             "' is not computed, allowed: text, finetuned_text, fisher");
    const TaskVectorOptions options =
        TaskVectorOptions::from_json(config.value("task_vector_options", Json::object()));
    const auto most = static_cast<int64_t>(tasks.size()) - 1;
    if (kind == "fisher") {
        if (width == 0) width = std::min(fisher_width, most);
        if (width < 1 || width > most)
            fail(Code::invalid_config, "task_vec_dim: ", tasks.size(), " tasks have at most ",
                 std::max<int64_t>(most, 0), " principal components, asked for ",
                 std::max<int64_t>(width, 1));
    }
    Json format = config.value("prompt", Json::object());
    const PromptEncoder encoder(backbone->tokenizer(), PromptFormat::from_json(format));
    std::vector<at::Tensor> rows;
    for (const Task& task : tasks) {
        if (kind == "text") {
            rows.push_back(text_vector(*backbone, encoder, task, options, nullptr));
            continue;
        }
        const std::shared_ptr<Skillset> skillset = tuned(backbone, task, config, options);
        rows.push_back(kind == "fisher"
                           ? fisher(*skillset, task, options)
                           : text_vector(*backbone, encoder, task, options, &skillset->method()));
    }
    const at::Tensor all = at::stack(rows);
    if (kind == "fisher") return unit_mean_square(principal_components(all, width));
    return options.centre ? unit_mean_square(all - all.mean(0, true)) : all;
}

std::shared_ptr<Skillset> create_skillset(std::shared_ptr<const Backbone> backbone,
                                          const std::vector<Task>& tasks, const Json& config) {
    at::Tensor vectors;
    if (config.is_object() && config.contains("task_vectors") && config["task_vectors"].is_string()) {
        const auto kind = config["task_vectors"].get<std::string>();
        const Json width = config.value("task_vec_dim", Json(0));
        if (computed(kind)) {
            // A configuration that is wrong otherwise is refused before anything is trained.
            Json dry = config;
            dry["task_vectors"] = "random";
            Skillset::create(backbone, tasks, dry);
            vectors = task_vectors(backbone, tasks, kind, config,
                                   width.is_number_integer() ? width.get<int64_t>() : 0);
        }
    }
    return Skillset::create(std::move(backbone), tasks, config, vectors);
}

int add_task(Skillset& skillset, const Task& task, const std::string& start, uint64_t seed) {
    const Json config = skillset.config();
    const std::string kind =
        config.contains("task_vectors") ? config["task_vectors"].get<std::string>() : std::string("random");
    const bool compute = start == "fresh" && (kind == "text" || kind == "finetuned_text");
    at::Tensor vector;
    if (compute) {
        const TaskVectorOptions options = TaskVectorOptions::from_json(config.at("task_vector_options"));
        if (options.centre)
            fail(Code::unsupported,
                 "start: the vector of a task that is added later cannot be centred like the "
                 "others, allowed here: average");
        vector = task_vectors(skillset.backbone(), {task}, kind, config);
    }
    const int index = skillset.add_task(task, start, seed);
    if (!compute) return index;
    const at::NoGradGuard no_grad;
    for (Parameter& p : skillset.method().parameters())
        if (p.name == "task_vectors") p.value[index].copy_(vector[0]);
    skillset.method().parameters_changed();
    return index;
}

}  // namespace polyad
