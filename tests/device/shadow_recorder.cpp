// SPDX-License-Identifier: Apache-2.0
#include "device/shadow_recorder.h"

#include <atomic>
#include <map>
#include <mutex>
#include <utility>

#include "base/error.h"

namespace polyad {
namespace {

using Tape = std::vector<std::function<void()>>;

std::atomic<bool> refuses{false};
std::atomic<int64_t> waits{0};
struct Calls {
    std::mutex mutex;
    std::map<int64_t, int64_t> of_stream;
} calls;
thread_local int64_t stream = 0;

thread_local Tape* tape = nullptr;  ///< of what is being recorded

class ShadowRecorder;
thread_local const ShadowRecorder* inside = nullptr;

class ShadowRecording final : public Recording {
  public:
    ShadowRecording(std::unique_ptr<ShadowPool> pool, Tape tape)
        : pool_(std::move(pool)), tape_(std::move(tape)) {}
    void play() override {
        const ShadowAge age(pool_->last());
        for (const auto& work : tape_) work();
    }

  private:
    std::unique_ptr<ShadowPool> pool_;
    Tape tape_;
};

class ShadowRecorder final : public Recorder {
  public:
    void rehearse(const std::function<void()>& work) override {
        const Inside here(this);
        work();
    }
    std::unique_ptr<Recording> record(const std::function<void()>& work) override {
        const Inside here(this);
        auto pool = std::make_unique<ShadowPool>();
        Tape recorded;
        {
            const struct Recording {
                explicit Recording(Tape* to) { tape = to; }
                ~Recording() { tape = nullptr; }
            } recording(&recorded);
            if (refuses) shadow_refuse("this");
            work();
        }
        pool->close();
        return std::make_unique<ShadowRecording>(std::move(pool), std::move(recorded));
    }
    void bind(const void* host, size_t bytes, const void* twin) override {
        bound_[static_cast<const std::byte*>(host)] = {bytes, static_cast<const std::byte*>(twin)};
    }
    void unbind(const void* host) override { bound_.erase(static_cast<const std::byte*>(host)); }

    const void* twin(const void* host, size_t bytes) const {
        const auto* from = static_cast<const std::byte*>(host);
        auto at = bound_.upper_bound(from);
        if (at == bound_.begin()) return nullptr;
        --at;
        const auto offset = static_cast<size_t>(from - at->first);
        if (offset >= at->second.bytes) return nullptr;
        POLYAD_CHECK(offset + bytes <= at->second.bytes);  // else the launch reads behind the twin
        return at->second.twin + offset;
    }

  private:
    struct Bound {
        size_t bytes;
        const std::byte* twin;
    };
    struct Inside {
        explicit Inside(const ShadowRecorder* recorder) { inside = recorder; }
        ~Inside() { inside = nullptr; }
    };
    std::map<const std::byte*, Bound> bound_;
};

}  // namespace

std::unique_ptr<Recorder> make_shadow_recorder(at::Device) {
    return std::make_unique<ShadowRecorder>();
}

void set_shadow_refuses_recording(bool now) {
    refuses = now;
}

void shadow_run(std::function<void()> work) {
    work();
    shadow_note(std::move(work));
}

void shadow_note(std::function<void()> work) {
    {
        const std::lock_guard lock(calls.mutex);
        ++calls.of_stream[stream];
    }
    if (tape) tape->push_back(std::move(work));
}

int64_t shadow_stream() {
    return stream;
}

int64_t exchange_shadow_stream(int64_t to) {
    return std::exchange(stream, to);
}

void shadow_waits() {
    ++waits;
}

int64_t take_shadow_waits() {
    return waits.exchange(0);
}

std::map<int64_t, int64_t> take_shadow_calls() {
    const std::lock_guard lock(calls.mutex);
    return std::exchange(calls.of_stream, {});
}

void shadow_refuse(const char* what) {
    if (tape) fail(Code::unsupported, "the shadow device does not record ", what);
}

const void* shadow_twin(const void* host, size_t bytes) {
    return inside ? inside->twin(host, bytes) : nullptr;
}

}  // namespace polyad
