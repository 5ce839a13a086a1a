// SPDX-License-Identifier: Apache-2.0
// Owners for what the Rust crate hands out, and its return codes turned into polyad::Error.
#pragma once

#include <polyad_text.h>

#include <string>
#include <string_view>

#include "base/error.h"

namespace polyad {

class RustString {
  public:
    RustString() = default;
    RustString(const RustString&) = delete;
    RustString& operator=(const RustString&) = delete;
    ~RustString() { polyad_text_string_free(value_); }
    polyad_text_string* out() { return &value_; }
    std::string_view view() const { return {value_.data, value_.size}; }

  private:
    polyad_text_string value_{nullptr, 0};
};

/// Throws for everything but POLYAD_TEXT_OK: `refused` for input the crate will not take, Code::internal for
/// a panic.
inline void check_rust(int status, const RustString& error, Code refused, std::string_view what) {
    if (status == POLYAD_TEXT_OK) return;
    fail(status == POLYAD_TEXT_PANIC ? Code::internal : refused, what, ": ", error.view());
}

}  // namespace polyad
