// SPDX-License-Identifier: Apache-2.0
#include "base/log.h"

#include <memory>
#include <mutex>

namespace polyad {
namespace {

std::mutex sink_mutex;
std::shared_ptr<const LogSink> current_sink;

}  // namespace

void set_log_sink(LogSink sink) {
    auto next = sink ? std::make_shared<const LogSink>(std::move(sink)) : nullptr;
    std::lock_guard lock(sink_mutex);
    current_sink = std::move(next);
}

void log(LogLevel level, std::string_view message) {
    std::shared_ptr<const LogSink> sink;
    {
        std::lock_guard lock(sink_mutex);
        sink = current_sink;
    }
    if (!sink) return;
    try {
        (*sink)(level, message);
    } catch (...) {
        // The host's own: what it throws there is no failure of the call that had something to say.
    }
}

}  // namespace polyad
