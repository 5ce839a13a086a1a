// SPDX-License-Identifier: Apache-2.0
#include "serving/answer_text.h"

#include <algorithm>
#include <utility>

namespace polyad {
namespace {

/// Length of the longest end of `text` that `stop` could begin with, `stop` itself excluded.
size_t possible_beginning(std::string_view text, std::string_view stop) {
    for (size_t n = std::min(text.size(), stop.size() - 1); n > 0; --n)
        if (text.substr(text.size() - n) == stop.substr(0, n)) return n;
    return 0;
}

}  // namespace

AnswerText::AnswerText(std::shared_ptr<const Tokenizer> tokenizer, std::vector<std::string> stop)
    : has_text_(tokenizer != nullptr), stream_(std::move(tokenizer)), stop_(std::move(stop)) {}

std::string AnswerText::push(int32_t id) {
    if (!has_text_ || stopped_) return {};
    return release(stream_.push(id), false);
}

std::string AnswerText::finish() {
    if (!has_text_ || stopped_) return {};
    return release(stream_.finish(), true);
}

std::string AnswerText::release(std::string more, bool last) {
    held_ += more;
    size_t end = std::string::npos, keep = 0;
    for (const std::string& stop : stop_) {
        end = std::min(end, held_.find(stop));
        keep = std::max(keep, possible_beginning(held_, stop));
    }
    stopped_ = end != std::string::npos;
    if (!stopped_) end = last ? held_.size() : held_.size() - keep;
    std::string out = held_.substr(0, end);
    held_.erase(0, stopped_ ? std::string::npos : end);
    return out;
}

}  // namespace polyad
