// SPDX-License-Identifier: Apache-2.0
// A method = its parameters + the way it fills the mixture. One file per method, one row in the table of
// method_table.cpp; the trainer, the engine and the C API never name a method.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "backbone/adaptation.h"
#include "backbone/batch.h"
#include "base/config.h"
#include "base/random.h"
#include "skills/parameter.h"
#include "skills/start.h"

namespace polyad {

class Backbone;

enum class Mode { train, eval };

/// Which rows of a batch have the same mixture, so that tokens they begin with need computing once.
enum class Sharing {
    none,  ///< every row may have its own (noise drawn per row, routers that read the row)
    task,  ///< rows of one task
    all,   ///< all rows: what differs depends on nothing but the tokens so far
};

/// What a router found in a row's prompt, kept while its answer is generated. One per generated row; the
/// method fills it when the row's prompt passes and reads it in every later step.
struct RouteMemory {
    std::map<std::string, at::Tensor> values;  ///< by a name of the method's own, e.g. a site's path
};

/// What a router may see of one batch.
struct RouteInput {
    RowBegin row_begin;  ///< [rows + 1]
    /// [rows] leading tokens that belong to the prompt; routers that read tokens read only these. 0 = the row
    /// goes on: its prompt passed in an earlier forward, and what was found there is in `memory`.
    std::vector<int32_t> prompt_length;
    RowBegin source_begin;  ///< [rows + 1] in an encoder-decoder, else empty; the prompt is the source
    /// [rows] examples that a row stands for where rows share beginnings: what is a mean over tokens counts
    /// its tokens that often. Empty = 1 each.
    std::vector<int32_t> stands_for;
    std::vector<RouteMemory*> memory;  ///< [rows], entries may be null; empty = a forward without a cache
    std::vector<int32_t> task_ids;     ///< [rows] index into the task table; -1 = none given
    /// Explicit skill weights per row (empty = let the router decide), each of Method::skill_count() entries.
    std::vector<std::vector<float>> weights;
    /// Scores of each row against the clusters of instructions, [rows, skills]; undefined = none (MoR1E).
    at::Tensor intuition;
    Mode mode = Mode::eval;
    Generator* noise = nullptr;  ///< required in train mode by methods that sample
    /// Recorded noise instead of drawing (golden vectors): per site path, then per name ("u",
    /// "dropout_mask").
    const std::map<std::string, std::map<std::string, at::Tensor>>* recorded = nullptr;
    /// When set, every site's mixture is written here: [site path][name] ("gate", "weights", "probs", ...).
    std::map<std::string, std::map<std::string, at::Tensor>>* trace = nullptr;

    int rows() const { return row_begin.empty() ? 0 : static_cast<int>(row_begin.size()) - 1; }
};

/// One task's update of a site as one plain low-rank pair: y += (x a^T) b^T, scale already inside b.
struct CollapsedSite {
    at::Tensor a;  ///< [R, d_in]
    at::Tensor b;  ///< [d_out, R]
};

class Method {
  public:
    virtual ~Method() = default;
    virtual std::vector<Parameter>& parameters() = 0;
    /// To be called after parameter values were changed in place (an optimiser step, a loaded bundle): drops
    /// whatever was derived from them.
    virtual void parameters_changed() {}
    /// What few-shot training moves (methods.md 8.6, 9): "all"; "router" (Poly-z, MHR-z: skills frozen);
    /// "uniform" (Poly-mu, MHR-mu: skills under the fixed mix 1/S, no router). Sets Parameter::trainable;
    /// methods without a router know only "all". The choice is part of config() as "train".
    virtual void set_training(const std::string& what);
    /// Adapters for one batch. Refuses a task id outside the table with Code::unknown_task, before computing.
    virtual std::unique_ptr<Adaptation> adapt(const RouteInput& input) = 0;
    /// Number of entries an explicit weight vector has.
    virtual int skill_count() const = 0;
    virtual bool needs_task() const = 0;
    /// Loss terms of the last adapt() beyond cross-entropy (balance, task sparsity); undefined when none.
    virtual at::Tensor auxiliary_loss(Adaptation&) { return {}; }
    /// True when an adaptation changes more of the backbone than at() says: its rows then run in a forward of
    /// their own.
    virtual bool exclusive() const { return false; }
    /// Most positions prefix() puts before a row of `task`: room a cache must have.
    virtual int prefix_tokens(int /*task*/) const { return 0; }
    /// Rows that may share a beginning in this mode (without explicit weights or recorded noise).
    virtual Sharing sharing(Mode /*mode*/) const { return Sharing::none; }
    /// True when a training loss is one of the batch as a whole (balance): its rows then stay in one forward.
    virtual bool whole_batch() const { return false; }
    /// True when the router reads the row's prompt, so that a row must not be cut after it without a memory.
    virtual bool reads_prompt() const { return !needs_task(); }
    /// True when, given the task and explicit weights, what a position computes depends on the tokens up to
    /// it alone: prompts that begin alike then share their beginning's keys and values.
    virtual bool causal() const { return !reads_prompt() && !exclusive(); }
    /// Eval-mode update of `task` at `site`, when the method has an exact one (methods.md 17); else nullopt.
    virtual std::optional<CollapsedSite> collapse(const Site& site, int task) = 0;
    /// Adds a row to the task table. `start`: "fresh" (as initialised) or "uniform" (the uniform mix).
    virtual void add_task(const std::string& start, Generator& noise) = 0;
    /// The same for a task that `text` describes; for methods whose rows start from it.
    virtual void add_described_task(const std::string& /*text*/, const std::string& start, Generator& noise) {
        add_task(start, noise);
    }
    /// Eval-mode skill weights of `task`, averaged over sites and splits: [skill_count()]. For reports.
    virtual std::vector<float> task_weights(int task) = 0;
    /// Complete configuration with every default filled in; make_method(config()) gives the same method.
    virtual Json config() const = 0;
};

/// What a method is built on.
struct MethodContext {
    std::vector<Site> sites;  ///< the adapted sites only
    int tasks = 0;
    uint64_t seed = 0;
    Fill fill = Fill::initialised;
    at::Device device = at::kCPU;  ///< of the parameters and of the tensors adapt() is for
    /// For methods that start from the backbone's own values (prompts, norms, layer copies). Null in tests
    /// that have sites only: such methods then refuse what they cannot start.
    const Backbone* backbone = nullptr;
    std::vector<std::string> task_texts;  ///< [tasks] what describes each task, or empty
    at::Tensor task_vectors;              ///< [tasks, width] computed from data beforehand, or undefined
};

/// `config` is the user's JSON: {"method": "cpoly", "rank": 8, ...}. Code::invalid_config names what is
/// wrong.
std::unique_ptr<Method> make_method(const Json& config, const MethodContext& context);
/// Names for --help and errors.
std::vector<std::string> method_names();
/// One line on what a method is; Code::invalid_config lists the names there are.
std::string method_summary(std::string_view name);

/// Sites chosen as PEFT users do, by config["target_modules"]: a list of names (the last part or parts of a
/// path: "q_proj", "self_attn.q_proj"), one regular expression that must match the whole path (a single
/// string that is not such a name), or "all-linear", which is also the default: every linear of the layers,
/// the head excluded, because that is where skills help most for their size. Code::invalid_config lists the
/// names that exist.
std::vector<Site> select_sites(const std::vector<Site>& all, const Json& config);

}  // namespace polyad
