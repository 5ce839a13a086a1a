// SPDX-License-Identifier: Apache-2.0
#include "report.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace polyad::parity {

void Report::result(const std::string& what, bool ok, const std::string& detail) {
    (ok ? passed_ : failed_)++;
    std::printf("%s %s %s: %s\n", ok ? "ok  " : "FAIL", model_.c_str(), what.c_str(), detail.c_str());
}

void Report::compare(const std::string& what, const at::Tensor& actual, const at::Tensor& expected,
                     Tolerance tolerance) {
    const at::Tensor a = actual.detach().to(at::kCPU, at::kFloat).contiguous(),
                     b = expected.detach().to(at::kCPU, at::kFloat).contiguous();
    if (a.numel() != b.numel())
        return result(what, false, text("has ", a.numel(), " values, ", b.numel(), " expected"));
    const float* pa = a.data_ptr<float>();
    const float* pb = b.data_ptr<float>();
    double largest = 0, worst = 0, excess = -1e300, dot = 0, aa = 0, bb = 0;
    for (int64_t i = 0; i < a.numel(); ++i)
        largest = std::max(largest, std::fabs(static_cast<double>(pb[i])));
    bool finite = true;
    for (int64_t i = 0; i < a.numel(); ++i) {
        const double x = pa[i], y = pb[i], difference = std::fabs(x - y);
        finite = finite && std::isfinite(x);
        worst = std::max(worst, difference);
        excess = std::max(excess, difference - tolerance.absolute -
                                      tolerance.relative * (tolerance.of_largest ? largest : std::fabs(y)));
        dot += x * y;
        aa += x * x;
        bb += y * y;
    }
    const double cosine = aa > 0 && bb > 0 ? dot / std::sqrt(aa * bb) : (aa == bb ? 1.0 : 0.0);
    const bool ok = finite && (bf16_ ? cosine >= tolerance.cosine : excess <= 0);
    result(what, ok, text("max abs diff ", worst, ", cosine ", cosine, ", largest ", largest));
}

void Report::compare_value(const std::string& what, double actual, double expected, double absolute) {
    const double bound = bf16_ ? 0.05 + 0.02 * std::fabs(expected) : absolute;
    const bool ok = std::fabs(actual - expected) <= bound;
    result(what, ok, text(actual, " against ", expected, ", tolerance ", bound));
}

void Report::compare_tokens(const std::string& what, const std::vector<int32_t>& actual,
                            const std::vector<int32_t>& expected) {
    size_t same = 0;
    while (same < std::min(actual.size(), expected.size()) && actual[same] == expected[same]) ++same;
    const bool ok = actual == expected;
    result(what, ok, ok ? text(same, " tokens") : text("differs from token ", same, " of ", expected.size()));
}

at::Tensor tensor_of(const StoredTensor& stored) {
    at::Tensor out = at::empty(stored.shape, at::TensorOptions().dtype(at::kFloat));
    to_float(stored, out.data_ptr<float>());
    return out;
}

std::vector<int32_t> ids_of(const StoredTensor& stored) {
    const std::vector<int64_t> wide = to_int64(stored);
    return {wide.begin(), wide.end()};
}

Batch ragged(const std::vector<std::vector<int32_t>>& rows) {
    Batch batch;
    batch.row_begin.push_back(0);
    for (const auto& row : rows) {
        batch.tokens.insert(batch.tokens.end(), row.begin(), row.end());
        batch.row_begin.push_back(batch.size());
        batch.prompt_length.push_back(static_cast<int32_t>(row.size()));
    }
    return batch;
}

std::vector<std::vector<int32_t>> greedy(const Backbone& backbone,
                                         const std::vector<std::vector<int32_t>>& prompts, int steps,
                                         int32_t eos, int32_t pad) {
    at::NoGradGuard no_grad;
    const bool encodes = backbone.info().encoder_decoder;
    size_t longest = 0;
    if (!encodes)
        for (const auto& prompt : prompts) longest = std::max(longest, prompt.size());
    const auto cache =
        backbone.make_cache(static_cast<int>(prompts.size()), static_cast<int>(longest) + steps);
    std::vector<std::vector<int32_t>> out(prompts.size());
    std::vector<std::vector<int32_t>> next = prompts;
    if (encodes) next.assign(prompts.size(), {backbone.info().decoder_start});
    std::vector<int> live;
    for (size_t b = 0; b < prompts.size(); ++b) live.push_back(static_cast<int>(b));
    for (int step = 0; step < steps && !live.empty(); ++step) {
        std::vector<std::vector<int32_t>> rows;
        for (const int b : live) rows.push_back(next[static_cast<size_t>(b)]);
        Batch batch = ragged(rows);
        if (encodes && step == 0) {
            const Batch sources = ragged(prompts);
            batch.source = sources.tokens;
            batch.source_begin = sources.row_begin;
        }
        ForwardOptions options;
        options.cache = cache.get();
        options.slots = live;
        const at::Tensor hidden = backbone.hidden(batch, options);
        std::vector<int> staying;
        for (size_t i = 0; i < live.size(); ++i) {
            const at::Tensor last = hidden.narrow(0, batch.row_begin[i + 1] - 1, 1);
            const auto token = static_cast<int32_t>(backbone.logits(last).argmax().item<int64_t>());
            const auto b = static_cast<size_t>(live[i]);
            out[b].push_back(token);
            next[b] = {token};
            if (token != eos) staying.push_back(live[i]);
        }
        live = staying;
    }
    for (auto& row : out) row.resize(static_cast<size_t>(steps), pad);
    return out;
}

}  // namespace polyad::parity
