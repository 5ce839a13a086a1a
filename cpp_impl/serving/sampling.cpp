// SPDX-License-Identifier: Apache-2.0
#include "serving/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"

namespace polyad {
namespace {

struct Candidate {
    float logit;
    int32_t id;
};

bool before(const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

void penalise(std::vector<float>& logits, float penalty, std::span<const int32_t> prompt,
              std::span<const int32_t> answer) {
    std::vector<int32_t> seen(prompt.begin(), prompt.end());
    seen.insert(seen.end(), answer.begin(), answer.end());
    std::sort(seen.begin(), seen.end());
    seen.erase(std::unique(seen.begin(), seen.end()), seen.end());
    for (const int32_t id : seen) {
        if (id < 0 || static_cast<size_t>(id) >= logits.size()) continue;
        float& logit = logits[static_cast<size_t>(id)];
        logit = logit > 0 ? logit / penalty : logit * penalty;
    }
}

/// The first of the largest. Compared by blocks, which compilers make vector instructions of: a vocabulary is
/// long, and a new largest is rare.
int32_t largest(std::span<const float> logits) {
    constexpr size_t block = 64;
    size_t best = 0;
    for (size_t begin = 0; begin < logits.size(); begin += block) {
        const std::span<const float> part = logits.subspan(begin, std::min(block, logits.size() - begin));
        const float top = logits[best];
        unsigned larger = 0;
        for (const float logit : part) larger |= static_cast<unsigned>(logit > top);
        if (!larger) continue;
        for (size_t i = begin; i < begin + part.size(); ++i)
            if (logits[i] > logits[best]) best = i;
    }
    return static_cast<int32_t>(best);
}

/// Smallest set of the likeliest candidates that holds `top_p` of the probability; `candidates` come sorted.
size_t nucleus(const std::vector<double>& weight, double total, double top_p) {
    double sum = 0.0;
    for (size_t i = 0; i < weight.size(); ++i) {
        sum += weight[i];
        if (sum >= top_p * total) return i + 1;
    }
    return weight.size();
}

}  // namespace

void SamplingOptions::check() const {
    const auto refuse = [](const char* key, const auto& got, const char* allowed) {
        throw Error(Code::invalid_argument, text(key, ": ", got, " is out of range, allowed: ", allowed),
                    key);
    };
    if (max_tokens < 1) refuse("max_tokens", max_tokens, "1 or more");
    if (!(temperature >= 0.0f && temperature <= 100.0f))
        refuse("temperature", temperature, "0 (greedy) to 100");
    if (top_k < 0) refuse("top_k", top_k, "0 (off) or more");
    if (!(top_p > 0.0f && top_p <= 1.0f)) refuse("top_p", top_p, "above 0, up to 1 (off)");
    if (!(repetition_penalty > 0.0f && repetition_penalty <= 100.0f))
        refuse("repetition_penalty", repetition_penalty, "above 0 (1 = off), up to 100");
    for (const std::string& one : stop)
        if (one.empty()) refuse("stop", "an empty string", "strings of at least one character");
}

int32_t pick_token(std::span<const float> given, const SamplingOptions& options,
                   std::span<const int32_t> prompt, std::span<const int32_t> answer, Generator& random) {
    constexpr float infinity = std::numeric_limits<float>::infinity();
    unsigned bad = 0, any = 0;
    for (const float logit : given) {
        bad |= static_cast<unsigned>(!(logit < infinity));  // NaN too
        any |= static_cast<unsigned>(logit > -infinity);
    }
    if (bad) fail(Code::numeric_error, "the model's logits are not finite numbers");
    if (!any) fail(Code::numeric_error, "the model's logits leave no token to choose");

    std::vector<float> penalised;
    if (options.repetition_penalty != 1.0f) {
        penalised.assign(given.begin(), given.end());
        penalise(penalised, options.repetition_penalty, prompt, answer);
        given = penalised;
    }
    if (options.temperature == 0.0f) return largest(given);

    std::vector<Candidate> candidates(given.size());
    for (size_t i = 0; i < given.size(); ++i)
        candidates[i] = {given[i] / options.temperature, static_cast<int32_t>(i)};
    const bool few = options.top_k > 0 && static_cast<size_t>(options.top_k) < candidates.size();
    if (few) {
        std::nth_element(candidates.begin(), candidates.begin() + options.top_k - 1, candidates.end(),
                         before);
        candidates.resize(static_cast<size_t>(options.top_k));
    }
    if (few || options.top_p < 1.0f) std::sort(candidates.begin(), candidates.end(), before);

    const float top = std::max_element(candidates.begin(), candidates.end(), [](auto& a, auto& b) {
                          return a.logit < b.logit;
                      })->logit;
    std::vector<double> weight(candidates.size());
    double total = 0.0;
    for (size_t i = 0; i < weight.size(); ++i)
        total += weight[i] = std::exp(static_cast<double>(candidates[i].logit) - top);
    if (options.top_p < 1.0f) {
        weight.resize(nucleus(weight, total, options.top_p));
        total = 0.0;
        for (const double w : weight) total += w;
    }
    double draw = static_cast<double>(random.uniform()) * total;
    size_t last = 0;
    for (size_t i = 0; i < weight.size(); ++i) {
        if (weight[i] == 0.0) continue;
        last = i;  // rounding may leave a rest of `draw` at the end
        if ((draw -= weight[i]) < 0.0) break;
    }
    return candidates[last].id;
}

}  // namespace polyad
