// SPDX-License-Identifier: Apache-2.0
// Serves many requests over one backbone. Continuous batching: each step admits waiting requests into free
// rows and gives every running row one token; rows of one step may use any published skillset, task or
// explicit mix. docs/serving.md says how requests, memory and versions are handled.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "base/config.h"
#include "serving/beside_steps.h"
#include "serving/generate.h"
#include "serving/merged_task.h"
#include "serving/request.h"
#include "serving/request_queue.h"
#include "serving/served_skillset.h"

namespace polyad {

struct EngineOptions {
    int max_batch = 16;    ///< rows decoded together
    int max_queue = 1024;  ///< waiting requests before submit refuses
    int max_context = 0;   ///< tokens one row may reach; 0 = the model's limit, at most 4096
    int64_t memory_budget =
        0;  ///< bytes of skillsets and cache; 0 = max_batch rows of max_context tokens, any skillsets
    bool prefix_cache = true;
    bool merge_hot_task = false;  ///< a task that is all the traffic is merged into a copy of the weights
};

class Engine {
  public:
    explicit Engine(std::shared_ptr<const Backbone> backbone, const EngineOptions& options = {});
    /// Requests that wait or run end as cancelled.
    ~Engine();

    /// Makes a snapshot answer to `name`, replacing an earlier version: running and waiting requests keep the
    /// version they were submitted to. Code::backbone_mismatch; Code::out_of_memory when the budget has no
    /// room for it beside what is published and the largest request under way. Heavy, but beside running
    /// steps. Any thread.
    void publish(const std::string& name, const Skillset& skillset);
    /// Without a copy: the caller promises not to change it any more. Any thread.
    void publish(const std::string& name, std::shared_ptr<const Skillset> skillset);
    /// The copy that publish makes, without holding up running steps. Any thread.
    std::shared_ptr<const Skillset> snapshot(const Skillset& skillset) const;
    /// New requests no longer find it. Code::not_found. Any thread.
    void retire(const std::string& name);

    /// Checks, encodes and queues. Code::queue_full, not_found, unknown_task, context_overflow, out_of_memory
    /// (it could never fit), bad_data, invalid_argument. Any thread.
    std::shared_ptr<Request> submit(const RequestOptions& options);
    /// Admits and decodes; returns how many requests wait or run after it. One caller at a time.
    int step();
    /// What polyad_engine_stats gives. Any thread.
    Json stats() const;

    const std::shared_ptr<const Backbone>& backbone() const { return backbone_; }

  private:
    struct Published {
        std::shared_ptr<const ServedSkillset> served;
        int64_t version = 0;
    };
    struct Counters {
        int64_t steps = 0, graph_steps = 0, finished = 0, failed = 0, cancelled = 0, expired = 0,
                preempted = 0;
        int64_t prompt_tokens = 0, tokens = 0, prefix_hits = 0, prefix_tokens = 0;
        double busy_seconds = 0.0;
    };
    using Item = std::shared_ptr<Request>;

    GenerationInput make_input(const RequestOptions& options, RequestResult& result) const;
    std::shared_ptr<const ServedSkillset> find(const std::string& name) const;
    /// What the budget leaves beside the skillsets; with mutex_ held.
    int64_t cache_limit() const;
    void check_fits(int64_t bytes) const;

    void watch_hot_task(int rows, double seconds, bool decoding);
    void unmerge();
    int64_t merged_bytes() const { return hot_ ? hot_->bytes() : 0; }
    void drop_ended();
    void drop_old_prefixes();
    void settle_memory();
    void preempt(const Item& request);
    void admit();
    bool admit_one(const Item& request);
    void deliver(const Item& request);
    /// Drops a request's row; not under the lock. What only it held of a skillset is freed elsewhere.
    void let_go(const Item& request);
    /// A request is over: its row and what it holds go. With mutex_ held.
    void count_end(const Item& request);

    std::shared_ptr<const Backbone> backbone_;
    EngineOptions options_;
    int64_t whole_cache_ = 0;  ///< bytes of max_batch rows of max_context tokens
    std::shared_ptr<std::atomic<int64_t>> skill_bytes_ = std::make_shared<std::atomic<int64_t>>(0);
    std::atomic<int> running_count_{0};
    mutable Disposal disposal_;

    // The stepping thread's.
    GenerationBatch batch_;
    std::vector<Item> running_;  ///< in the order of their admission
    int64_t admissions_ = 0;
    std::map<int64_t, std::weak_ptr<const ServedSkillset>> prefix_versions_;
    std::unique_ptr<HotTask> hot_;  ///< null: nothing is merged

    mutable std::mutex mutex_;  ///< guards what follows
    std::map<std::string, Published> published_;
    std::map<std::string, int64_t> versions_;  ///< survive retire, so that numbers never repeat
    RequestQueue<Item> waiting_;
    std::multiset<int64_t> needs_;  ///< bytes_needed_ of every request under way
    int64_t running_needs_ = 0;     ///< of running rows
    int64_t cache_bytes_ = 0, prefix_bytes_ = 0;
    Counters counters_;
};

}  // namespace polyad
