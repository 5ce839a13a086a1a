// SPDX-License-Identifier: Apache-2.0
#include "serving/mixed_adaptation.h"

#include <ATen/ops/zeros.h>

#include <iterator>

#include "base/error.h"

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

MixedAdaptation::MixedAdaptation(const std::vector<RowRoute>& rows, const RowBegin& row_begin)
    : rows_(static_cast<int>(rows.size())), tokens_(row_begin.empty() ? 0 : row_begin.back()) {
    POLYAD_CHECK(rows.size() + 1 == row_begin.size());
    std::vector<const Skillset*> seen;
    for (size_t begin = 0, end = 0; begin < rows.size(); begin = end) {
        const Skillset* skillset = rows[begin].skillset;
        while (end < rows.size() && rows[end].skillset == skillset) ++end;
        for (const Skillset* other : seen) POLYAD_CHECK(other != skillset);
        seen.push_back(skillset);
        if (!skillset) continue;

        RouteInput input;
        Part part;
        part.first_row = static_cast<int>(begin);
        part.rows = static_cast<int>(end - begin);
        part.first_token = row_begin[begin];
        part.tokens = row_begin[end] - row_begin[begin];
        input.row_begin.push_back(0);
        bool explicit_weights = false;
        for (size_t b = begin; b < end; ++b) {
            input.row_begin.push_back(row_begin[b + 1] - row_begin[begin]);
            input.prompt_length.push_back(rows[b].prompt_tokens);
            input.task_ids.push_back(rows[b].task);
            input.weights.push_back(rows[b].weights);
            explicit_weights |= !rows[b].weights.empty();
        }
        if (!explicit_weights) input.weights.clear();
        part.adaptation = skillset->method().adapt(input);
        parts_.push_back(std::move(part));
    }
}

std::vector<LowRank> MixedAdaptation::at(const Site& site, const at::Tensor& x) {
    std::vector<LowRank> out;
    for (Part& part : parts_) {
        const bool whole = part.rows == rows_;
        std::vector<LowRank> updates =
            part.adaptation->at(site, whole ? x : x.narrow(0, part.first_token, part.tokens));
        if (!whole) {
            for (LowRank& update : updates) {
                std::vector<int32_t> groups(static_cast<size_t>(rows_), -1);
                for (int b = 0; b < part.rows; ++b)
                    groups[static_cast<size_t>(part.first_row + b)] =
                        update.group_of_row.empty() ? 0 : update.group_of_row[static_cast<size_t>(b)];
                update.group_of_row = std::move(groups);
                if (update.gate.defined())
                    update.gate = update.gate_per_token ? widen(update.gate, tokens_, part.first_token)
                                                        : widen(update.gate, rows_, part.first_row);
                if (update.input.defined()) update.input = widen(update.input, tokens_, part.first_token);
            }
        }
        out.insert(out.end(), std::make_move_iterator(updates.begin()),
                   std::make_move_iterator(updates.end()));
    }
    return out;
}

}  // namespace polyad
