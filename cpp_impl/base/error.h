// SPDX-License-Identifier: Apache-2.0
// Every failure inside Polyad is one exception type; capi/ turns it into a polyad_status and nothing crosses
// the C boundary. A message says what was wrong, where, and what is allowed.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>

namespace polyad {

/// Mirrors polyad_code in polyad.h value by value (capi/ asserts it). Append only.
enum class Code : int {
    ok = 0,
    invalid_argument = 1,   ///< an argument, option or id out of its allowed range
    invalid_config = 2,     ///< JSON configuration: unknown key, wrong type, bad range
    not_found = 3,          ///< file, site, skillset or tensor that does not exist
    io_error = 4,           ///< the operating system refused to read or write
    bad_format = 5,         ///< a damaged or hostile file
    unsupported = 6,        ///< well-formed, but not something this build can do
    backbone_mismatch = 7,  ///< a bundle made for another base model
    unknown_task = 8,       ///< a task id or name outside the task table
    bad_data = 9,           ///< a dataset row that cannot be used (empty task, non-UTF-8 text, ...)
    context_overflow = 10,  ///< text longer than the model or cache can hold
    numeric_error = 11,     ///< NaN or infinity where training or scoring needs a number
    cancelled = 12,         ///< stopped by polyad_*_cancel
    wrong_state = 13,       ///< call not allowed now (closed, finished, already running)
    out_of_memory = 14,
    queue_full = 15,
    internal = 99,  ///< a bug in Polyad: please report
};

const char* code_name(Code code);

class Error : public std::runtime_error {
  public:
    Error(Code code, std::string message, std::string detail = {})
        : std::runtime_error(std::move(message)), code_(code), detail_(std::move(detail)) {}
    Code code() const { return code_; }
    /// Where: file and offset, config key, tensor, task or row. May be empty.
    const std::string& detail() const { return detail_; }

  private:
    Code code_;
    std::string detail_;
};

/// Joins anything streamable into one string: text("rank ", r, " is below ", 1).
template <class... Parts>
std::string text(const Parts&... parts) {
    std::ostringstream out;
    (out << ... << parts);
    return out.str();
}

/// fail(Code::bad_format, "tensor '", name, "' ends at ", end, ", after the file's ", size, " bytes");
template <class... Parts>
[[noreturn]] void fail(Code code, const Parts&... parts) {
    throw Error(code, text(parts...));
}

/// Internal invariants only; user input gets a named error instead.
#define POLYAD_CHECK(condition)                                                                           \
    do {                                                                                                  \
        if (!(condition))                                                                                 \
            ::polyad::fail(::polyad::Code::internal, #condition, " failed at ", __FILE__, ":", __LINE__); \
    } while (false)

}  // namespace polyad
