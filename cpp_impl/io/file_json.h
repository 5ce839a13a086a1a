// SPDX-License-Identifier: Apache-2.0
// JSON that came out of a model file: failures are the file's (Code::bad_format), not the caller's
// configuration.
#pragma once

#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/config.h"
#include "base/error.h"

namespace polyad {

/// Runs `read`, turning Code::invalid_config into Code::bad_format with the same message.
template <class Read>
auto reading_file(Read&& read) {
    try {
        return read();
    } catch (const Error& e) {
        if (e.code() != Code::invalid_config) throw;
        throw Error(Code::bad_format, e.what(), e.detail());
    }
}

/// Parses a file's JSON object; `what` names it in messages.
inline Json parse_file_json(std::string_view source, const std::string& what) {
    if (const size_t at = find_invalid_utf8(source); at != std::string_view::npos)
        fail(Code::bad_format, what, ": invalid UTF-8 at byte ", at);
    Json out = reading_file([&] { return parse_json(source, what); });
    if (!out.is_object()) fail(Code::bad_format, what, ": needs a JSON object, got ", out.type_name());
    return out;
}

}  // namespace polyad
