// SPDX-License-Identifier: Apache-2.0
#include "serving/mixed_adaptation.h"

#include <ATen/ops/zeros.h>

#include <iterator>

#include "base/error.h"
#include "routing/clusters.h"

namespace polyad {
namespace {

/// `part` [n, ...] as rows first.. of zeros [all, ...].
at::Tensor widen(const at::Tensor& part, int64_t all, int64_t first) {
    std::vector<int64_t> shape = part.sizes().vec();
    const int64_t n = shape[0];
    shape[0] = all;
    at::Tensor out = at::zeros(shape, part.options());
    out.narrow(0, first, n).copy_(part);
    return out;
}

}  // namespace

MixedAdaptation::MixedAdaptation(const std::vector<RowRoute>& rows, const Batch& batch)
    : rows_(static_cast<int>(rows.size())) {
    POLYAD_CHECK(rows.size() + 1 == batch.row_begin.size());
    const RowBegin* begins[2] = {&batch.row_begin, &batch.source_begin};
    for (int stream = 0; stream < 2; ++stream)
        total_[stream] = begins[stream]->empty() ? 0 : begins[stream]->back();
    std::vector<const Skillset*> seen;
    for (size_t begin = 0, end = 0; begin < rows.size(); begin = end) {
        const Skillset* skillset = rows[begin].skillset;
        if (rows[begin].lora) {
            loras_.resize(rows.size());
            loras_[begin] = rows[begin].lora;
            end = begin + 1;
            continue;
        }
        while (end < rows.size() && rows[end].skillset == skillset && !rows[end].lora) ++end;
        for (const Skillset* other : seen) POLYAD_CHECK(other != skillset);
        seen.push_back(skillset);
        if (!skillset) continue;

        RouteInput input;
        Part part;
        part.first_row = static_cast<int>(begin);
        part.rows = static_cast<int>(end - begin);
        RowBegin* own[2] = {&input.row_begin, &input.source_begin};
        for (int stream = 0; stream < 2; ++stream) {
            if (begins[stream]->empty()) continue;
            part.first[stream] = (*begins[stream])[begin];
            part.count[stream] = (*begins[stream])[end] - part.first[stream];
            for (size_t b = begin; b <= end; ++b)
                own[stream]->push_back((*begins[stream])[b] - (*begins[stream])[begin]);
        }
        bool explicit_weights = false;
        std::vector<const std::vector<float>*> intuition;
        for (size_t b = begin; b < end; ++b) {
            input.prompt_length.push_back(rows[b].prompt_tokens);
            input.task_ids.push_back(rows[b].task);
            input.weights.push_back(rows[b].weights ? *rows[b].weights : std::vector<float>());
            input.memory.push_back(rows[b].memory);
            intuition.push_back(rows[b].intuition);
            explicit_weights |= !input.weights.back().empty();
        }
        if (!explicit_weights) input.weights.clear();
        input.intuition = intuition_rows(intuition);
        POLYAD_CHECK(!skillset->method().exclusive() || part.rows == rows_);
        part.adaptation = skillset->method().adapt(input);
        parts_.push_back(std::move(part));
    }
    if (parts_.size() == 1 && parts_[0].rows == rows_) alone_ = parts_[0].adaptation.get();
}

std::vector<LowRank> MixedAdaptation::at(const Site& site, const at::Tensor& x) {
    if (alone_) return alone_->at(site, x);
    const auto stream = static_cast<int>(site.stream);
    std::vector<LowRank> out;
    if (!loras_.empty()) {
        const auto index = static_cast<size_t>(site.index);
        if (of_site_.size() <= index) of_site_.resize(index + 1);
        auto& pairs = of_site_[index];
        if (pairs.empty())
            for (const ResidentLora* lora : loras_)
                pairs.push_back(lora ? lora->at(site) : kernels::RowFactors{});
        out.emplace_back().of_row = pairs.data();
    }
    for (Part& part : parts_) {
        std::vector<LowRank> updates =
            part.adaptation->at(site, x.narrow(0, part.first[stream], part.count[stream]));
        for (LowRank& update : updates) {
            std::vector<int32_t> groups(static_cast<size_t>(rows_), -1);
            for (int b = 0; b < part.rows; ++b)
                groups[static_cast<size_t>(part.first_row + b)] =
                    update.group_of_row.empty() ? 0 : update.group_of_row[static_cast<size_t>(b)];
            update.group_of_row = std::move(groups);
            if (update.gate.defined())
                update.gate = update.gate_per_token ? widen(update.gate, total_[stream], part.first[stream])
                                                    : widen(update.gate, rows_, part.first_row);
            if (update.input.defined())
                update.input = widen(update.input, total_[stream], part.first[stream]);
        }
        out.insert(out.end(), std::make_move_iterator(updates.begin()),
                   std::make_move_iterator(updates.end()));
    }
    return out;
}

void MixedAdaptation::begin(const Backbone& backbone, const Batch& batch, const ForwardOptions& options) {
    if (alone_) alone_->begin(backbone, batch, options);
}

void MixedAdaptation::encoded(const at::Tensor& states) {
    const auto stream = static_cast<int>(Stream::source);
    for (Part& part : parts_)
        part.adaptation->encoded(alone_ ? states : states.narrow(0, part.first[stream], part.count[stream]));
}

std::vector<at::Tensor> MixedAdaptation::prefix() {
    return alone_ ? alone_->prefix() : std::vector<at::Tensor>();
}

at::Tensor MixedAdaptation::feed_forward(int layer, const at::Tensor& u, const at::Tensor& y) {
    return alone_ ? alone_->feed_forward(layer, u, y) : y;
}

at::Tensor MixedAdaptation::weight(const std::string& path) {
    return alone_ ? alone_->weight(path) : at::Tensor();
}

at::Tensor MixedAdaptation::output_scale(const Site& site) {
    return alone_ ? alone_->output_scale(site) : at::Tensor();
}

std::optional<Spread> MixedAdaptation::spread(int layer, const at::Tensor& h) {
    return alone_ ? alone_->spread(layer, h) : std::nullopt;
}

int MixedAdaptation::copies(int layer, const at::Tensor& x) {
    return alone_ ? alone_->copies(layer, x) : 0;
}

void MixedAdaptation::enter(int layer, int copy) {
    if (alone_) alone_->enter(layer, copy);
}

std::optional<std::vector<int64_t>> MixedAdaptation::copy_part(int layer, int copy) {
    return alone_ ? alone_->copy_part(layer, copy) : std::nullopt;
}

at::Tensor MixedAdaptation::join(int layer, const std::vector<at::Tensor>& outputs) {
    return alone_ ? alone_->join(layer, outputs) : outputs.front();
}

}  // namespace polyad
