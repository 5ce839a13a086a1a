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

#include "backbone/compute_thread.h"
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
        const OneCore caller;
        body();
        return nullptr;
    } catch (...) {
        return status_from_current_exception();
    }
}

/// For calls that return nothing: what goes wrong is dropped.
template <class Body>
void guarded_quietly(Body&& body) noexcept {
    try {
        body();
    } catch (...) {
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

/// Fills as much of a struct as its caller knows; what it knows beyond this library is zero.
template <class Struct>
void init_struct(Struct* to, size_t struct_size, const Struct& defaults) {
    if (!to || struct_size < sizeof(size_t)) return;
    std::memset(static_cast<void*>(to), 0, struct_size);
    std::memcpy(static_cast<void*>(to), &defaults, std::min(struct_size, sizeof(Struct)));
    to->struct_size = struct_size;
}

/// An out struct is optional, but not uninitialised: refused before the work, not after it.
template <class Struct>
void check_struct(const Struct* to, const char* name) {
    if (to && to->struct_size < sizeof(size_t))
        fail(Code::invalid_argument, name, ".struct_size is ", to->struct_size, ": call its _init first");
}

/// How many of a caller's struct bytes this library and the caller both know.
template <class Struct>
Struct read_struct(const Struct* from, void (*init)(Struct*, size_t), const char* name) {
    Struct out;
    init(&out, sizeof out);
    if (!from) return out;
    check_struct(from, name);
    const size_t size = std::min(from->struct_size, sizeof(Struct));
    std::memcpy(static_cast<void*>(&out), from, size);
    out.struct_size = size;
    return out;
}

template <class Struct>
void write_struct(Struct* to, Struct value, const char* name) {
    if (!to) return;
    check_struct(to, name);
    const size_t size = std::min(to->struct_size, sizeof(Struct));
    value.struct_size = to->struct_size;
    std::memcpy(static_cast<void*>(to), &value, size);
}

/// Who is inside a handle's object now: -1 = one writer, n > 0 = n readers. A clash is WRONG_STATE, not a
/// data race.
using Occupancy = std::atomic<int>;

/// One caller at a time on a non-const handle.
class Exclusive {
  public:
    Exclusive(Occupancy& use, const char* what) : use_(use) {
        int idle = 0;
        if (!use_.compare_exchange_strong(idle, -1))
            fail(Code::wrong_state, "this ", what, " is in use by another call at this moment");
    }
    ~Exclusive() { use_ = 0; }
    Exclusive(const Exclusive&) = delete;
    Exclusive& operator=(const Exclusive&) = delete;

  private:
    Occupancy& use_;
};

/// Any number of callers on a const handle, as long as nobody writes.
class Shared {
  public:
    Shared(Occupancy& use, const char* what) : use_(use) {
        int now = use_.load();
        do {
            if (now < 0)
                fail(Code::wrong_state, "this ", what, " is being changed by another call at this moment");
        } while (!use_.compare_exchange_weak(now, now + 1));
    }
    ~Shared() { --use_; }
    Shared(const Shared&) = delete;
    Shared& operator=(const Shared&) = delete;

  private:
    Occupancy& use_;
};

}  // namespace polyad::capi
