// SPDX-License-Identifier: Apache-2.0
#include "data/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "base/random.h"

namespace polyad {
namespace {

enum class Purpose : uint64_t { schedule = 1, order = 2, output = 3 };

uint64_t mix(uint64_t x) {  // splitmix64's finaliser
    x += 0x9E3779B97F4A7C15ull;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
}

/// Every use draws from a stream of its own, so that none depends on how far another has come.
Generator generator(uint64_t seed, Purpose purpose, uint64_t a, uint64_t b = 0) {
    return Generator(seed, mix(mix(mix(static_cast<uint64_t>(purpose)) ^ a) ^ b));
}

/// Whole numbers with the same sum as `total`, nearest to total * weight / sum(weight) (largest remainder).
std::vector<int64_t> apportion(const std::vector<double>& weights, int64_t total) {
    const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
    std::vector<int64_t> out(weights.size());
    std::vector<std::pair<double, size_t>> rest;
    int64_t left = total;
    for (size_t i = 0; i < weights.size(); ++i) {
        if (weights[i] == 0.0) continue;
        const double exact = static_cast<double>(total) * weights[i] / sum;
        out[i] = static_cast<int64_t>(std::floor(exact));
        left -= out[i];
        rest.emplace_back(out[i] - exact, i);  // most negative first; ties by index
    }
    std::sort(rest.begin(), rest.end());
    for (size_t k = 0; left > 0; --left, k = (k + 1) % rest.size()) ++out[rest[k].second];
    return out;
}

const char* strategy_name(SamplingStrategy strategy) {
    static constexpr const char* names[] = {"uniform", "proportional", "temperature"};
    return names[static_cast<int>(strategy)];
}

}  // namespace

SamplerOptions SamplerOptions::from_json(const Json& object) {
    ConfigReader read(object, "sampling");
    SamplerOptions out;
    const std::string name =
        read.choice("strategy", "proportional", {"uniform", "proportional", "temperature"});
    out.strategy = name == "uniform"        ? SamplingStrategy::uniform
                   : name == "proportional" ? SamplingStrategy::proportional
                                            : SamplingStrategy::temperature;
    out.temperature = read.number("temperature", out.temperature, 1.0, 1e6);
    out.seed = static_cast<uint64_t>(read.integer("seed", 0, 0, INT64_MAX));
    read.finish();
    return out;
}

Json SamplerOptions::to_json() const {
    return {{"strategy", strategy_name(strategy)}, {"temperature", temperature}, {"seed", seed}};
}

Json Sampler::State::to_json() const {
    return {{"seed", seed}, {"drawn", drawn}, {"fingerprint", fingerprint}};
}

Sampler::State Sampler::State::from_json(const Json& object) {
    const auto number = [&](const char* key) {
        if (!object.is_object() || !object.contains(key) || !object[key].is_number_integer())
            fail(Code::bad_format, "the sampler's state has no whole number \"", key, "\"");
        return object[key].get<uint64_t>();
    };
    State out;
    out.seed = number("seed");
    out.drawn = static_cast<int64_t>(number("drawn"));
    out.fingerprint = number("fingerprint");
    if (out.drawn < 0) fail(Code::bad_format, "the sampler's state has a negative \"drawn\"");
    return out;
}

Sampler::Sampler(const std::vector<Task>& tasks, Split split, const SamplerOptions& options)
    : tasks_(&tasks), split_(split), options_(options) {
    std::vector<double> weights;
    fingerprint_ = mix(static_cast<uint64_t>(options.strategy));
    if (options.strategy == SamplingStrategy::temperature)
        fingerprint_ = mix(fingerprint_ ^ static_cast<uint64_t>(std::llround(options.temperature * 1e6)));
    for (const Task& task : tasks) {
        const size_t n = task.examples(split).size();
        epoch_size_ += static_cast<int64_t>(n);
        const double size = static_cast<double>(n);
        weights.push_back(n == 0                                          ? 0.0
                          : options.strategy == SamplingStrategy::uniform ? 1.0
                          : options.strategy == SamplingStrategy::proportional
                              ? size
                              : std::pow(size, 1.0 / options.temperature));
        for (const char c : task.name) fingerprint_ = mix(fingerprint_ ^ static_cast<unsigned char>(c));
        fingerprint_ = mix(fingerprint_ ^ n);
    }
    if (epoch_size_ == 0) fail(Code::bad_data, "no task has an example in the ", split_name(split), " split");
    if (epoch_size_ > INT32_MAX) fail(Code::unsupported, "more than ", INT32_MAX, " examples in one split");
    quotas_ = apportion(weights, epoch_size_);
    consumed_.assign(tasks.size(), 0);
    pass_.assign(tasks.size(), -1);
    order_.resize(tasks.size());
}

void Sampler::prepare(int64_t epoch) {
    schedule_.clear();
    for (size_t t = 0; t < quotas_.size(); ++t)
        schedule_.insert(schedule_.end(), static_cast<size_t>(quotas_[t]), static_cast<int32_t>(t));
    Generator draw = generator(options_.seed, Purpose::schedule, static_cast<uint64_t>(epoch));
    for (size_t i = schedule_.size(); i > 1; --i) std::swap(schedule_[i - 1], schedule_[draw.below(i)]);
    prepared_epoch_ = epoch;
}

Draw Sampler::next() {
    if (prepared_epoch_ != epoch()) prepare(epoch());
    const int task = schedule_[static_cast<size_t>(position())];
    const auto t = static_cast<size_t>(task);
    const std::vector<Example>& examples = (*tasks_)[t].examples(split_);
    const auto size = static_cast<int64_t>(examples.size());
    const int64_t pass = consumed_[t] / size;
    if (pass_[t] != pass) {
        order_[t] = generator(options_.seed, Purpose::order, t, static_cast<uint64_t>(pass))
                        .permutation(static_cast<uint32_t>(size));
        pass_[t] = pass;
    }
    Draw out;
    out.task = task;
    out.example = static_cast<int>(order_[t][static_cast<size_t>(consumed_[t] % size)]);
    const size_t outputs = examples[static_cast<size_t>(out.example)].outputs.size();
    if (outputs > 1)
        out.output = static_cast<int>(
            generator(options_.seed, Purpose::output, static_cast<uint64_t>(drawn_)).below(outputs));
    ++consumed_[t];
    ++drawn_;
    return out;
}

std::vector<Draw> Sampler::next(int rows) {
    std::vector<Draw> out;
    for (int i = 0; i < rows; ++i) out.push_back(next());
    return out;
}

Sampler::State Sampler::state() const {
    return {options_.seed, drawn_, fingerprint_};
}

void Sampler::restore(const State& state) {
    if (state.fingerprint != fingerprint_)
        fail(Code::invalid_argument,
             "the saved position belongs to other data or another sampling strategy: "
             "task names, examples per task, or \"sampling\" changed");
    if (state.drawn < 0) fail(Code::invalid_argument, "the saved position is negative");
    options_.seed = state.seed;
    drawn_ = state.drawn;
    prepare(epoch());
    for (size_t t = 0; t < quotas_.size(); ++t) consumed_[t] = epoch() * quotas_[t];
    for (int64_t i = 0; i < position(); ++i)
        ++consumed_[static_cast<size_t>(schedule_[static_cast<size_t>(i)])];
    std::fill(pass_.begin(), pass_.end(), -1);
}

}  // namespace polyad
