// SPDX-License-Identifier: Apache-2.0
#include "routing/skillset.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <numeric>
#include <optional>
#include <set>

#include "backbone/device.h"
#include "base/error.h"
#include "io/bundle.h"
#include "routing/intuition.h"
#include "routing/method_table.h"

namespace polyad {
namespace {

constexpr size_t longest_name = 1000;

/// Keys of the skillset's own; the rest of the configuration is the method's.
constexpr const char* own_keys[] = {"target_modules", "seed", "prompt"};

Json method_config(const Json& config) {
    if (!config.is_object())
        fail(Code::invalid_config, "configuration must be a JSON object, got ", config.type_name());
    Json out = config;
    for (const char* key : own_keys) out.erase(key);
    return out;
}

constexpr const char* centroids_name = "intuition.centroids";  ///< among a bundle's tensors

/// nullopt for methods that read no intuition, and when none is configured.
std::optional<IntuitionConfig> intuition_config(const Method& method) {
    const Json config = method.config();
    const auto value = config.find("intuition");
    if (value == config.end() || value->empty()) return std::nullopt;
    return IntuitionConfig::from_json(*value, method.skill_count());
}

Json own_config(const Json& config) {
    Json out = Json::object();
    for (const char* key : own_keys)
        if (const auto value = config.find(key); value != config.end()) out[key] = *value;
    return out;
}

/// Levenshtein distance, for "did you mean".
size_t distance(std::string_view a, std::string_view b) {
    std::vector<size_t> row(b.size() + 1);
    std::iota(row.begin(), row.end(), size_t{0});
    for (size_t i = 1; i <= a.size(); ++i) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= b.size(); ++j) {
            const size_t changed = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            row[j] = std::min({row[j] + 1, row[j - 1] + 1, changed});
        }
    }
    return row.back();
}

Json to_json(const TaskEntry& task) {
    Json out = {{"name", task.name},
                {"category", task.category},
                {"instruction", task.instruction},
                {"labels", task.labels}};
    for (const Example& example : task.positive_examples)
        out["positive_examples"].push_back({{"input", example.input}, {"outputs", example.outputs}});
    return out;
}

/// Reads one entry of a bundle's task list.
TaskEntry task_from_json(const Json& json, size_t index) {
    const auto refuse = [&](const std::string& why) {
        throw Error(Code::bad_format, text("bundle: tasks[", index, "]", why), text("tasks[", index, "]"));
    };
    if (!json.is_object()) refuse(" is not a map");
    const auto string_of = [&](const Json& object, const char* key) {
        const auto value = object.find(key);
        if (value == object.end() || value->is_null()) return std::string();
        if (!value->is_string()) refuse(text(".", key, " is not text"));
        return value->get<std::string>();
    };
    const auto strings_of = [&](const Json& object, const char* key) {
        std::vector<std::string> out;
        const auto value = object.find(key);
        if (value == object.end() || value->is_null()) return out;
        if (!value->is_array()) refuse(text(".", key, " is not a list"));
        for (const Json& item : *value) {
            if (!item.is_string()) refuse(text(".", key, " holds something that is not text"));
            out.push_back(item.get<std::string>());
        }
        return out;
    };
    TaskEntry task{string_of(json, "name"),
                   string_of(json, "category"),
                   string_of(json, "instruction"),
                   strings_of(json, "labels"),
                   {}};
    if (task.name.empty()) refuse(" has no name");
    if (const auto examples = json.find("positive_examples");
        examples != json.end() && !examples->is_null()) {
        if (!examples->is_array()) refuse(".positive_examples is not a list");
        for (const Json& item : *examples) {
            if (!item.is_object()) refuse(".positive_examples holds something that is not a map");
            task.positive_examples.push_back({{}, string_of(item, "input"), strings_of(item, "outputs")});
            if (task.positive_examples.back().outputs.empty())
                refuse(".positive_examples has one without outputs");
        }
    }
    return task;
}

void check_backbone(const Json& made_for, const BackboneInfo& have) {
    const auto text_of = [&](const char* key) {
        const auto value = made_for.is_object() ? made_for.find(key) : made_for.end();
        return value != made_for.end() && value->is_string() ? value->get<std::string>()
                                                             : std::string("unknown");
    };
    if (text_of("fingerprint") == have.fingerprint) return;
    throw Error(Code::backbone_mismatch,
                text("the bundle was made for backbone '", text_of("name"), "' (", text_of("family"),
                     ", fingerprint ", text_of("fingerprint"), "), this one is '", have.name, "' (",
                     have.family, ", fingerprint ", have.fingerprint, ")"),
                "backbone");
}

/// Every parameter once, with its shape, finite float32 values, and nothing else.
void check_tensors(const std::vector<StoredTensor>& tensors, const std::vector<Parameter>& parameters) {
    const auto refuse = [](const std::string& name, const std::string& why) {
        throw Error(Code::bad_format, text("bundle: tensor '", name, "' ", why), name);
    };
    std::map<std::string, const StoredTensor*> stored;
    for (const StoredTensor& tensor : tensors)
        if (!stored.emplace(tensor.name, &tensor).second) refuse(tensor.name, "is there twice");
    for (const Parameter& p : parameters) {
        const auto found = stored.find(p.name);
        if (found == stored.end()) refuse(p.name, "is missing");
        const StoredTensor& tensor = *found->second;
        if (tensor.dtype != DType::f32)
            refuse(p.name, text("is stored as ", dtype_name(tensor.dtype), ", not f32"));
        if (at::IntArrayRef(tensor.shape) != p.value.sizes())
            refuse(p.name,
                   text("has shape ", shape_text(tensor.shape), ", the method wants ", p.value.sizes()));
        if (tensor.data.size() != static_cast<size_t>(p.value.numel()) * sizeof(float))
            refuse(p.name, text("holds ", tensor.data.size(), " bytes"));
        for (size_t i = 0; i < tensor.data.size(); i += sizeof(float)) {
            float value;
            std::memcpy(&value, tensor.data.data() + i, sizeof(float));
            if (!std::isfinite(value))
                refuse(p.name, text("holds ", value, " at position ", i / sizeof(float)));
        }
        stored.erase(found);
    }
    if (!stored.empty()) refuse(stored.begin()->first, "belongs to nothing the method knows");
}

at::Tensor values_of(const StoredTensor& tensor) {
    at::Tensor out = at::empty(tensor.shape, at::TensorOptions().dtype(at::kFloat));
    std::memcpy(out.mutable_data_ptr<float>(), tensor.data.data(), tensor.data.size());
    return out;
}

}  // namespace

TaskEntry TaskEntry::from(const Task& task) {
    return {task.name, task.category, task.instruction, task.labels, task.positive_examples};
}

Task TaskEntry::to_task() const {
    Task task;
    task.name = name;
    task.category = category;
    task.instruction = instruction;
    task.labels = labels;
    task.positive_examples = positive_examples;
    return task;
}

std::shared_ptr<Skillset> Skillset::build(std::shared_ptr<const Backbone> backbone,
                                          std::vector<TaskEntry> tasks, const Json& config, Fill fill,
                                          const at::Tensor& task_vectors) {
    const std::shared_ptr<Skillset> skillset(new Skillset());
    Skillset& self = *skillset;
    self.backbone_ = std::move(backbone);
    Json own = own_config(config);
    const auto name = config.find("method");
    if (own.value("target_modules", Json()).is_null())
        own["target_modules"] = name != config.end() && name->is_string()
                                    ? default_target_modules(name->get<std::string>())
                                    : "all-linear";
    ConfigReader reader(own, "skillset");
    reader.accept("target_modules");
    self.target_modules_ = own["target_modules"];
    self.seed_ = static_cast<uint64_t>(reader.integer("seed", 0, 0, INT64_MAX));
    self.prompts_ = std::make_unique<PromptEncoder>(self.backbone_->tokenizer(),
                                                    PromptFormat::from_json(reader.object("prompt")));
    reader.finish();
    self.sites_ = select_sites(self.backbone_->sites(), own);
    for (TaskEntry& task : tasks) {
        self.check_new_name(task.name);
        self.trim(task);
        self.tasks_.push_back(std::move(task));
    }
    MethodContext context;
    context.sites = self.sites_;
    context.tasks = static_cast<int>(self.tasks_.size());
    context.seed = self.seed_;
    context.fill = fill;
    context.backbone = self.backbone_.get();
    context.device = self.backbone_->device();
    context.task_vectors = task_vectors;
    for (const TaskEntry& task : self.tasks_) context.task_texts.push_back(task.instruction);
    self.method_ = make_method(method_config(config), context);
    if (self.tasks_.empty() && self.method_->needs_task())
        fail(Code::invalid_argument, "method '", config.at("method").get<std::string>(),
             "' needs at least one task");
    self.takes_intuition_ = self.method_->config().contains("intuition");
    return skillset;
}

std::shared_ptr<Skillset> Skillset::create(std::shared_ptr<const Backbone> backbone,
                                           const std::vector<Task>& tasks, const Json& config,
                                           const at::Tensor& task_vectors,
                                           std::shared_ptr<const Backbone> encoder) {
    std::vector<TaskEntry> entries;
    for (const Task& task : tasks) entries.push_back(TaskEntry::from(task));
    const auto skillset =
        build(std::move(backbone), std::move(entries), config, Fill::initialised, task_vectors);
    if (auto intuition = intuition_config(*skillset->method_)) {
        skillset->intuition_ =
            Intuition::learn(std::move(*intuition), tasks, skillset->seed_, std::move(encoder));
        skillset->metadata_["intuition"] = skillset->intuition_->summary();
    } else if (encoder) {
        fail(Code::invalid_config, "a sentence encoder is given, but no intuition is configured");
    }
    return skillset;
}

std::shared_ptr<Skillset> Skillset::load(std::shared_ptr<const Backbone> backbone,
                                         const std::filesystem::path& path) {
    return load(std::move(backbone), Bytes::map_file(path));
}

std::shared_ptr<Skillset> Skillset::load(std::shared_ptr<const Backbone> backbone, const Bytes& bytes) {
    Bundle bundle = decode_bundle(bytes);
    check_backbone(bundle.backbone, backbone->info());
    if (!bundle.tasks.is_array() && !bundle.tasks.is_null())
        throw Error(Code::bad_format, "bundle: tasks is not a list", "tasks");
    std::vector<TaskEntry> tasks;
    for (const Json& task : bundle.tasks) tasks.push_back(task_from_json(task, tasks.size()));
    std::shared_ptr<Skillset> skillset;
    std::optional<IntuitionConfig> intuition;
    try {
        // First the shapes alone: a file that asks for huge tables without bringing their bytes costs
        // nothing.
        const auto shapes = build(backbone, tasks, bundle.config, Fill::shapes_only);
        std::vector<Parameter> expected = shapes->method_->parameters();
        intuition = intuition_config(*shapes->method_);
        if (intuition)
            expected.push_back({centroids_name, ParameterGroup::router,
                                at::empty({intuition->clusters, intuition->width},
                                          at::TensorOptions().dtype(at::kFloat).device(at::kMeta)),
                                false});
        check_tensors(bundle.tensors, expected);
        skillset = build(backbone, std::move(tasks), bundle.config, Fill::uninitialised);
    } catch (const Error& e) {
        if (e.code() != Code::invalid_config && e.code() != Code::invalid_argument) throw;
        throw Error(Code::bad_format, text("bundle: config: ", e.what()), text("config ", e.detail()));
    } catch (const c10::Error& e) {
        throw Error(Code::bad_format,
                    text("bundle: config describes impossible tensors: ", e.what_without_backtrace()),
                    "config");
    }
    std::map<std::string, const StoredTensor*> stored;
    for (const StoredTensor& tensor : bundle.tensors) stored[tensor.name] = &tensor;
    for (Parameter& p : skillset->method_->parameters()) {
        const StoredTensor& tensor = *stored.at(p.name);
        if (!tensor.data.empty()) p.value.detach().copy_(values_of(tensor));
    }
    skillset->method_->parameters_changed();
    if (intuition) {
        const StoredTensor& tensor = *stored.at(centroids_name);
        at::Tensor centroids = at::empty(tensor.shape, at::TensorOptions().dtype(at::kFloat));
        if (!tensor.data.empty())
            std::memcpy(centroids.mutable_data_ptr<float>(), tensor.data.data(), tensor.data.size());
        skillset->intuition_ = std::make_shared<Intuition>(std::move(*intuition), std::move(centroids));
    }
    skillset->metadata_ = bundle.metadata.is_null() ? Json::object() : std::move(bundle.metadata);
    skillset->extra_ = std::move(bundle.extra);
    return skillset;
}

std::string Skillset::save_to_memory() const {
    const BackboneInfo& info = backbone_->info();
    Bundle bundle;
    bundle.backbone = {{"name", info.name},
                       {"family", info.family},
                       {"fingerprint", info.fingerprint},
                       {"width", info.width},
                       {"layers", info.layers}};
    bundle.config = config();
    bundle.tasks = Json::array();
    for (const TaskEntry& task : tasks_) bundle.tasks.push_back(to_json(task));
    bundle.metadata = metadata_;
    bundle.extra = extra_;
    std::vector<at::Tensor> in_host_memory;  // until the bundle is encoded
    for (const Parameter& p : method_->parameters()) {
        in_host_memory.push_back(on_host(p.value.detach()));
        const float* values = in_host_memory.back().const_data_ptr<float>();
        const auto count = static_cast<size_t>(p.value.numel());
        for (size_t i = 0; i < count; ++i)
            if (!std::isfinite(values[i]))
                throw Error(Code::numeric_error, text("'", p.name, "' holds ", values[i], ": not saved"),
                            p.name);
        StoredTensor tensor;
        tensor.name = p.name;
        tensor.shape = p.value.sizes().vec();
        tensor.data = std::as_bytes(std::span(values, count));
        bundle.tensors.push_back(std::move(tensor));
    }
    if (intuition_) {
        const at::Tensor& centroids = intuition_->centroids();
        StoredTensor tensor;
        tensor.name = centroids_name;
        tensor.shape = centroids.sizes().vec();
        tensor.data = std::as_bytes(
            std::span(centroids.const_data_ptr<float>(), static_cast<size_t>(centroids.numel())));
        bundle.tensors.push_back(std::move(tensor));
    }
    return encode_bundle(bundle);
}

void Skillset::save(const std::filesystem::path& path) const {
    write_file_atomically(path, std::string_view(save_to_memory()));
}

std::shared_ptr<Skillset> Skillset::snapshot(const std::function<void()>& rest) const {
    std::shared_ptr<Skillset> copy = build(backbone_, tasks_, config(), Fill::uninitialised);
    const std::vector<Parameter>& from = method_->parameters();
    std::vector<Parameter>& to = copy->method_->parameters();
    POLYAD_CHECK(from.size() == to.size());
    for (size_t i = 0; i < from.size(); ++i) {
        to[i].value.detach().copy_(from[i].value.detach());
        if (rest) rest();
    }
    copy->method_->parameters_changed();
    copy->intuition_ = intuition_;
    copy->metadata_ = metadata_;
    copy->extra_ = extra_;
    return copy;
}

int Skillset::task_index(std::string_view name) const {
    for (size_t i = 0; i < tasks_.size(); ++i)
        if (tasks_[i].name == name) return static_cast<int>(i);
    std::vector<std::pair<size_t, std::string>> near;
    for (const TaskEntry& task : tasks_)
        near.emplace_back(
            distance(name.substr(0, longest_name), std::string_view(task.name).substr(0, longest_name)),
            task.name);
    std::sort(near.begin(), near.end());
    std::string names;
    for (size_t i = 0; i < near.size() && i < 3; ++i) names += (i ? ", '" : "'") + near[i].second + "'";
    throw Error(Code::unknown_task,
                text("unknown_task: no task '", name, "' among ", tasks_.size(),
                     near.empty() ? "" : "; nearest: ", names),
                std::string(name));
}

void Skillset::check_new_name(const std::string& name) const {
    if (name.empty() || name.size() > longest_name)
        fail(Code::invalid_argument, "a task's name has 1 to ", longest_name, " bytes, got ", name.size());
    for (const TaskEntry& task : tasks_)
        if (task.name == name) fail(Code::invalid_argument, "there is a task '", name, "' already");
}

void Skillset::trim(TaskEntry& entry) const {
    const auto shown = static_cast<size_t>(prompts_->format().positive_examples);
    if (entry.positive_examples.size() > shown) entry.positive_examples.resize(shown);
}

int Skillset::add_task(const Task& task, const std::string& start, uint64_t seed) {
    check_new_name(task.name);
    TaskEntry entry = TaskEntry::from(task);
    trim(entry);
    Generator noise = named_generator(seed, task.name);
    method_->add_described_task(entry.instruction, start, noise);
    tasks_.push_back(std::move(entry));
    return static_cast<int>(tasks_.size()) - 1;
}

Json Skillset::config() const {
    Json out = method_->config();
    out["target_modules"] = target_modules_;
    out["seed"] = seed_;
    out["prompt"] = prompts_->format().to_json();
    if (intuition_) out["intuition"] = intuition_->config().to_json();
    return out;
}

std::vector<float> Skillset::intuition_of(std::string_view instruction, std::string_view input) const {
    return intuition_ ? intuition_->scores(Intuition::text_of(instruction, input)) : std::vector<float>();
}

std::vector<float> Skillset::intuition_of(const std::vector<int32_t>& prompt) const {
    if (!intuition_) return {};
    if (!backbone_->tokenizer())
        fail(Code::unsupported,
             "this backbone came without a tokenizer, so a prompt of ids has no text to score: give the "
             "request's intuition");
    return intuition_->scores(backbone_->tokenizer()->decode(prompt, true));
}

void Skillset::set_encoder(std::shared_ptr<const Backbone> encoder) {
    if (!intuition_) fail(Code::wrong_state, "this skillset has no intuition, so it needs no encoder");
    intuition_->set_encoder(std::move(encoder));
}

}  // namespace polyad
