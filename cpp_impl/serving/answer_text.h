// SPDX-License-Identifier: Apache-2.0
// An answer's text while it grows: whole characters only, and nothing that could still turn out to be the
// beginning of a stop string.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "text/tokenizer.h"

namespace polyad {

class AnswerText {
  public:
    /// `tokenizer` may be null: then there is no text, only ids.
    AnswerText(std::shared_ptr<const Tokenizer> tokenizer, std::vector<std::string> stop);

    /// The text that became certain with this token.
    std::string push(int32_t id);
    /// What was held back, once no token follows.
    std::string finish();
    /// A stop string was found; the text ends before it.
    bool stopped() const { return stopped_; }

  private:
    std::string release(std::string more, bool last);

    bool has_text_;
    TextStream stream_;
    std::vector<std::string> stop_;
    std::string held_;
    bool stopped_ = false;
};

}  // namespace polyad
