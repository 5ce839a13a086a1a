// SPDX-License-Identifier: Apache-2.0
// Serves many requests over one backbone. Continuous batching: each step admits waiting requests into free
// rows and gives every running row one token; rows of one step may use any published skillset, task or
// explicit mix.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/config.h"
#include "serving/generate.h"

namespace polyad {

struct EngineOptions {
    int max_batch = 16;    ///< rows decoded together
    int max_queue = 1024;  ///< waiting requests before submit refuses
    int max_context = 0;   ///< tokens one row may reach; 0 = the model's limit, at most 4096
};

struct RequestOptions {
    std::string skillset;               ///< published name; "" = the backbone alone
    std::string task;                   ///< "" = none
    std::optional<std::string> prompt;  ///< the example's input, put into the task's prompt
    std::vector<int32_t> tokens;        ///< or a finished prompt as ids
    std::vector<float> weights;         ///< explicit skill weights; empty = let the router decide
    std::vector<float> intuition;       ///< scores against the skillset's clusters; empty = from the prompt
    SamplingOptions sampling;
};

/// Values of polyad_request_state.
enum class RequestState : int { waiting = 0, running = 1, finished = 2, cancelled = 3, failed = 4 };

struct RequestResult {
    std::string text;
    std::vector<int32_t> tokens;
    FinishReason reason = FinishReason::none;
    int64_t prompt_tokens = 0, truncated = 0;  ///< truncated: prompt tokens cut off to fit the prompt format
    double seconds = 0.0;                      ///< from submit to the last token
};

/// One request's life. Every call from any thread at any time.
class Request {
  public:
    struct Piece {
        std::string text;  ///< what became certain since the last poll
        RequestState state = RequestState::waiting;
    };
    Piece poll();
    RequestState state() const;
    /// Code::wrong_state while it waits or runs; throws the failed request's own error. A cancelled one gives
    /// what it had.
    RequestResult result() const;
    /// Ends it before its next token.
    void cancel();

  private:
    friend class Engine;
    using Clock = std::chrono::steady_clock;

    /// Moves to an end state; later ends are ignored.
    void end(RequestState state, FinishReason reason, std::exception_ptr error);

    mutable std::mutex mutex_;
    RequestState state_ = RequestState::waiting;
    RequestResult result_;
    size_t polled_ = 0;  ///< bytes of result_.text handed out
    std::exception_ptr error_;
    Clock::time_point submitted_ = Clock::now();
    std::shared_ptr<GenerationRow> row_;  ///< touched by the stepping thread only, once admitted
};

class Engine {
  public:
    explicit Engine(std::shared_ptr<const Backbone> backbone, const EngineOptions& options = {});
    /// Requests that wait or run end as cancelled.
    ~Engine();

    /// Makes a snapshot answer to `name`, replacing an earlier version: running and waiting requests keep the
    /// version they were submitted to. Code::backbone_mismatch. Any thread.
    void publish(const std::string& name, const Skillset& skillset);
    /// Without a copy: the caller promises not to change it any more. Any thread.
    void publish(const std::string& name, std::shared_ptr<const Skillset> skillset);
    /// New requests no longer find it. Code::not_found. Any thread.
    void retire(const std::string& name);

    /// Checks, encodes and queues. Code::queue_full, not_found, unknown_task, context_overflow, bad_data,
    /// invalid_argument. Any thread.
    std::shared_ptr<Request> submit(const RequestOptions& options);
    /// Admits and decodes; returns how many requests wait or run after it. One caller at a time.
    int step();
    /// {"skillsets": {name: {"version", "tasks"}}, "waiting", "running", "steps", "finished", "failed",
    /// "cancelled", "prompt_tokens", "tokens", "tokens_per_second", "max_batch", "max_context"}. Any thread.
    Json stats() const;

    const std::shared_ptr<const Backbone>& backbone() const { return backbone_; }

  private:
    struct Published {
        std::shared_ptr<const Skillset> skillset;
        int64_t version = 0;
    };
    struct Counters {
        int64_t steps = 0, finished = 0, failed = 0, cancelled = 0, prompt_tokens = 0, tokens = 0;
        double busy_seconds = 0.0;
    };

    GenerationInput make_input(const RequestOptions& options, RequestResult& result) const;
    void admit();
    void drop_cancelled();
    void deliver(const std::shared_ptr<Request>& request);
    void count_end(RequestState state);

    std::shared_ptr<const Backbone> backbone_;
    EngineOptions options_;
    GenerationBatch batch_;                          ///< stepping thread only
    std::vector<std::shared_ptr<Request>> running_;  ///< stepping thread only
    mutable std::mutex mutex_;                       ///< guards what follows
    std::map<std::string, Published> published_;
    std::map<std::string, int64_t> versions_;  ///< survive retire, so that numbers never repeat
    std::deque<std::shared_ptr<Request>> waiting_;
    int running_count_ = 0;
    Counters counters_;
};

}  // namespace polyad
