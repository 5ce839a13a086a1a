// SPDX-License-Identifier: Apache-2.0
// What a router over task vectors sees of a task, computed from its training examples (methods.md 5.4).
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <vector>

#include "routing/skillset.h"

namespace polyad {

struct TaskVectorOptions {
    int64_t examples = 32;  ///< training examples read per task; 0 = all
    bool centre = false;    ///< text: minus the tasks' mean, scaled to a mean square of 1
    /// The short training on one task that "finetuned_text" and "fisher" begin with.
    int64_t steps = 100, rank = 8;
    int batch_size = 8;
    double learning_rate = 1e-3;

    /// Key "task_vector_options" of a method's configuration.
    static TaskVectorOptions from_json(const Json& object);
};

/// [tasks, width], float32, for `kind`:
///   "text"            mean of the backbone's last hidden states (an encoder-decoder's encoder states) over a
///                     prompt's positions, then over the prompts of the task's training inputs
///   "finetuned_text"  the same after a short LoRA training on the task
///   "fisher"          after that training, the mean of the squared gradients of the LoRA factors, one
///   example
///                     at a time; over all tasks reduced to `width` principal components (0 = the smaller of
///                     128 and tasks - 1) and scaled to a mean square of 1
/// Code::bad_data for a task without training examples, Code::invalid_config for more components than there
/// are.
at::Tensor task_vectors(const std::shared_ptr<const Backbone>& backbone, const std::vector<Task>& tasks,
                        const std::string& kind, const Json& config, int64_t width = 0);

/// Skillset::create, after computing the task vectors that config["task_vectors"] names.
std::shared_ptr<Skillset> create_skillset(std::shared_ptr<const Backbone> backbone,
                                          const std::vector<Task>& tasks, const Json& config);

/// Skillset::add_task; with start "fresh" in a skillset of "text" or "finetuned_text" vectors the new task's
/// is computed from its training examples too.
int add_task(Skillset& skillset, const Task& task, const std::string& start, uint64_t seed);

}  // namespace polyad
