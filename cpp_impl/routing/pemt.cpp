// SPDX-License-Identifier: Apache-2.0
#include "routing/pemt.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "backbone/backbone.h"
#include "base/error.h"
#include "routing/method_table.h"
#include "skills/mixing.h"

namespace polyad {
namespace {

constexpr double adapter_std = 0.01;
constexpr int64_t reduction = 16;  // width of the model over width of the target adapter

/// Which rows a norm sees. Families name their halves in the path; in a decoder-only model there is one
/// stream.
Stream stream_of_norm(const std::string& path, bool encoder_decoder) {
    return encoder_decoder && path.find("decoder") == std::string::npos ? Stream::source : Stream::tokens;
}

}  // namespace

Pemt::Pemt(const Json& config, const MethodContext& context)
    : SiteMethod(context), backbone_(context.backbone) {
    ConfigReader reader(config, "pemt");
    reader.accept("method");
    expect_feed_forward_sites(sites_, reader);
    const int64_t width = prompt_width(context);
    options_.adapter_dim = reader.integer("adapter_dim", std::max<int64_t>(1, width / reduction), 1, 65536);
    options_.dynamic = reader.choice("corr_prompt", "dynamic", {"dynamic", "init_once"}) == "dynamic";
    options_.prompt_dropout = reader.number("prompt_dropout", 0.1, 0.0, 0.99);
    options_.reads_row = reader.choice("gate_reads", "prefix", {"prefix", "prompt"}) == "prompt";
    options_.train_norms = reader.boolean("train_norms", true);
    options_.ts_weight = reader.number("ts_weight", 0.1, 0.0, 1e6);
    options_.ts_mask_padding = reader.boolean("ts_mask_padding", false);
    options_.ts_detach_output = reader.boolean("ts_detach_output", false);
    reader.choice("train", "all", {"all"});
    prompts_ = std::make_unique<TaskPrompts>(reader, context, width);
    sources_ = read_pemt_sources(config, reader, context);
    reader.finish();
    if (options_.train_norms && !backbone_)
        reader.refuse("train_norms", "trained norms start from the backbone's own, and there is none");

    const bool encoder_decoder = backbone_ ? backbone_->info().encoder_decoder
                                           : std::any_of(sites_.begin(), sites_.end(), [](const Site& site) {
                                                 return site.stream == Stream::source;
                                             });
    const int64_t m = sources_.count(), k = options_.adapter_dim;
    for (const Site& site : sites_) {
        Place place;
        place.site = site;
        place.from_encoder = encoder_decoder && site.stream == Stream::tokens;
        add_experts(place);
        const auto name = [&](const char* what) { return site.path + "." + what; };
        const int64_t query = place.from_encoder ? width : site.d_in;
        place.gate = add(name("gate_weight"), ParameterGroup::router, maker_.zeros({tasks_, m, query}));
        const std::string down = name("adapter_down_weight"), up = name("adapter_up_weight");
        place.down =
            add(down, ParameterGroup::skills, maker_.normal({tasks_, k, site.d_out}, down, adapter_std));
        place.down_bias = add(name("adapter_down_bias"), ParameterGroup::skills, maker_.zeros({tasks_, k}));
        place.up = add(up, ParameterGroup::skills, maker_.normal({tasks_, site.d_out, k}, up, adapter_std));
        place.up_bias =
            add(name("adapter_up_bias"), ParameterGroup::skills, maker_.zeros({tasks_, site.d_out}));
        place_of_layer_[site.layer] = static_cast<int>(places_.size());
        places_.push_back(std::move(place));
    }
    if (options_.train_norms) add_norms();
    for (int64_t i = 0; i < m; ++i)
        source_prompt_.push_back(add_frozen(text("source_prompt.", i), text("prompt.", i),
                                            {sources_.tasks[static_cast<size_t>(i)].prompt_tokens, width}));
    sources_.values.clear();
    for (int t = 0; t < tasks_; ++t) {  // last, so that a task that comes later appends its own
        at::Tensor start = prompts_->start(t, maker_);
        if (maker_.fill() == Fill::initialised) start = prompt_start(std::move(start));
        prompt_.push_back(add(text("prompt.", t), ParameterGroup::task_vectors, std::move(start)));
    }
}

size_t Pemt::add_frozen(const std::string& name, const std::string& source_name, std::vector<int64_t> shape) {
    at::Tensor value = maker_.zeros(shape);
    if (const auto given = sources_.values.find(source_name); given != sources_.values.end()) {
        if (given->second.sizes() != at::IntArrayRef(shape))
            fail(Code::invalid_config, "sources: '", source_name, "' has shape ", given->second.sizes(),
                 ", this backbone needs ", at::IntArrayRef(shape));
        value.copy_(given->second);
    }
    const size_t index = add(name, ParameterGroup::skills, std::move(value));
    set_trainable(index, false);
    return index;
}

void Pemt::add_experts(Place& place) {
    const Site& site = place.site;
    const int64_t m = sources_.count(), r = sources_.rank;
    const auto frozen = [&](const char* name, std::vector<int64_t> shape) {
        place.experts.push_back(
            add_frozen(site.path + ".source_" + name, site.path + "." + name, std::move(shape)));
    };
    if (sources_.expert == "lora") {
        frozen("lora_a", {m, r, site.d_in});
        frozen("lora_b", {m, site.d_out, r});
    } else {
        frozen("down_weight", {m, r, site.d_in});
        frozen("down_bias", {m, r});
        frozen("up_weight", {m, site.d_out, r});
        frozen("up_bias", {m, site.d_out});
    }
}

void Pemt::add_norms() {
    for (const NormSite& norm : backbone_->norms()) {
        at::Tensor value = maker_.zeros({tasks_, norm.width});
        if (maker_.fill() == Fill::initialised && tasks_ > 0) value.copy_(backbone_->frozen(norm.path));
        norm_paths_.push_back(norm.path);
        norms_[norm.path] = {add(norm.path, ParameterGroup::scalars, std::move(value)),
                             stream_of_norm(norm.path, backbone_->info().encoder_decoder)};
    }
}

at::Tensor Pemt::prompt_start(at::Tensor start) const {
    if (options_.dynamic) return start;
    std::vector<at::Tensor> sources;
    for (const size_t index : source_prompt_) sources.push_back(value(index).detach());
    return correlated_prompt(start, sources, {});
}

int Pemt::place_of(int layer) const {
    const auto found = place_of_layer_.find(layer);
    return found == place_of_layer_.end() ? -1 : found->second;
}

Bottleneck Pemt::adapter(const Place& place) const {
    return {value(place.down), value(place.down_bias), value(place.up), value(place.up_bias)};
}

StackedExperts Pemt::stacked(size_t place, at::ScalarType dtype) const {
    const std::lock_guard lock(mutex_);
    stacked_.resize(places_.size());
    StackedExperts& kept = stacked_[place];
    if (!kept.a.defined() || kept.a.scalar_type() != dtype) {
        const std::vector<size_t>& experts = places_[place].experts;
        kept = StackedExperts::of(value(experts[0]), value(experts[1]),
                                  sources_.alpha / static_cast<double>(sources_.rank), dtype);
    }
    return kept;
}

void Pemt::parameters_changed() {
    const std::lock_guard lock(mutex_);
    stacked_.clear();
}

Bottleneck Pemt::expert_bottleneck(const Place& place) const {
    return {value(place.experts[0]), value(place.experts[1]), value(place.experts[2]),
            value(place.experts[3])};
}

const Pemt::NormTable* Pemt::norm(const std::string& path) const {
    const auto found = norms_.find(path);
    return found == norms_.end() ? nullptr : &found->second;
}

std::unique_ptr<Adaptation> Pemt::adapt(const RouteInput& input) {
    check_explicit_weights(input, skill_count());
    return adapt_pemt(*this, PromptedRows(input, *prompts_, tasks_), input);
}

at::Tensor Pemt::auxiliary_loss(Adaptation& adaptation) {
    const at::Tensor mean = mean_task_sparsity(adaptation);
    return mean.defined() ? mean * options_.ts_weight : mean;
}

std::optional<CollapsedSite> Pemt::collapse(const Site& site, int) {
    expect_position(site);
    return std::nullopt;  // prompt, adapter and norms have no such form
}

void Pemt::add_task(const std::string& start, Generator& noise) {
    add_described_task("", start, noise);
}

void Pemt::add_described_task(const std::string& description, const std::string& start, Generator& noise) {
    if (start != "fresh" && start != "uniform")
        fail(Code::invalid_config, "start: '", start, "' is not known, allowed: fresh, uniform");
    const at::NoGradGuard no_gradients;
    at::Tensor prompt = prompt_start(prompts_->add(description, noise).to(device_));
    const auto grow = [&](size_t index, const at::Tensor& line) {
        replace(index, at::cat({value(index).detach(), line.unsqueeze(0)}, 0));
    };
    const auto drawn = [&](size_t index) {
        at::Tensor line = at::empty(value(index).sizes().slice(1), at::TensorOptions().dtype(at::kFloat));
        noise.fill_normal(line.mutable_data_ptr<float>(), static_cast<size_t>(line.numel()), 0.0,
                          adapter_std);
        return line.to(device_);
    };
    const auto zero = [&](size_t index) { return at::zeros(value(index).sizes().slice(1), floats()); };
    for (const Place& place : places_) {
        for (const size_t index : {place.gate, place.down_bias, place.up_bias}) grow(index, zero(index));
        for (const size_t index : {place.down, place.up}) grow(index, drawn(index));
    }
    for (const std::string& path : norm_paths_) grow(norms_.at(path).index, backbone_->frozen(path));
    prompt_.push_back(add(text("prompt.", tasks_), ParameterGroup::task_vectors, prompt.contiguous()));
    ++tasks_;
}

std::vector<float> Pemt::task_weights(int task) {
    if (!backbone_) fail(Code::unsupported, "the gates of a task need the backbone");
    if (task < 0 || task >= tasks_)
        fail(Code::unknown_task, "unknown_task: ", task, " of ", tasks_, " tasks");
    const at::NoGradGuard no_gradients;
    std::vector<int32_t> row = prompts_->description(task);
    row.resize(std::clamp<size_t>(row.size(), 1, static_cast<size_t>(prompts_->tokens(task))));
    const auto length = static_cast<int32_t>(row.size());
    Batch batch;
    RouteInput input;
    input.prompt_length = batch.prompt_length = {length};
    if (backbone_->info().encoder_decoder) {
        input.source_begin = batch.source_begin = {0, length};
        batch.source = std::move(row);
        batch.tokens = {std::max(0, backbone_->info().decoder_start)};
    } else {
        batch.tokens = std::move(row);
    }
    input.row_begin = batch.row_begin = {0, batch.size()};
    input.task_ids = {task};
    std::map<std::string, std::map<std::string, at::Tensor>> trace;
    input.trace = &trace;
    const std::unique_ptr<Adaptation> adaptation = adapt(input);
    ForwardOptions options;
    options.adaptation = adaptation.get();
    backbone_->hidden(batch, options);
    at::Tensor sum = at::zeros({sources_.count()}, floats());
    for (const Place& place : places_) sum += trace.at(place.site.path).at("weights").select(0, 0);
    sum = on_host(sum / static_cast<double>(places_.size()));
    return {sum.const_data_ptr<float>(), sum.const_data_ptr<float>() + sum.numel()};
}

Json Pemt::config() const {
    Json out = {{"method", "pemt"},
                {"adapter_dim", options_.adapter_dim},
                {"corr_prompt", options_.dynamic ? "dynamic" : "init_once"},
                {"prompt_dropout", options_.prompt_dropout},
                {"gate_reads", options_.reads_row ? "prompt" : "prefix"},
                {"train_norms", options_.train_norms},
                {"ts_weight", options_.ts_weight},
                {"ts_mask_padding", options_.ts_mask_padding},
                {"ts_detach_output", options_.ts_detach_output},
                {"train", "all"}};
    sources_.write(out);
    prompts_->write(out);
    return out;
}

std::unique_ptr<Method> make_pemt(const Json& config, const MethodContext& context) {
    return std::make_unique<Pemt>(config, context);
}

}  // namespace polyad
