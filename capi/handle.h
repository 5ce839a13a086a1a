// SPDX-License-Identifier: Apache-2.0
// What a handle is: not an address but a ticket (kind, generation, slot). A handle that was released,
// released twice, of another kind, or made up is recognised and refused; it can never reach freed memory.
#pragma once

#include <cstdint>
#include <memory>

#include "base/error.h"

namespace polyad::capi {

enum class Kind : uint8_t {
    status = 1,
    text,
    context,
    backbone,
    dataset,
    skillset,
    trainer,
    evaluator,
    engine,
    request
};
const char* kind_name(Kind kind);

/// Stores the object and returns its first reference.
void* make_handle(Kind kind, std::shared_ptr<void> object);
/// Null when the handle is not a live handle of this kind.
std::shared_ptr<void> find_handle(Kind kind, const void* handle);
/// False when the handle is not alive.
bool retain_handle(Kind kind, const void* handle);
/// Drops one reference; what is no live handle of this kind is ignored. Returns true when it was the last
/// one.
bool release_handle(Kind kind, const void* handle);

/// Binds a public handle type to the object behind it; specialised by POLYAD_HANDLE below.
template <class Handle>
struct HandleTraits;

#define POLYAD_HANDLE(handle_type, kind_value, object_type) \
    template <>                                             \
    struct HandleTraits<handle_type> {                      \
        using Object = object_type;                         \
        static constexpr Kind kind = Kind::kind_value;      \
    }

template <class Handle>
Handle* wrap(std::shared_ptr<typename HandleTraits<Handle>::Object> object) {
    return static_cast<Handle*>(make_handle(HandleTraits<Handle>::kind, std::move(object)));
}

/// The object behind a handle, kept alive for as long as the result is held.
template <class Handle>
std::shared_ptr<typename HandleTraits<Handle>::Object> get(const Handle* handle) {
    using Traits = HandleTraits<Handle>;
    if (!handle) fail(Code::invalid_argument, kind_name(Traits::kind), " handle is NULL");
    auto object = find_handle(Traits::kind, handle);
    if (!object)
        fail(Code::invalid_argument, "not a live ", kind_name(Traits::kind),
             " handle: released already, or of another kind");
    return std::static_pointer_cast<typename Traits::Object>(object);
}

/// As get(), but null stays null.
template <class Handle>
std::shared_ptr<typename HandleTraits<Handle>::Object> get_optional(const Handle* handle) {
    if (!handle) return nullptr;
    return get(handle);
}

}  // namespace polyad::capi
