// SPDX-License-Identifier: Apache-2.0
#include "handle.h"

#include <mutex>
#include <shared_mutex>
#include <vector>

namespace polyad::capi {
namespace {

// A ticket is [0x70 | kind : 8][generation : 28][slot : 28]: never NULL, and outside the canonical address
// range, so that no garbage collector takes it for a pointer into its heap.
static_assert(sizeof(void*) == 8, "handles are 64-bit tickets");
constexpr int slot_bits = 28, generation_bits = 28;
constexpr uint64_t slot_mask = (uint64_t{1} << slot_bits) - 1,
                   generation_mask = (uint64_t{1} << generation_bits) - 1;

struct Slot {
    std::shared_ptr<void> object;
    uint64_t generation = 1;
    int64_t references = 0;
    Kind kind{};
};

struct Table {
    std::shared_mutex mutex;
    std::vector<Slot> slots;
    std::vector<uint32_t> free;
};

Table& table() {
    static Table* instance = new Table;  // never destroyed: handles may be released during process exit
    return *instance;
}

Slot* locate(Table& t, Kind kind, const void* handle) {
    const uint64_t ticket = reinterpret_cast<uintptr_t>(handle);
    if (ticket >> 56 != (0x70u | static_cast<uint64_t>(kind))) return nullptr;
    const uint64_t index = ticket & slot_mask, generation = ticket >> slot_bits & generation_mask;
    if (index >= t.slots.size()) return nullptr;
    Slot& slot = t.slots[index];
    return slot.references > 0 && slot.generation == generation && slot.kind == kind ? &slot : nullptr;
}

}  // namespace

const char* kind_name(Kind kind) {
    switch (kind) {
        case Kind::status:
            return "status";
        case Kind::text:
            return "text";
        case Kind::context:
            return "context";
        case Kind::backbone:
            return "backbone";
        case Kind::dataset:
            return "dataset";
        case Kind::skillset:
            return "skillset";
        case Kind::trainer:
            return "trainer";
        case Kind::evaluator:
            return "evaluator";
        case Kind::engine:
            return "engine";
        case Kind::request:
            return "request";
    }
    return "unknown";
}

void* make_handle(Kind kind, std::shared_ptr<void> object) {
    Table& t = table();
    std::unique_lock lock(t.mutex);
    if (t.free.empty()) {
        if (t.slots.size() > slot_mask) fail(Code::out_of_memory, "more than ", slot_mask, " handles alive");
        t.slots.emplace_back();
        t.free.reserve(t.slots.size());  // so that a release never has to allocate
        t.free.push_back(static_cast<uint32_t>(t.slots.size() - 1));
    }
    const uint32_t index = t.free.back();
    t.free.pop_back();
    Slot& slot = t.slots[index];
    slot.object = std::move(object);
    slot.references = 1;
    slot.kind = kind;
    const uint64_t ticket =
        (0x70u | static_cast<uint64_t>(kind)) << 56 | slot.generation << slot_bits | index;
    return reinterpret_cast<void*>(static_cast<uintptr_t>(ticket));
}

std::shared_ptr<void> find_handle(Kind kind, const void* handle) {
    Table& t = table();
    std::shared_lock lock(t.mutex);
    const Slot* slot = locate(t, kind, handle);
    return slot ? slot->object : nullptr;
}

bool retain_handle(Kind kind, const void* handle) {
    Table& t = table();
    std::unique_lock lock(t.mutex);
    Slot* slot = locate(t, kind, handle);
    if (slot) ++slot->references;
    return slot != nullptr;
}

bool release_handle(Kind kind, const void* handle) {
    if (!handle) return false;
    std::shared_ptr<void> last;  // destroyed after the lock is gone: destructors may be long
    Table& t = table();
    std::unique_lock lock(t.mutex);
    Slot* slot = locate(t, kind, handle);
    if (!slot || --slot->references > 0) return false;
    last = std::move(slot->object);
    slot->object = nullptr;
    slot->generation = slot->generation == generation_mask ? 1 : slot->generation + 1;
    t.free.push_back(static_cast<uint32_t>(reinterpret_cast<uintptr_t>(handle) & slot_mask));
    lock.unlock();
    return true;
}

}  // namespace polyad::capi
