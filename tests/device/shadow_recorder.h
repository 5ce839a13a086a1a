// SPDX-License-Identifier: Apache-2.0
// Recordings on the shadow device: every call of an operator, with its arguments as they were, to be made
// once more. As CUDA's: memory of what was made inside stays, copies from and to host memory and waiting for
// the device cannot be recorded, index arrays are what they were unless they are bound.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "backbone/recorder.h"
#include "device/shadow_memory.h"

namespace polyad {

std::unique_ptr<Recorder> make_shadow_recorder(at::Device device);
/// From now on everything is refused when it is recorded, or nothing is any more.
void set_shadow_refuses_recording(bool refuses);

/// Does the work of one operator now and, where it is recorded, whenever that plays.
void shadow_run(std::function<void()> work);
/// The same for work that is done already.
void shadow_note(std::function<void()> work);
/// The running thread's stream; 0 = the default one.
int64_t shadow_stream();
int64_t exchange_shadow_stream(int64_t to);
/// Copies between host and device that wait, since the last time, of all threads.
int64_t take_shadow_waits();
void shadow_waits();
/// Calls of operators by stream since the last time, of all threads.
std::map<int64_t, int64_t> take_shadow_calls();

/// For what cannot be recorded: fails while something is.
void shadow_refuse(const char* what);
/// The twin an array has for the running thread's recorder, or null.
const void* shadow_twin(const void* host, size_t bytes);

/// An array that an operator gets in host memory, as the device reads it when it runs.
template <class T>
class ShadowArray {
  public:
    ShadowArray(const T* host, int64_t count)
        : count_(static_cast<size_t>(count)),
          twin_(count > 0 ? shadow_twin(host, count_ * sizeof(T)) : nullptr),
          held_(host ? std::vector<T>(host, host + count) : std::vector<T>()) {}
    /// What the call's launch was made for: the largest values, where the array has a twin.
    const std::vector<T>& at_launch() const { return held_; }
    std::vector<T> now() const {
        if (!twin_) return held_;
        std::vector<T> out(count_);
        std::memcpy(out.data(), shadow_host(twin_), count_ * sizeof(T));
        return out;
    }

  private:
    size_t count_;
    const void* twin_;
    std::vector<T> held_;
};

}  // namespace polyad
