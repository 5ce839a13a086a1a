// SPDX-License-Identifier: Apache-2.0
#include "routing/task_prompts.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cmath>

#include "backbone/backbone.h"
#include "backbone/device.h"
#include "base/error.h"
#include "routing/row_groups.h"
#include "routing/site_method.h"

namespace polyad {
namespace {

constexpr int64_t longest_prompt = 4096;
constexpr double random_bound = 0.5;  // U(-0.5, 0.5), the publication's fallback

}  // namespace

TaskPrompts::TaskPrompts(ConfigReader& reader, const MethodContext& context, int64_t width)
    : backbone_(context.backbone), width_(width), texts_(context.task_texts) {
    described_ = reader.choice("prompt_init", "description", {"description", "random"}) == "description";
    tokens_ = reader.integer("prompt_tokens", 0, 0, longest_prompt);
    most_ = reader.integer("max_prompt_tokens", 64, 1, longest_prompt);
    for (const double length : reader.numbers("prompt_lengths", {})) {
        if (length < 1 || length > static_cast<double>(longest_prompt) || length != std::floor(length))
            reader.refuse("prompt_lengths", text("needs whole numbers from 1 to ", longest_prompt));
        lengths_.push_back(static_cast<int64_t>(length));
    }
    const auto tasks = static_cast<size_t>(context.tasks);
    texts_.resize(tasks);
    if (!lengths_.empty() && lengths_.size() != tasks)
        reader.refuse("prompt_lengths", text(lengths_.size(), " lengths for ", tasks, " tasks"));
    while (lengths_.size() < tasks)
        lengths_.push_back(choose_length(texts_[lengths_.size()], static_cast<int>(lengths_.size())));
}

int64_t TaskPrompts::tokens(int task) const {
    if (task >= 0 && static_cast<size_t>(task) < lengths_.size()) return lengths_[static_cast<size_t>(task)];
    return lengths_.empty() ? 0 : *std::max_element(lengths_.begin(), lengths_.end());
}

std::vector<int32_t> TaskPrompts::encode(const std::string& text) const {
    if (text.empty() || !backbone_ || !backbone_->tokenizer()) return {};
    // An encoder reads the end token with every text; a decoder-only model would take it for an end.
    return backbone_->tokenizer()->encode(text, backbone_->info().encoder_decoder);
}

int64_t TaskPrompts::choose_length(const std::string& description, int task) const {
    if (described_) {
        if (!backbone_ || !backbone_->tokenizer())
            throw Error(Code::invalid_config,
                        "prompt_init: \"description\" needs a backbone with a tokenizer; use \"random\" with "
                        "\"prompt_tokens\"",
                        "prompt_init");
        const auto count = static_cast<int64_t>(encode(description).size());
        if (count > 0) return tokens_ > 0 ? tokens_ : std::min(count, most_);
        throw Error(
            Code::invalid_config,
            text("empty_prompt: nothing describes task ", task,
                 ", so its prompt has no tokens; give it an instruction, or \"prompt_init\": \"random\" "
                 "with \"prompt_tokens\""),
            "prompt_init");
    }
    if (tokens_ > 0) return tokens_;
    throw Error(
        Code::invalid_config,
        "empty_prompt: prompt_tokens: \"prompt_init\": \"random\" needs the number of tokens, 1 or more",
        "prompt_tokens");
}

at::Tensor TaskPrompts::embedded(const std::string& description, int64_t tokens) const {
    const std::vector<int32_t> ids = encode(description);
    if (ids.empty())
        throw Error(Code::invalid_config,
                    "empty_prompt: nothing describes the task, so its prompt has no tokens", "prompt_init");
    std::vector<int32_t> wanted;  // cut, or repeated, to the length asked for
    for (int64_t i = 0; i < tokens; ++i) wanted.push_back(ids[static_cast<size_t>(i) % ids.size()]);
    const at::Tensor rows = backbone_->embed(wanted).detach().to(at::kFloat).clone();
    if (rows.dim() != 2 || rows.size(1) != width_)
        fail(Code::invalid_argument, "the backbone's embeddings have width ", rows.size(-1),
             ", prompts need ", width_);
    return rows;
}

at::Tensor TaskPrompts::start(int task, const TensorMaker& maker) const {
    const int64_t length = tokens(task);
    if (!described_)
        return maker.uniform({length, width_}, text("prompt.", task), -random_bound, random_bound);
    if (maker.fill() != Fill::initialised) return maker.zeros({length, width_});
    return embedded(texts_[static_cast<size_t>(task)], length);
}

at::Tensor TaskPrompts::add(const std::string& description, Generator& noise) {
    const int64_t length = choose_length(description, static_cast<int>(lengths_.size()));
    at::Tensor value;
    if (described_) {
        value = embedded(description, length);
    } else {
        value = at::empty({length, width_}, at::TensorOptions().dtype(at::kFloat));
        noise.fill_uniform(value.mutable_data_ptr<float>(), static_cast<size_t>(value.numel()), -random_bound,
                           random_bound);
    }
    lengths_.push_back(length);
    texts_.push_back(description);
    return value;
}

std::vector<int32_t> TaskPrompts::description(int task) const {
    return encode(texts_.at(static_cast<size_t>(task)));
}

void TaskPrompts::write(Json& config) const {
    config["prompt_init"] = described_ ? "description" : "random";
    config["prompt_tokens"] = tokens_;
    config["max_prompt_tokens"] = most_;
    config["prompt_lengths"] = lengths_;
}

PromptedRows::PromptedRows(const RouteInput& input, const TaskPrompts& prompts, int tasks) {
    const RowBegin* raw[2] = {&input.row_begin, &input.source_begin};
    if (!input.source_begin.empty()) prompt_stream = Stream::source;
    for (int b = 0; b < input.rows(); ++b) {
        check_task_id(input, b, tasks);
        const auto row = static_cast<size_t>(b);
        const int32_t own = row < input.prompt_length.size() ? input.prompt_length[row] : 0;
        task.push_back(input.task_ids[row]);
        prompt.push_back(own);
        prefix.push_back(own > 0 ? prompts.tokens(task.back()) : 0);
    }
    for (int stream = 0; stream < 2; ++stream) {
        if (raw[stream]->empty()) continue;
        begin[stream].push_back(0);
        for (size_t b = 0; b < task.size(); ++b) {
            int64_t length = (*raw[stream])[b + 1] - (*raw[stream])[b];
            if (stream == static_cast<int>(prompt_stream)) length += prefix[b];
            begin[stream].push_back(begin[stream].back() + static_cast<int32_t>(length));
        }
    }
}

bool PromptedRows::one_task() const {
    return std::adjacent_find(task.begin(), task.end(), std::not_equal_to<>()) == task.end();
}

at::Tensor PromptedRows::token_tasks(Stream stream, at::Device device) const {
    return device_list(per_token<int64_t>(task, begin[static_cast<int>(stream)]), device);
}

}  // namespace polyad
