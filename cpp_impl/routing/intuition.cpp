// SPDX-License-Identifier: Apache-2.0
#include "routing/intuition.h"

#include <ATen/TensorOperators.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <span>

#include "base/error.h"
#include "io/hash.h"
#include "skills/start.h"

namespace polyad {
namespace {

/// Texts whose scores are kept: more than most training sets have, few MiB.
constexpr size_t most_kept = 65536;

/// Encoders in use, by path: skillsets of one encoder share it.
std::shared_ptr<const Backbone> open_encoder(const std::string& path) {
    static std::mutex mutex;
    static std::map<std::string, std::weak_ptr<const Backbone>> opened;
    const std::lock_guard lock(mutex);
    std::weak_ptr<const Backbone>& known = opened[path];
    if (auto encoder = known.lock()) return encoder;
    BackboneOptions options;
    options.precision = Precision::fp32;  // the same scores on every machine
    auto encoder = Backbone::open(std::filesystem::path(path), options);
    known = encoder;
    return encoder;
}

std::string key_of(const std::string& text) {
    return hash128(std::as_bytes(std::span(text.data(), text.size()))).hex();
}

struct Instance {
    const Task* task;
    const Example* example;
};

/// Training instances, one of every task, then another of every task, ..., each task's in random order.
std::vector<Instance> pick_instances(const std::vector<Task>& tasks, int64_t most, uint64_t seed) {
    std::vector<std::vector<uint32_t>> order;
    size_t longest = 0;
    for (const Task& task : tasks) {
        Generator random = named_generator(seed, "intuition.instances/" + task.name);
        const auto count = static_cast<uint32_t>(task.examples(Split::train).size());
        order.push_back(random.permutation(count));
        longest = std::max<size_t>(longest, count);
    }
    std::vector<Instance> out;
    for (size_t i = 0; i < longest; ++i)
        for (size_t t = 0; t < tasks.size(); ++t) {
            if (most > 0 && static_cast<int64_t>(out.size()) >= most) return out;
            if (i < order[t].size())
                out.push_back({&tasks[t], &tasks[t].examples(Split::train)[order[t][i]]});
        }
    return out;
}

std::vector<float> values_of(const at::Tensor& row) {
    const at::Tensor values = row.contiguous();
    return {values.const_data_ptr<float>(), values.const_data_ptr<float>() + values.numel()};
}

}  // namespace

IntuitionConfig IntuitionConfig::from_json(const Json& object, int experts) {
    ConfigReader read(object, "intuition");
    IntuitionConfig out;
    out.encoder = read.string("encoder", "");
    out.fingerprint = read.string("encoder_fingerprint", "");
    out.width = read.integer("width", 0, 0, 1 << 20);
    out.clusters = static_cast<int>(read.integer("clusters", experts, 1, 1 << 20));
    if (out.clusters != experts)
        read.refuse("clusters", text(out.clusters, " clusters for ", experts,
                                     " experts: cluster k speaks for expert k, so there must be as many"));
    out.spherical =
        read.choice("cluster", "spherical_kmeans", {"spherical_kmeans", "kmeans"}) != std::string("kmeans");
    out.normalize_centroids = read.boolean("normalize_centroids", true);
    out.max_tokens = static_cast<int>(read.integer("max_tokens", out.max_tokens, 2, 1 << 20));
    out.max_instances = read.integer("max_instances", out.max_instances, 0, INT64_MAX);
    read.finish();
    return out;
}

Json IntuitionConfig::to_json() const {
    return {{"encoder", encoder},
            {"encoder_fingerprint", fingerprint},
            {"width", width},
            {"clusters", clusters},
            {"cluster", spherical ? "spherical_kmeans" : "kmeans"},
            {"normalize_centroids", normalize_centroids},
            {"max_tokens", max_tokens},
            {"max_instances", max_instances}};
}

std::string Intuition::text_of(std::string_view instruction, std::string_view input) {
    std::string out(instruction);
    if (!instruction.empty() && !input.empty()) out += "\n";
    return out.append(input);
}

Intuition::Intuition(IntuitionConfig config, at::Tensor centroids)
    : config_(std::move(config)), centroids_(centroids.contiguous()) {
    if (centroids_.dim() != 2 || centroids_.size(0) != config_.clusters ||
        centroids_.size(1) != config_.width || centroids_.scalar_type() != at::kFloat)
        fail(Code::invalid_argument, "intuition: centroids have shape ", centroids_.sizes(), ", need [",
             config_.clusters, ", ", config_.width, "]");
    const float* value = centroids_.const_data_ptr<float>();
    for (int64_t i = 0; i < centroids_.numel(); ++i)
        if (!std::isfinite(value[i]))
            fail(Code::invalid_argument, "intuition: centroid ", i / config_.width, " holds ", value[i],
                 " at position ", i % config_.width, ", not a finite number");
}

std::shared_ptr<Intuition> Intuition::learn(IntuitionConfig config, const std::vector<Task>& tasks,
                                            uint64_t seed, std::shared_ptr<const Backbone> encoder) {
    const std::vector<Instance> instances = pick_instances(tasks, config.max_instances, seed);
    if (static_cast<int64_t>(instances.size()) < config.clusters)
        throw Error(Code::invalid_config,
                    text("intuition.clusters: ", config.clusters,
                         " clusters need at least as many training instances, there are ", instances.size()),
                    "intuition.clusters");
    if (!encoder) {
        if (config.encoder.empty())
            throw Error(Code::invalid_config,
                        "intuition.encoder: name the folder of a sentence encoder (BERT), for example "
                        "all-MiniLM-L6-v2",
                        "intuition.encoder");
        encoder = open_encoder(config.encoder);
    }
    auto sentences = std::make_unique<const SentenceEncoder>(encoder, config.max_tokens);
    const BackboneInfo& info = encoder->info();
    if (!config.fingerprint.empty() && config.fingerprint != info.fingerprint)
        throw Error(Code::backbone_mismatch,
                    text("intuition.encoder_fingerprint: wants ", config.fingerprint, ", encoder '",
                         info.name, "' has ", info.fingerprint),
                    "intuition.encoder_fingerprint");
    config.fingerprint = info.fingerprint;
    config.width = info.width;

    std::vector<std::string> texts;
    for (const Instance& instance : instances)
        texts.push_back(text_of(instance.task->instruction, instance.example->input));
    const at::Tensor embeddings = sentences->embed(texts);
    Generator random = named_generator(seed, "intuition.centroids");
    auto out = std::make_shared<Intuition>(
        config, find_centroids(embeddings, config.clusters, config.spherical, random, encoder->device()));
    Json clusters = Json::array();
    for (int k = 0; k < config.clusters; ++k) clusters.push_back({{"size", 0}, {"tasks", Json::object()}});
    for (size_t i = 0; i < instances.size(); ++i) {
        const auto row = static_cast<int64_t>(i);
        const ClusterScores found = out->score(embeddings.narrow(0, row, 1));
        Json& cluster = clusters[static_cast<size_t>(found.cluster[0])];
        cluster["size"] = cluster["size"].get<int64_t>() + 1;
        Json& of_task = cluster["tasks"][instances[i].task->name];
        of_task = of_task.is_null() ? 1 : of_task.get<int64_t>() + 1;
        if (out->kept_.size() < most_kept) out->kept_.emplace(key_of(texts[i]), values_of(found.scores));
    }
    out->summary_ = {{"instances", instances.size()}, {"clusters", std::move(clusters)}};
    out->encoder_ = std::move(sentences);
    return out;
}

void Intuition::check(const Backbone& encoder) const {
    const BackboneInfo& info = encoder.info();
    if (info.fingerprint == config_.fingerprint) return;
    throw Error(
        Code::backbone_mismatch,
        text("clusters from another encoder: they were made with '", config_.encoder, "' (fingerprint ",
             config_.fingerprint, "), this one is '", info.name, "' (fingerprint ", info.fingerprint, ")"),
        "intuition.encoder");
}

void Intuition::set_encoder(std::shared_ptr<const Backbone> encoder) {
    if (!encoder) fail(Code::invalid_argument, "the sentence encoder is null");
    check(*encoder);
    auto made = std::make_unique<const SentenceEncoder>(std::move(encoder), config_.max_tokens);
    const std::lock_guard lock(mutex_);
    if (!encoder_) encoder_ = std::move(made);  // one of the same fingerprint gives the same scores
}

std::shared_ptr<const Backbone> Intuition::opened() const {
    const std::lock_guard lock(mutex_);
    return encoder_ ? encoder_->backbone() : nullptr;
}

const SentenceEncoder& Intuition::encoder() const {
    const std::lock_guard lock(mutex_);
    if (encoder_) return *encoder_;
    if (config_.encoder.empty())
        throw Error(Code::wrong_state,
                    text("the intuition needs its sentence encoder (fingerprint ", config_.fingerprint,
                         "): set it, or give the request's intuition"),
                    "intuition.encoder");
    std::shared_ptr<const Backbone> opened;
    try {
        opened = open_encoder(config_.encoder);
    } catch (const Error& e) {
        throw Error(e.code(),
                    text("the intuition's sentence encoder does not open (set it, or give the request's "
                         "intuition): ",
                         e.what()),
                    "intuition.encoder");
    }
    check(*opened);
    encoder_ = std::make_unique<const SentenceEncoder>(std::move(opened), config_.max_tokens);
    return *encoder_;
}

ClusterScores Intuition::score(const at::Tensor& embeddings) const {
    return cluster_scores(embeddings, centroids_, true, config_.normalize_centroids);
}

std::vector<float> Intuition::scores(const std::string& text) const {
    const std::string key = key_of(text);
    {
        const std::lock_guard lock(mutex_);
        if (const auto known = kept_.find(key); known != kept_.end()) return known->second;
    }
    std::vector<float> out = values_of(score(encoder().embed({text})).scores);
    const std::lock_guard lock(mutex_);
    if (kept_.size() >= most_kept) kept_.clear();
    kept_.emplace(key, out);
    return out;
}

}  // namespace polyad
