// SPDX-License-Identifier: Apache-2.0
#include "training/encoded_data.h"

#include "backbone/batch_checks.h"
#include "base/error.h"
#include "base/log.h"

namespace polyad {
namespace {

/// Encoded prompts kept at most; what exceeds it is encoded again when it is drawn again.
constexpr int64_t cache_limit = int64_t{64} << 20;

/// "task 'x', train example 3 ('id')".
std::string place(const Task& task, Split split, size_t index) {
    const std::string& id = task.examples(split)[index].id;
    std::string out = text("task '", task.name, "', ", split_name(split), " example ", index);
    return id.empty() ? out : text(out, " ('", id, "')");
}

/// Runs `encode` and says which example it was about when it throws.
template <class Encode>
auto encode_at(const Task& task, Split split, size_t index, Encode encode) {
    try {
        return encode();
    } catch (const Error& e) {
        const std::string where = place(task, split, index);
        throw Error(e.code(), text(where, ": ", e.what()), where);
    }
}

}  // namespace

EncodedData::EncodedData(const Skillset& skillset, const Dataset& dataset)
    : skillset_(skillset), dataset_(dataset) {
    check_has_head(*skillset.backbone());
    const std::vector<Task>& tasks = dataset.tasks();
    for (const Task& task : tasks) {
        const std::vector<Example>& train = task.examples(Split::train);
        const std::vector<Example>& validation = task.examples(Split::validation);
        if (train.empty()) log(LogLevel::warning, text("task '", task.name, "' has no training examples"));
        const bool used = !train.empty() || !validation.empty();
        skillset_task_.push_back(used ? skillset.task_index(task.name) : -1);
        prompts_.emplace_back(train.size());
        auto& answers = answers_.emplace_back(train.size());
        for (size_t i = 0; i < train.size(); ++i)
            for (const std::string& output : train[i].outputs)
                answers[i].push_back(
                    encode_at(task, Split::train, i, [&] { return skillset.prompts().answer(output); }));
    }
}

std::string EncodedData::place_of(Split split, const TrainingRow& row) const {
    return place(dataset_.tasks()[static_cast<size_t>(row.dataset_task)], split,
                 static_cast<size_t>(row.index));
}

TrainingRow EncodedData::row(Split split, int task_index, int index, int output) {
    const auto t = static_cast<size_t>(task_index), i = static_cast<size_t>(index);
    const Task& task = dataset_.tasks().at(t);
    const Example& example = task.examples(split).at(i);
    auto encoded = std::make_shared<EncodedExample>();
    if (split != Split::train) {
        *encoded = encode_at(task, split, i, [&] {
            return skillset_.prompts().encode(task, example.input,
                                              example.outputs.at(static_cast<size_t>(output)));
        });
    } else {
        Entry& entry = prompts_[t][i];
        encoded->answer = answers_[t][i].at(static_cast<size_t>(output));
        if (!entry.prompt.empty()) {
            encoded->prompt = entry.prompt;
        } else {
            encoded->prompt = encode_at(task, split, i, [&] {
                return skillset_.prompts().prompt(task, example.input, &encoded->truncated);
            });
            entry.truncated = encoded->truncated;
            cached_tokens_ += static_cast<int64_t>(encoded->prompt.size());
            if (cached_tokens_ <= cache_limit) entry.prompt = encoded->prompt;
        }
        encoded->truncated = entry.truncated;
    }
    TrainingRow row;
    row.example = std::move(encoded);
    const BackboneInfo& info = skillset_.backbone()->info();
    // An encoder-decoder reads prompt and answer in stacks of their own.
    const int64_t longest =
        info.encoder_decoder
            ? static_cast<int64_t>(std::max(row.example->prompt.size(), row.example->answer.size()))
            : row.tokens();
    if (info.context > 0 && longest > info.context)
        fail(Code::context_overflow, place(task, split, i), ": ", longest, " tokens, but the backbone holds ",
             info.context, "; lower prompt.max_tokens");
    row.task = skillset_task_[t];
    row.dataset_task = task_index;
    row.index = index;
    row.intuition = skillset_.intuition_of(task.instruction, example.input);
    return row;
}

}  // namespace polyad
