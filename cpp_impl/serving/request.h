// SPDX-License-Identifier: Apache-2.0
// One request's life, from submit to its end.
#pragma once

#include <chrono>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "serving/generate.h"

namespace polyad {

struct RequestOptions {
    std::string skillset;               ///< published name; "" = the backbone alone
    std::string task;                   ///< "" = none
    std::optional<std::string> prompt;  ///< the example's input, put into the task's prompt
    std::vector<int32_t> tokens;        ///< or a finished prompt as ids
    std::vector<float> weights;         ///< explicit skill weights; empty = let the router decide
    std::vector<float> intuition;       ///< scores against the skillset's clusters; empty = from the prompt
    SamplingOptions sampling;
    double timeout = 0.0;  ///< seconds from submit after which it expires; 0 = never
    int priority = 0;      ///< higher comes first
};

/// Values of polyad_request_state.
enum class RequestState : int {
    waiting = 0,
    running = 1,
    finished = 2,
    cancelled = 3,
    failed = 4,
    expired = 5
};

struct RequestResult {
    std::string text;
    std::vector<int32_t> tokens;
    FinishReason reason = FinishReason::none;
    int64_t prompt_tokens = 0, truncated = 0;  ///< truncated: prompt tokens cut off to fit the prompt format
    int64_t cached_tokens = 0;                 ///< prompt tokens found in the prefix cache
    double seconds = 0.0;                      ///< from submit to the last token
};

/// Every call from any thread at any time.
class Request {
  public:
    using Clock = std::chrono::steady_clock;
    struct Piece {
        std::string text;  ///< what became certain since the last poll
        RequestState state = RequestState::waiting;
    };
    /// Throws Code::invalid_argument for a timeout that is no number of seconds.
    explicit Request(const RequestOptions& options);

    Piece poll();
    RequestState state() const;
    /// Code::wrong_state while it waits or runs; throws the failed request's own error. A cancelled or
    /// expired one gives what it had.
    RequestResult result() const;
    /// Ends it before its next token.
    void cancel();

  private:
    friend class Engine;

    /// Moves to an end state; later ends are ignored. With the lock held.
    void end_locked(RequestState state, FinishReason reason, std::exception_ptr error) const;
    void end(RequestState state, FinishReason reason, std::exception_ptr error) const;
    /// Expires it once its time has come, whether or not anybody steps. With the lock held.
    void check_time() const;

    const int priority_;
    const Clock::time_point submitted_;
    const std::optional<Clock::time_point> deadline_;
    mutable std::mutex mutex_;
    mutable RequestState state_ = RequestState::waiting;
    mutable RequestResult result_;
    mutable std::exception_ptr error_;
    size_t polled_ = 0;  ///< bytes of result_.text handed out

    // The engine's: the stepping thread's alone once submitted.
    std::shared_ptr<GenerationRow> row_;
    int64_t bytes_needed_ = 0;  ///< of cache, from its start to its end
    int64_t order_ = 0;         ///< of its first admission
};

inline bool ended(RequestState state) {
    return state >= RequestState::finished;
}

}  // namespace polyad
