// SPDX-License-Identifier: Apache-2.0
// Skills + router + task table + the method's config: what is trained, saved and attached to a backbone.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "backbone/backbone.h"
#include "base/config.h"
#include "data/dataset.h"
#include "data/prompt.h"
#include "routing/method.h"

namespace polyad {

class Intuition;

/// What a bundle keeps of a task.
struct TaskEntry {
    std::string name, category, instruction;
    std::vector<std::string> labels;
    std::vector<Example> positive_examples;  ///< as many as the prompt format shows

    static TaskEntry from(const Task& task);
    Task to_task() const;  ///< without the splits' examples: enough for PromptEncoder
};

class Skillset {
  public:
    /// Fresh skills for the dataset's tasks. `config` = method config (routing/method.h) plus
    /// "target_modules", "seed" and "prompt" (data/prompt.h).
    /// `task_vectors` [tasks, width]: for methods that route by them (training/task_vectors.h makes them).
    /// A configured intuition clusters the tasks' training texts with `encoder`, or, when that is null, with
    /// the one its configuration names.
    static std::shared_ptr<Skillset> create(std::shared_ptr<const Backbone> backbone,
                                            const std::vector<Task>& tasks, const Json& config,
                                            const at::Tensor& task_vectors = {},
                                            std::shared_ptr<const Backbone> encoder = nullptr);
    /// Refuses a bundle made for another backbone (Code::backbone_mismatch, both names in the message).
    static std::shared_ptr<Skillset> load(std::shared_ptr<const Backbone> backbone,
                                          const std::filesystem::path& path);
    static std::shared_ptr<Skillset> load(std::shared_ptr<const Backbone> backbone, const Bytes& bundle);
    void save(const std::filesystem::path& path) const;
    std::string save_to_memory() const;
    /// A copy that later training of this one does not touch; values are copied, the backbone is shared.
    /// `rest` (may be empty) is called between its parts.
    std::shared_ptr<Skillset> snapshot(const std::function<void()>& rest = {}) const;

    const std::shared_ptr<const Backbone>& backbone() const { return backbone_; }
    Method& method() const { return *method_; }
    const std::vector<TaskEntry>& tasks() const { return tasks_; }
    const std::vector<Site>& sites() const { return sites_; }  ///< the adapted ones
    const PromptEncoder& prompts() const { return *prompts_; }

    /// What the router is told of a prompt's text beforehand (routing/intuition.h); null = nothing.
    const std::shared_ptr<Intuition>& intuition() const { return intuition_; }
    /// True when the method reads RouteInput::intuition, so that a request may bring its own.
    bool takes_intuition() const { return takes_intuition_; }
    /// Scores of a prompt, [skills]; empty without an intuition. Opens its encoder when it must.
    std::vector<float> intuition_of(std::string_view instruction, std::string_view input) const;
    /// The same of a prompt that came as ids: their text, special tokens left out.
    std::vector<float> intuition_of(const std::vector<int32_t>& prompt) const;
    /// The intuition's sentence encoder, instead of opening the path its configuration names.
    /// Code::backbone_mismatch for another one than its clusters were made with, Code::wrong_state when there
    /// is no intuition.
    void set_encoder(std::shared_ptr<const Backbone> encoder);

    /// Index of a task; Code::unknown_task lists the nearest names.
    int task_index(std::string_view name) const;
    /// Few-shot: adds a task (methods.md 8.6, 9); `start` = "fresh" | "uniform". Returns its index.
    int add_task(const Task& task, const std::string& start, uint64_t seed);
    /// Everything create() was given, defaults filled in.
    Json config() const;
    /// Free key-value metadata kept in the bundle ("training", "licence", ...); unknown keys of a loaded
    /// bundle stay.
    Json& metadata() { return metadata_; }
    const Json& metadata() const { return metadata_; }

  private:
    Skillset() = default;
    /// Method, sites and prompts from a complete configuration; parameter values as `fill` says.
    static std::shared_ptr<Skillset> build(std::shared_ptr<const Backbone> backbone,
                                           std::vector<TaskEntry> tasks, const Json& config, Fill fill,
                                           const at::Tensor& task_vectors = {});
    void check_new_name(const std::string& name) const;
    void trim(TaskEntry& entry) const;

    std::shared_ptr<const Backbone> backbone_;
    std::unique_ptr<Method> method_;
    std::vector<TaskEntry> tasks_;
    std::vector<Site> sites_;
    std::unique_ptr<PromptEncoder> prompts_;
    std::shared_ptr<Intuition> intuition_;  ///< shared by snapshots: it never changes
    bool takes_intuition_ = false;
    Json target_modules_;
    uint64_t seed_ = 0;
    Json metadata_ = Json::object();
    Json extra_ = Json::object();  ///< unknown top-level keys of the bundle, kept as they were
};

}  // namespace polyad
