// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "text/tokenizer.h"

namespace polyad {

namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";
/// A UTF-8 character has at most four bytes, so at most three U+FFFD at the end may still become one
/// character.
constexpr int kMaxOpen = 3;
/// Ids kept as context once their text is out, and how many may gather before older ones are let go.
constexpr size_t kContext = 8, kWindow = 32;

size_t certain_bytes(std::string_view text) {
    for (int i = 0; i < kMaxOpen && text.ends_with(kReplacement); ++i)
        text.remove_suffix(kReplacement.size());
    return text.size();
}

}  // namespace

std::string TextStream::push(int32_t id) {
    pending_.push_back(id);
    std::string full = tokenizer_->decode(pending_, skip_special_);
    if (!full.starts_with(emitted_)) {
        // A byte-fallback decoder takes back a character when the bytes after it are invalid; what was
        // emitted stays.
        pending_ = {id};
        emitted_.clear();
        full = tokenizer_->decode(pending_, skip_special_);
    }
    const size_t certain = std::max(certain_bytes(full), emitted_.size());
    std::string out = full.substr(emitted_.size(), certain - emitted_.size());
    emitted_ = full.substr(0, certain);
    if (pending_.size() > kWindow) {
        const size_t open = full.size() - certain;
        std::vector<int32_t> tail(pending_.end() - kContext, pending_.end());
        std::string text = tokenizer_->decode(tail, skip_special_);
        if (text.size() >= open) {
            text.resize(text.size() - open);
            pending_ = std::move(tail);
            emitted_ = std::move(text);
        }
    }
    return out;
}

std::string TextStream::finish() {
    const std::string full = tokenizer_->decode(pending_, skip_special_);
    std::string out = full.starts_with(emitted_) ? full.substr(emitted_.size()) : std::string();
    pending_.clear();
    emitted_.clear();
    return out;
}

}  // namespace polyad
