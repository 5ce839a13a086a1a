// SPDX-License-Identifier: Apache-2.0
// The line no exception crosses, and what every file of the C layer shares.
#pragma once

#include <polyad/polyad.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <string>
#include <string_view>
#include <type_traits>

#include "base/config.h"
#include "handle.h"

namespace polyad::capi {

struct StatusObject {
    int32_t code;
    std::string message, detail;
};

/// Turns the exception in flight into a status handle.
polyad_status* status_from_current_exception() noexcept;

/// Runs `body`; NULL when it returned, a status when it threw.
template <class Body>
polyad_status* guarded(Body&& body) noexcept {
    try {
        body();
        return nullptr;
    } catch (...) {
        return status_from_current_exception();
    }
}

/// Refuses a NULL out parameter and clears it, so that a failing call leaves it empty.
template <class T>
void clear_out(T* out, const char* name) {
    if (!out) fail(Code::invalid_argument, "out parameter '", name, "' is NULL");
    *out = T{};
}

/// A required NUL-terminated UTF-8 string.
std::string required_string(const char* value, const char* name);
/// JSON options: NULL or "" is an empty object.
Json options_json(const char* json, const char* name);
/// Bytes with a size; NULL is allowed only with size 0.
std::string_view byte_view(const void* data, size_t size, const char* name);

polyad_text* make_text(std::string value);
polyad_text* make_text(const Json& value);

/// How many of a caller's struct bytes this library and the caller both know.
template <class Struct>
Struct read_struct(const Struct* from, void (*init)(Struct*), const char* name) {
    Struct out;
    init(&out);
    if (!from) return out;
    if (from->struct_size < sizeof(size_t))
        fail(Code::invalid_argument, name, ".struct_size is ", from->struct_size, ": call its _init function first");
    const size_t size = std::min(from->struct_size, sizeof(Struct));
    std::memcpy(static_cast<void*>(&out), from, size);
    out.struct_size = size;
    return out;
}

template <class Struct>
void write_struct(Struct* to, Struct value, const char* name) {
    if (!to) return;
    if (to->struct_size < sizeof(size_t))
        fail(Code::invalid_argument, name, ".struct_size is ", to->struct_size, ": call its _init function first");
    const size_t size = std::min(to->struct_size, sizeof(Struct));
    value.struct_size = to->struct_size;
    std::memcpy(static_cast<void*>(to), &value, size);
}

/// One caller at a time on a non-const handle: the second one gets WRONG_STATE instead of a data race.
class Exclusive {
  public:
    Exclusive(std::atomic<bool>& busy, const char* what) : busy_(busy) {
        if (busy_.exchange(true))
            fail(Code::wrong_state, "this ", what, " is in use by another call at this moment; only cancel may run beside it");
    }
    ~Exclusive() { busy_ = false; }
    Exclusive(const Exclusive&) = delete;
    Exclusive& operator=(const Exclusive&) = delete;

  private:
    std::atomic<bool>& busy_;
};

}  // namespace polyad::capi
