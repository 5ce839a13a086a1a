// SPDX-License-Identifier: Apache-2.0
// The library never prints: what it has to say goes to the sink the host installed, or nowhere.
#pragma once

#include <functional>
#include <string_view>

namespace polyad {

enum class LogLevel : int { debug = 0, info = 1, warning = 2, error = 3 };
using LogSink = std::function<void(LogLevel, std::string_view)>;

/// One sink per process; an empty function silences. Thread-safe.
void set_log_sink(LogSink sink);
void log(LogLevel level, std::string_view message);

}  // namespace polyad
