// SPDX-License-Identifier: Apache-2.0
#include "training/packed_forward.h"

#include <algorithm>
#include <utility>

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

std::vector<const EncodedExample*> examples_of(const std::vector<TrainingRow>& rows) {
    std::vector<const EncodedExample*> out;
    for (const TrainingRow& row : rows) out.push_back(row.example.get());
    return out;
}

/// Bytes one token leaves for the backward pass: what every linear makes, and the attention's output.
int64_t bytes_per_token(const Backbone& backbone) {
    int64_t elements = backbone.info().layers * backbone.info().width;
    for (const Site& site : backbone.sites()) elements += site.d_out;
    return elements * static_cast<int64_t>(at::elementSize(backbone.compute_dtype()));
}

int64_t default_budget(const Backbone& backbone) {
    constexpr int64_t least = int64_t{64} << 20;
    const auto element = static_cast<int64_t>(at::elementSize(backbone.compute_dtype()));
    return std::max(least, backbone.info().parameters * element * 3 / 4);
}

/// How rows share beginnings in a training forward.
Sharing shared_in(const Backbone& backbone, const Method& method, Mode mode, bool share) {
    return share && backbone.shares_beginnings() ? method.sharing(mode) : Sharing::none;
}

}  // namespace

ForwardPlan plan_forwards(const Backbone& backbone, const Method& method,
                          const std::vector<TrainingRow>& rows, bool share, int64_t activation_bytes) {
    const bool apart = method.sharing(Mode::train) != Sharing::none ||
                       (method.needs_task() && method.sharing(Mode::eval) != Sharing::none);
    if (!apart || method.whole_batch() || !backbone.device().is_cpu() || backbone.info().encoder_decoder)
        return {{rows}, activation_bytes};
    const int64_t budget = activation_bytes > 0 ? activation_bytes : default_budget(backbone);
    int64_t whole = 0;
    for (const TrainingRow& row : rows) whole += row.tokens();
    int64_t computed = whole;
    std::vector<size_t> order;
    for (size_t i = 0; i < rows.size(); ++i) order.push_back(i);
    if (const Sharing sharing = shared_in(backbone, method, Mode::train, share); sharing != Sharing::none) {
        const std::vector<int> mixture = mixtures(rows, sharing);
        computed = pack_shared(examples_of(rows), mixture).batch.size();
        std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
            return std::pair(mixture[a], rows[a].task) < std::pair(mixture[b], rows[b].task);
        });
    }
    const int64_t bytes = computed * bytes_per_token(backbone),
                  most = budget + backbone.spared_bytes(computed);
    if (bytes <= most) return {{rows}, budget};
    const int64_t count = std::min<int64_t>((bytes + budget - 1) / budget, static_cast<int64_t>(rows.size()));
    std::vector<std::vector<TrainingRow>> parts(static_cast<size_t>(count));
    int64_t before = 0;
    for (const size_t i : order) {  // to the part its middle falls into
        const int64_t middle = before + rows[i].tokens() / 2;
        parts[static_cast<size_t>(middle * count / whole)].push_back(rows[i]);
        before += rows[i].tokens();
    }
    std::erase_if(parts, [](const auto& part) { return part.empty(); });
    return {std::move(parts), budget};
}

PackedForward::PackedForward(const Backbone& backbone, const Method& method,
                             const std::vector<TrainingRow>& rows, Mode mode, Generator* noise, bool share) {
    const std::vector<const EncodedExample*> examples = examples_of(rows);
    std::vector<int> row_of;  // which of `rows` a row of the batch stands for
    for (size_t i = 0; i < rows.size(); ++i) row_of.push_back(static_cast<int>(i));
    if (const Sharing sharing = shared_in(backbone, method, mode, share); sharing != Sharing::none) {
        SharedBatch shared = pack_shared(examples, mixtures(rows, sharing));
        batch = std::move(shared.batch);
        row_of = std::move(shared.example);
        if (!batch.parent.empty()) route.stands_for = std::move(shared.stands_for);
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
    const at::Tensor chosen = device_list(positions, backbone.device());
    const at::Tensor answers = backbone.hidden(batch, options).index_select(0, chosen);
    return backbone.token_nll(answers, targets, label_smoothing);
}

}  // namespace polyad
