// SPDX-License-Identifier: Apache-2.0
#include "serving/request.h"

#include <cmath>
#include <utility>

#include "base/error.h"

namespace polyad {
namespace {

constexpr double longest_timeout = 1e9;  ///< seconds: beyond, clocks overflow

std::optional<Request::Clock::time_point> deadline_of(const RequestOptions& options,
                                                      Request::Clock::time_point now) {
    if (!(options.timeout >= 0.0 && options.timeout <= longest_timeout))
        fail(Code::invalid_argument, "timeout: ", options.timeout, " seconds is out of range, allowed: 0 to ",
             longest_timeout, ", 0 = none");
    if (options.timeout == 0.0) return std::nullopt;
    return now + std::chrono::duration_cast<Request::Clock::duration>(
                     std::chrono::duration<double>(options.timeout));
}

}  // namespace

Request::Request(const RequestOptions& options)
    : priority_(options.priority), submitted_(Clock::now()), deadline_(deadline_of(options, submitted_)) {}

void Request::check_time() const {
    if (deadline_ && !ended(state_) && Clock::now() >= *deadline_)
        end_locked(RequestState::expired, FinishReason::expired, nullptr);
}

Request::Piece Request::poll() {
    const std::lock_guard lock(mutex_);
    check_time();
    Piece out{result_.text.substr(polled_), state_};
    polled_ = result_.text.size();
    return out;
}

RequestState Request::state() const {
    const std::lock_guard lock(mutex_);
    check_time();
    return state_;
}

RequestResult Request::result() const {
    const std::lock_guard lock(mutex_);
    check_time();
    if (!ended(state_)) fail(Code::wrong_state, "the request has not finished yet: step the engine");
    if (error_) std::rethrow_exception(error_);
    return result_;
}

void Request::cancel() {
    end(RequestState::cancelled, FinishReason::cancelled, nullptr);
}

void Request::end(RequestState state, FinishReason reason, std::exception_ptr error) const {
    const std::lock_guard lock(mutex_);
    end_locked(state, reason, std::move(error));
}

void Request::end_locked(RequestState state, FinishReason reason, std::exception_ptr error) const {
    if (ended(state_)) return;
    state_ = state;
    error_ = std::move(error);
    result_.reason = reason;
    result_.seconds = std::chrono::duration<double>(Clock::now() - submitted_).count();
}

}  // namespace polyad
