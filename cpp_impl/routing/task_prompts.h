// SPDX-License-Identifier: Apache-2.0
// Task-description prompts: trained positions put before a task's rows, started from the embeddings of the
// text that describes it (PEMT, arXiv 2402.15082).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "backbone/adaptation.h"
#include "base/config.h"
#include "routing/method.h"

namespace polyad {

/// How many positions each task's prompt has, and what they start from.
class TaskPrompts {
  public:
    /// Reads prompt_init, prompt_tokens, max_prompt_tokens and prompt_lengths. Code::invalid_config for a
    /// task whose prompt would have no tokens.
    TaskPrompts(ConfigReader& reader, const MethodContext& context, int64_t width);

    int64_t width() const { return width_; }
    /// Positions of a task's prompt; of the longest one for a task that is not in the table.
    int64_t tokens(int task) const;
    /// Starting value of a task's prompt, [tokens, width].
    at::Tensor start(int task, const TensorMaker& maker) const;
    /// One more task, described by `text`; returns its starting value.
    at::Tensor add(const std::string& text, Generator& noise);
    /// Token ids of what describes a task; empty when there is no text or no tokenizer.
    std::vector<int32_t> description(int task) const;
    void write(Json& config) const;

  private:
    std::vector<int32_t> encode(const std::string& text) const;
    /// Length of the prompt of a task with this text, given no length yet.
    int64_t choose_length(const std::string& text, int task) const;
    at::Tensor embedded(const std::string& text, int64_t tokens) const;

    const Backbone* backbone_;
    int64_t width_, tokens_ = 0, most_ = 64;
    bool described_ = true;
    std::vector<std::string> texts_;
    std::vector<int64_t> lengths_;
};

/// A forward's rows with the prompts before those that bring their own prompt.
struct PromptedRows {
    std::vector<int32_t> task;    ///< [rows]
    std::vector<int64_t> prefix;  ///< [rows] positions put before the row; 0 = the row goes on
    /// [rows] positions of its own prompt behind the prefix.
    std::vector<int64_t> prompt;
    Stream prompt_stream = Stream::tokens;  ///< where the prefix stands: the encoder's, if there is one
    RowBegin begin[2];                      ///< per Stream, prefix positions included

    /// Code::unknown_task for a row without a task in [0, tasks).
    PromptedRows(const RouteInput& input, const TaskPrompts& prompts, int tasks);
    bool one_task() const;
    /// Task of every token of a stream, int64 [N].
    at::Tensor token_tasks(Stream stream, at::Device device) const;
};

}  // namespace polyad
