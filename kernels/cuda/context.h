// SPDX-License-Identifier: Apache-2.0
// Host side that every operator shares: the thread's stream, its scratch memory, index arrays on their way to
// the device, errors.
#pragma once

#include <cuda_runtime.h>

#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "kernels/op_table.h"

namespace polyad::kernels::cuda {

/// What stops an operator; caught at the table's boundary, kept for take_error.
struct Failure {
    std::string message;
};
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));
/// Fails with CUDA's own text.
void check(cudaError_t error, const char* what);

/// What belongs to one stream of one device. Used under its lock, one operator at a time.
class Context {
  public:
    Context(int device, cudaStream_t stream);

    std::mutex mutex;
    const int device;
    const cudaStream_t stream;
    int multiprocessors = 0, major = 0;
    int shared_limit = 0;  ///< bytes of shared memory a block may ask for

    /// Memory that is good until the running operator's kernels are done. Never given back: captured graphs
    /// keep its addresses.
    void* scratch(size_t bytes);
    void begin_operator() { chunk_ = 0, used_ = 0, asked_ = false; }

    /// Lets a kernel use `bytes` of dynamic shared memory, which may be more than a device gives unasked.
    void allow_shared(const void* kernel, int bytes);

    /// OpTable::upload.
    void upload(void* to, const void* from, size_t bytes);

    /// The array's contents on the device.
    const void* stage(const void* host, size_t bytes);
    void bind(const void* host, size_t bytes, const void* device);
    void unbind(const void* host);
    bool is_bound(const void* host) const;

  private:
    struct Chunk {
        std::byte* memory;
        size_t size;
    };
    struct Staged {
        uint64_t hash;
        std::vector<std::byte> content;
        std::byte* memory;
        size_t size;
        bool frozen;  ///< a graph reads it: never written again
    };
    struct Bound {
        const std::byte* host;
        size_t bytes;
        const std::byte* device;
    };
    using Entries = std::list<Staged>;

    bool capturing();
    std::byte* block(size_t bytes, size_t& size);
    void send(std::byte* to, const std::byte* from, size_t bytes);
    cudaError_t allocate_again(void** memory, size_t bytes);

    std::vector<Chunk> chunks_;
    size_t chunk_ = 0, used_ = 0;
    bool asked_ = false, capturing_ = false;  ///< of the running operator
    Entries recent_;                          ///< latest first
    std::unordered_multimap<uint64_t, Entries::iterator> by_hash_;
    std::unordered_map<size_t, std::vector<std::byte*>> free_blocks_;
    std::byte* slab_ = nullptr;
    size_t slab_left_ = 0;
    std::vector<Bound> bound_;
    std::unordered_map<const void*, int> most_shared_;  ///< bytes a kernel may use now
};

/// The calling thread's device and stream.
void set_stream(int device, cudaStream_t stream);
Context& current_context();
const char* take_error();
void set_reclaim(void (*reclaim)(int device));
void keep_error(const std::string& message);

/// A running operator: holds the stream's lock.
class Call {
  public:
    explicit Call(const char* name) : name_(name), context_(current_context()), lock_(context_.mutex) {
        context_.begin_operator();
    }
    cudaStream_t stream() const { return context_.stream; }
    int multiprocessors() const { return context_.multiprocessors; }
    int major() const { return context_.major; }
    int shared_limit() const { return context_.shared_limit; }
    const char* name() const { return name_; }

    template <class T>
    T* scratch(int64_t count) {
        return static_cast<T*>(context_.scratch(static_cast<size_t>(count) * sizeof(T)));
    }
    template <class T>
    const T* stage(const T* host, int64_t count) {
        return static_cast<const T*>(context_.stage(host, static_cast<size_t>(count) * sizeof(T)));
    }
    template <class T>
    const T* stage(const std::vector<T>& host) {
        return stage(host.data(), static_cast<int64_t>(host.size()));
    }
    bool is_bound(const void* host) const { return context_.is_bound(host); }
    void upload(void* to, const void* from, int64_t bytes) {
        context_.upload(to, from, static_cast<size_t>(bytes));
    }
    template <class Kernel>
    void allow_shared(Kernel* kernel, int bytes) {
        context_.allow_shared(reinterpret_cast<const void*>(kernel), bytes);
    }
    /// After a launch.
    void launched() const { check(cudaGetLastError(), name_); }

  private:
    const char* name_;
    Context& context_;
    std::lock_guard<std::mutex> lock_;
};

/// Runs one operator's body; what goes wrong is kept for take_error.
template <class Body>
void run(const char* name, Body&& body) {
    try {
        Call call(name);
        body(call);
    } catch (const Failure& failure) {
        keep_error(failure.message);
    } catch (const std::exception& error) {
        keep_error(std::string(name) + ": " + error.what());
    }
}

inline unsigned blocks_for(int64_t items, int64_t per_block) {
    return static_cast<unsigned>((items + per_block - 1) / per_block);
}
inline bool aligned16(const void* p) {
    return reinterpret_cast<uintptr_t>(p) % 16 == 0;
}

}  // namespace polyad::kernels::cuda
