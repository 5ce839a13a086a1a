// SPDX-License-Identifier: Apache-2.0
// A checkpoint is a bundle with one more key, "checkpoint": counters and positions. Its tensors are the
// parameters under "parameter/", Adam's moments under "adam.first/" and "adam.second/", the best weights so
// far under "best/", and the course of the run as float64 tables "history" and "validations".
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty_like.h>

#include <cmath>
#include <cstring>
#include <map>
#include <span>
#include <utility>

#include "backbone/device.h"
#include "base/bytes.h"
#include "base/error.h"
#include "io/bundle.h"
#include "training/trainer.h"

namespace polyad {
namespace {

constexpr int checkpoint_version = 1;

/// A tensor's memory, or its copy in host memory, lent to the encoder; `kept` holds it meanwhile.
StoredTensor stored(std::string name, const at::Tensor& given, std::vector<at::Tensor>& kept) {
    POLYAD_CHECK(given.is_contiguous() && given.scalar_type() == at::kFloat);
    const at::Tensor& value = kept.emplace_back(on_host(given.detach()));
    StoredTensor out;
    out.name = std::move(name);
    out.shape = value.sizes().vec();
    out.data = {static_cast<const std::byte*>(value.const_data_ptr()), static_cast<size_t>(value.nbytes())};
    return out;
}

template <class Record>
void store_table(Bundle& bundle, const char* name, const std::vector<Record>& records) {
    static_assert(sizeof(Record) % sizeof(double) == 0);
    if (records.empty()) return;
    StoredTensor out;
    out.name = name;
    out.dtype = DType::f64;
    out.shape = {static_cast<int64_t>(records.size()), sizeof(Record) / sizeof(double)};
    out.data = std::as_bytes(std::span(records));
    bundle.tensors.push_back(std::move(out));
}

Json number(double value) {
    return std::isnan(value) ? Json() : Json(value);
}
double number(const Json& value) {
    return value.is_null() ? Progress::unknown : value.get<double>();
}

Json backbone_entry(const BackboneInfo& info) {
    return {{"name", info.name},
            {"family", info.family},
            {"fingerprint", info.fingerprint},
            {"width", info.width},
            {"layers", info.layers}};
}

Json task_entries(const Skillset& skillset) {
    Json out = Json::array();
    for (const TaskEntry& task : skillset.tasks()) {
        Json examples = Json::array();
        for (const Example& example : task.positive_examples)
            examples.push_back({{"input", example.input}, {"outputs", example.outputs}});
        out.push_back({{"name", task.name},
                       {"category", task.category},
                       {"instruction", task.instruction},
                       {"labels", task.labels},
                       {"positive_examples", std::move(examples)}});
    }
    return out;
}

/// Training options that a resumed run must share: all but where and how often it is saved.
Json comparable(Json training) {
    training.erase("checkpoint");
    training.erase("checkpoint_every");
    training.erase("threads");
    return training;
}

/// Code::invalid_config for the first key in which two configurations differ.
void expect_same(const std::string& file, const char* what, const Json& here, const Json& there) {
    if (here == there) return;
    if (here.is_object() && there.is_object()) {
        Json all = here;
        all.update(there);
        for (const auto& [key, value] : all.items()) {
            const Json mine = here.value(key, Json()), saved = there.value(key, Json());
            if (mine != saved)
                throw Error(Code::invalid_config,
                            text(file, ": saved with ", what, ".", key, " = ", saved.dump(),
                                 ", but it is now ", mine.dump()),
                            text(what, ".", key));
        }
    }
    throw Error(Code::invalid_config, text(file, ": saved with other ", what), what);
}

class TensorTable {
  public:
    TensorTable(const Bundle& bundle, const std::string& file) : file_(file) {
        for (const StoredTensor& tensor : bundle.tensors) by_name_[tensor.name] = &tensor;
    }
    /// A fresh copy, shaped like `like`.
    at::Tensor read(const std::string& name, const at::Tensor& like) const {
        const StoredTensor* tensor = find(name);
        if (!tensor) fail(Code::bad_format, file_, ": tensor '", name, "' is missing");
        if (tensor->dtype != DType::f32 || tensor->shape != like.sizes().vec())
            fail(Code::bad_format, file_, ": tensor '", name,
                 "' has another type or shape than the skillset's");
        at::Tensor out = at::empty(like.sizes(), at::TensorOptions().dtype(at::kFloat));
        POLYAD_CHECK(out.nbytes() == tensor->data.size());
        std::memcpy(out.mutable_data_ptr(), tensor->data.data(), tensor->data.size());
        return out.to(like.device());
    }
    template <class Record>
    std::vector<Record> table(const char* name) const {
        const StoredTensor* tensor = find(name);
        if (!tensor) return {};
        if (tensor->dtype != DType::f64 || tensor->shape.size() != 2 ||
            tensor->shape[1] != static_cast<int64_t>(sizeof(Record) / sizeof(double)))
            fail(Code::bad_format, file_, ": table '", name, "' has another type or shape than expected");
        std::vector<Record> out(tensor->data.size() / sizeof(Record));
        std::memcpy(out.data(), tensor->data.data(), tensor->data.size());
        return out;
    }

  private:
    const StoredTensor* find(const std::string& name) const {
        const auto at = by_name_.find(name);
        return at == by_name_.end() ? nullptr : at->second;
    }
    const std::string& file_;
    std::map<std::string, const StoredTensor*> by_name_;
};

}  // namespace

Json Trainer::checkpoint_state() const {
    const Generator::State noise = noise_.state();
    Json adam_steps = Json::object();
    for (const Optimiser::Moments& moments : optimiser_.state()) adam_steps[moments.name] = moments.steps;
    return {{"version", checkpoint_version},
            {"training", config_.to_json()},
            {"sampler", sampler_.state().to_json()},
            {"noise", {{"seed", noise.seed}, {"stream", noise.stream}, {"counter", noise.counter}}},
            {"adam_steps", std::move(adam_steps)},
            {"validation_due", validation_due_},
            {"validations_without_gain", validations_without_gain_},
            {"has_best", !best_.empty()},
            {"progress",
             {{"step", progress_.step},
              {"total_steps", progress_.total_steps},
              {"epoch", progress_.epoch},
              {"loss", number(progress_.loss)},
              {"learning_rate", progress_.learning_rate},
              {"gradient_norm", number(progress_.gradient_norm)},
              {"validation_loss", number(progress_.validation_loss)},
              {"best_validation_loss", number(progress_.best_validation_loss)},
              {"tokens", progress_.tokens},
              {"truncated_rows", progress_.truncated_rows},
              {"done", progress_.done},
              {"stopped_early", progress_.stopped_early}}}};
}

void Trainer::save_checkpoint(const std::filesystem::path& path) const {
    Bundle bundle;
    bundle.backbone = backbone_entry(skillset_->backbone()->info());
    bundle.config = skillset_->config();
    bundle.tasks = task_entries(*skillset_);
    bundle.metadata = skillset_->metadata();
    bundle.extra = {{"checkpoint", checkpoint_state()}};
    std::vector<at::Tensor> kept;
    for (const Parameter& parameter : skillset_->method().parameters())
        bundle.tensors.push_back(stored("parameter/" + parameter.name, parameter.value, kept));
    for (size_t i = 0; i < optimiser_.state().size(); ++i) {
        const Optimiser::Moments& moments = optimiser_.state()[i];
        bundle.tensors.push_back(stored("adam.first/" + moments.name, moments.first, kept));
        bundle.tensors.push_back(stored("adam.second/" + moments.name, moments.second, kept));
        if (!best_.empty()) bundle.tensors.push_back(stored("best/" + moments.name, best_[i], kept));
    }
    store_table(bundle, "history", history_);
    store_table(bundle, "validations", validations_);
    write_file_atomically(path, encode_bundle(bundle));
}

void Trainer::resume(const std::filesystem::path& path) {
    const Bytes file = Bytes::map_file(path);
    const Bundle bundle = decode_bundle(file);
    try {
        restore(bundle, file.name());
    } catch (const Json::exception& e) {
        fail(Code::bad_format, file.name(), ": checkpoint: ", e.what());
    }
}

void Trainer::restore(const Bundle& bundle, const std::string& file) {
    if (!bundle.extra.is_object() || !bundle.extra.contains("checkpoint"))
        fail(Code::bad_format, file, ": a bundle, not a checkpoint: load it as a skillset");
    const Json& state = bundle.extra.at("checkpoint");
    if (const int64_t version = state.at("version").get<int64_t>(); version > checkpoint_version)
        fail(Code::unsupported, file, ": checkpoint version ", version, " is newer than this build reads (",
             checkpoint_version, ")");

    // First everything is read and compared, then everything is taken over: an error changes nothing.
    const BackboneInfo& info = skillset_->backbone()->info();
    if (bundle.backbone.value("fingerprint", "") != info.fingerprint)
        fail(Code::backbone_mismatch, file, ": made for backbone '", bundle.backbone.value("name", "?"),
             "', but this one is '", info.name, "'");
    expect_same(file, "method", skillset_->config(), bundle.config);
    expect_same(file, "tasks", task_entries(*skillset_), bundle.tasks);
    expect_same(file, "training", comparable(config_.to_json()), comparable(state.at("training")));
    Sampler sampler = sampler_;
    sampler.restore(Sampler::State::from_json(state.at("sampler")));
    const Json& noise = state.at("noise");

    const Json& saved = state.at("progress");
    Progress progress = progress_;
    progress.step = saved.at("step").get<int64_t>();
    if (progress.step < 0 || saved.at("total_steps").get<int64_t>() != progress.total_steps)
        fail(Code::invalid_config, file, ": saved at step ", progress.step, " of ",
             saved.at("total_steps").dump(), ", but this run has ", progress.total_steps);
    progress.epoch = saved.at("epoch").get<double>();
    progress.loss = number(saved.at("loss"));
    progress.learning_rate = saved.at("learning_rate").get<double>();
    progress.gradient_norm = number(saved.at("gradient_norm"));
    progress.validation_loss = number(saved.at("validation_loss"));
    progress.best_validation_loss = number(saved.at("best_validation_loss"));
    progress.tokens = saved.at("tokens").get<int64_t>();
    progress.truncated_rows = saved.at("truncated_rows").get<int64_t>();
    progress.done = saved.at("done").get<bool>();
    progress.stopped_early = saved.at("stopped_early").get<bool>();
    progress.seconds_left = Progress::unknown;

    const TensorTable tensors(bundle, file);
    std::vector<at::Tensor> values, best;
    for (const Parameter& parameter : skillset_->method().parameters())
        values.push_back(tensors.read("parameter/" + parameter.name, parameter.value));
    std::vector<Optimiser::Moments> moments = optimiser_.state();
    for (Optimiser::Moments& one : moments) {
        one.first = tensors.read("adam.first/" + one.name, one.value);
        one.second = tensors.read("adam.second/" + one.name, one.value);
        one.steps = state.at("adam_steps").at(one.name).get<int64_t>();
        if (state.at("has_best").get<bool>()) best.push_back(tensors.read("best/" + one.name, one.value));
    }
    std::vector<StepRecord> history = tensors.table<StepRecord>("history");
    std::vector<ValidationRecord> validations = tensors.table<ValidationRecord>("validations");
    const Generator::State noise_state{noise.at("seed").get<uint64_t>(), noise.at("stream").get<uint64_t>(),
                                       noise.at("counter").get<uint64_t>()};
    const bool validation_due = state.at("validation_due").get<bool>();
    const int without_gain = state.at("validations_without_gain").get<int>();

    const at::NoGradGuard no_gradients;
    for (size_t i = 0; i < values.size(); ++i) skillset_->method().parameters()[i].value.copy_(values[i]);
    skillset_->method().parameters_changed();
    if (bundle.metadata.is_object()) skillset_->metadata() = bundle.metadata;
    optimiser_.state() = std::move(moments);
    sampler_ = std::move(sampler);
    noise_ = Generator(noise_state);
    progress_ = progress;
    best_ = std::move(best);
    history_ = std::move(history);
    validations_ = std::move(validations);
    validation_due_ = validation_due;
    validations_without_gain_ = without_gain;
    recent_.clear();
}

}  // namespace polyad
