// SPDX-License-Identifier: Apache-2.0
#include "training/packed_forward.h"

#include <algorithm>

#include "backbone/device.h"
#include "data/shared_prefix.h"
#include "routing/clusters.h"

namespace polyad {
namespace {

/// Equal numbers for rows whose tokens see the same mixture as long as they are the same.
std::vector<int> mixtures(const std::vector<TrainingRow>& rows, Sharing sharing) {
    std::vector<int> out;
    for (size_t i = 0; i < rows.size(); ++i) {
        const auto same = [&](const TrainingRow& other) {
            return (sharing == Sharing::all || other.task == rows[i].task) &&
                   other.intuition == rows[i].intuition;
        };
        out.push_back(static_cast<int>(std::find_if(rows.begin(), rows.end(), same) - rows.begin()));
    }
    return out;
}

}  // namespace

PackedForward::PackedForward(const Backbone& backbone, const Method& method,
                             const std::vector<TrainingRow>& rows, Mode mode, Generator* noise, bool share) {
    std::vector<const EncodedExample*> examples;
    std::vector<int> row_of;  // which of `rows` a row of the batch stands for
    for (const TrainingRow& row : rows) {
        examples.push_back(row.example.get());
        row_of.push_back(static_cast<int>(row_of.size()));
    }
    const Sharing sharing = method.sharing(mode);
    if (share && sharing != Sharing::none && backbone.shares_beginnings()) {
        SharedBatch shared = pack_shared(examples, mixtures(rows, sharing));
        batch = std::move(shared.batch);
        row_of = std::move(shared.example);
    } else {
        batch = pack(examples, backbone.info().decoder_start);
    }
    std::vector<const std::vector<float>*> intuition;
    for (const int r : row_of) {
        route.task_ids.push_back(rows[static_cast<size_t>(r)].task);
        intuition.push_back(&rows[static_cast<size_t>(r)].intuition);
    }
    route.row_begin = batch.row_begin;
    route.source_begin = batch.source_begin;
    route.prompt_length = batch.prompt_length;
    route.intuition = intuition_rows(intuition);
    route.mode = mode;
    route.noise = noise;
    for (int b = 0; b < batch.rows(); ++b)
        for (int32_t n = batch.row_begin[static_cast<size_t>(b)];
             n < batch.row_begin[static_cast<size_t>(b) + 1]; ++n)
            if (const int32_t target = batch.targets[static_cast<size_t>(n)]; target >= 0) {
                positions.push_back(n);
                targets.push_back(target);
                row_of_target.push_back(row_of[static_cast<size_t>(b)]);
            }
}

at::Tensor PackedForward::answer_nll(const Backbone& backbone, Adaptation& adaptation,
                                     double label_smoothing) const {
    ForwardOptions options;
    options.adaptation = &adaptation;
    options.activation_bytes = activation_bytes;
    const at::Tensor hidden = backbone.hidden(batch, options);
    const at::Tensor answers = hidden.index_select(0, device_list(positions, hidden.device()));
    return backbone.token_nll(answers, targets, label_smoothing);
}

}  // namespace polyad
