// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <map>
#include <utility>

#include "kernels/cuda/context.h"

namespace polyad::kernels::cuda {
namespace {

constexpr size_t least_scratch = size_t{8} << 20;
constexpr size_t slab_bytes = size_t{1} << 20;
constexpr size_t most_entries = 2048;

// Values travel as a kernel's parameters: nothing to pin, nothing to wait for, and a captured graph carries
// them.
template <int Bytes>
struct alignas(16) Parcel {
    uint4 data[Bytes / 16];
};

template <int Bytes>
__global__ void unpack(const __grid_constant__ Parcel<Bytes> parcel, uint4* to, int bytes) {
    const int whole = bytes / 16, rest = bytes % 16;
    for (int i = threadIdx.x; i < whole; i += blockDim.x) to[i] = parcel.data[i];
    if (threadIdx.x < rest)
        reinterpret_cast<unsigned char*>(to + whole)[threadIdx.x] =
            reinterpret_cast<const unsigned char*>(parcel.data + whole)[threadIdx.x];
}

template <int Bytes>
void send_parcel(cudaStream_t stream, std::byte* to, const std::byte* from, size_t bytes) {
    Parcel<Bytes> parcel;
    std::memcpy(&parcel, from, bytes);
    unpack<Bytes><<<1, 128, 0, stream>>>(parcel, reinterpret_cast<uint4*>(to), static_cast<int>(bytes));
}

uint64_t hash_of(const void* data, size_t bytes) {
    const auto* p = static_cast<const unsigned char*>(data);
    uint64_t h = 0x9e3779b97f4a7c15u ^ bytes;
    for (; bytes >= 8; p += 8, bytes -= 8) {
        uint64_t word;
        std::memcpy(&word, p, 8);
        h = (h ^ word) * 0xff51afd7ed558ccdu;
        h ^= h >> 29;
    }
    for (; bytes > 0; ++p, --bytes) h = (h ^ *p) * 0xff51afd7ed558ccdu;
    return h ^ h >> 32;
}

struct ThreadState {
    Context* context = nullptr;
    std::string error, shown;
};
thread_local ThreadState state;

Context& context_of(int device, cudaStream_t stream) {
    // Contexts are never destroyed: at exit the driver may be gone before them.
    static auto& mutex = *new std::mutex;
    static auto& contexts = *new std::map<std::pair<int, cudaStream_t>, std::unique_ptr<Context>>;
    const std::lock_guard<std::mutex> lock(mutex);
    auto& context = contexts[{device, stream}];
    if (!context) context = std::make_unique<Context>(device, stream);
    return *context;
}

/// cudaMalloc, also while a stream is being captured: memory is no part of the graph.
cudaError_t allocate_now(void** memory, size_t bytes) {
    cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    cudaThreadExchangeStreamCaptureMode(&mode);
    const cudaError_t error = cudaMalloc(memory, bytes);
    cudaThreadExchangeStreamCaptureMode(&mode);
    return error;
}

std::atomic<void (*)(int)> reclaim_memory{nullptr};

[[noreturn]] void out_of_memory(const char* what, size_t bytes, cudaError_t error) {
    cudaGetLastError();
    size_t available = 0, total = 0;
    cudaMemGetInfo(&available, &total);
    fail("out of device memory: %s of %zu MiB is wanted, %zu of %zu MiB are free (%s)", what,
         (bytes >> 20) + 1, available >> 20, total >> 20, cudaGetErrorName(error));
}

}  // namespace

void set_reclaim(void (*reclaim)(int device)) {
    reclaim_memory = reclaim;
}

void fail(const char* format, ...) {
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    throw Failure{text};
}

void check(cudaError_t error, const char* what) {
    if (error == cudaSuccess) return;
    cudaGetLastError();  // or the next launch would be blamed for it
    fail("%s: CUDA: %s (%s)", what, cudaGetErrorString(error), cudaGetErrorName(error));
}

Context::Context(int device_index, cudaStream_t given) : device(device_index), stream(given) {
    check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device),
          "device attributes");
    check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "device attributes");
    check(cudaDeviceGetAttribute(&shared_limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
          "device attributes");
}

void* Context::scratch(size_t bytes) {
    bytes = (bytes + 255) / 256 * 256;
    while (chunk_ < chunks_.size() && used_ + bytes > chunks_[chunk_].size) {
        ++chunk_;
        used_ = 0;
    }
    if (chunk_ == chunks_.size()) {
        const size_t size = std::max({bytes, least_scratch, chunks_.empty() ? 0 : 2 * chunks_.back().size});
        void* memory = nullptr;
        size_t got = size;
        cudaError_t error = allocate_now(&memory, got);
        if (error == cudaErrorMemoryAllocation) {
            got = bytes;
            error = allocate_again(&memory, got);
        }
        if (error != cudaSuccess) out_of_memory("an operator's scratch memory", bytes, error);
        chunks_.push_back({static_cast<std::byte*>(memory), got});
        used_ = 0;
    }
    void* out = chunks_[chunk_].memory + used_;
    used_ += bytes;
    return out;
}

/// A kernel's limit is set to all that the device has besides the kernel's own arrays, whatever is asked for
/// first: later calls may want more.
void Context::allow_shared(const void* kernel, int bytes) {
    auto at = most_shared_.find(kernel);
    if (at == most_shared_.end()) {
        cudaFuncAttributes attributes{};
        check(cudaFuncGetAttributes(&attributes, kernel), "shared memory");
        const int most = shared_limit - static_cast<int>(attributes.sharedSizeBytes);
        check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most),
              "shared memory");
        at = most_shared_.emplace(kernel, most).first;
    }
    if (bytes > at->second)
        fail("a kernel needs %d KiB of shared memory, this device has %d for it", bytes >> 10,
             at->second >> 10);
}

/// Asked once an operator: the driver takes its time.
bool Context::capturing() {
    if (!asked_) {
        cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
        capturing_ =
            cudaStreamIsCapturing(stream, &status) == cudaSuccess && status == cudaStreamCaptureStatusActive;
        asked_ = true;
    }
    return capturing_;
}

/// Where there was too little: once more, after others have given back what they only kept.
cudaError_t Context::allocate_again(void** memory, size_t bytes) {
    cudaGetLastError();
    const auto reclaim = reclaim_memory.load();
    if (reclaim && !capturing()) reclaim(device);
    return allocate_now(memory, bytes);
}

/// Device memory for an array, of one of few sizes.
std::byte* Context::block(size_t bytes, size_t& size) {
    size = 256;
    while (size < bytes) size *= 2;
    auto& free_list = free_blocks_[size];
    if (!free_list.empty()) {
        std::byte* memory = free_list.back();
        free_list.pop_back();
        return memory;
    }
    if (slab_left_ < size) {
        const size_t wanted = std::max(slab_bytes, size);
        void* memory = nullptr;
        cudaError_t error = allocate_now(&memory, wanted);
        if (error == cudaErrorMemoryAllocation) error = allocate_again(&memory, wanted);
        if (error != cudaSuccess) out_of_memory("an index array's memory", wanted, error);
        slab_ = static_cast<std::byte*>(memory);
        slab_left_ = wanted;
    }
    std::byte* memory = slab_;
    slab_ += size;
    slab_left_ -= size;
    return memory;
}

void Context::send(std::byte* to, const std::byte* from, size_t bytes) {
    constexpr size_t small = 960, large = 3840;
    for (size_t at = 0; at < bytes; at += large) {
        const size_t count = std::min(large, bytes - at);
        if (count <= small)
            send_parcel<small>(stream, to + at, from + at, count);
        else
            send_parcel<large>(stream, to + at, from + at, count);
    }
    check(cudaGetLastError(), "upload of an index array");
}

void Context::upload(void* to, const void* from, size_t bytes) {
    constexpr size_t most_sent = size_t{256} << 10;  // some 70 launches: a copy's wait costs no more
    if (bytes == 0) return;
    if (bytes > most_sent) {
        check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream), "upload");
        check(cudaStreamSynchronize(stream), "upload");
        return;
    }
    if (!aligned16(to)) fail("upload: %p is no multiple of 16", to);
    send(static_cast<std::byte*>(to), static_cast<const std::byte*>(from), bytes);
}

const void* Context::stage(const void* host, size_t bytes) {
    const auto* from = static_cast<const std::byte*>(host);
    for (const Bound& bound : bound_)
        if (from >= bound.host && from + bytes <= bound.host + bound.bytes)
            return bound.device + (from - bound.host);
    if (bytes == 0) return nullptr;
    const bool capture = capturing();
    const uint64_t hash = hash_of(host, bytes);
    const auto range = by_hash_.equal_range(hash);
    for (auto it = range.first; it != range.second; ++it) {
        Staged& entry = *it->second;
        if (entry.content.size() != bytes || std::memcmp(entry.content.data(), host, bytes) != 0) continue;
        // What was written before the capture stays as it is from now on.
        entry.frozen |= capture;
        recent_.splice(recent_.begin(), recent_, it->second);
        return entry.memory;
    }
    if (recent_.size() >= most_entries) {
        auto victim = recent_.end();
        while (victim != recent_.begin()) {
            --victim;
            if (victim->frozen) continue;
            // Reused in stream order: kernels queued before have read it by then.
            free_blocks_[victim->size].push_back(victim->memory);
            const auto same = by_hash_.equal_range(victim->hash);
            for (auto it = same.first; it != same.second; ++it)
                if (it->second == victim) {
                    by_hash_.erase(it);
                    break;
                }
            recent_.erase(victim);
            break;
        }
    }
    Staged entry{hash, {from, from + bytes}, nullptr, 0, capture};
    entry.memory = block(bytes, entry.size);
    send(entry.memory, from, bytes);
    std::byte* memory = entry.memory;
    // An upload inside a capture happens at each replay only: nobody else may count on it.
    recent_.push_front(std::move(entry));
    if (!capture) by_hash_.emplace(hash, recent_.begin());
    return memory;
}

void Context::bind(const void* host, size_t bytes, const void* twin) {
    unbind(host);
    bound_.push_back({static_cast<const std::byte*>(host), bytes, static_cast<const std::byte*>(twin)});
}

void Context::unbind(const void* host) {
    std::erase_if(bound_, [&](const Bound& bound) { return bound.host == host; });
}

bool Context::is_bound(const void* host) const {
    const auto* p = static_cast<const std::byte*>(host);
    return std::any_of(bound_.begin(), bound_.end(),
                       [&](const Bound& bound) { return p >= bound.host && p < bound.host + bound.bytes; });
}

void set_stream(int device, cudaStream_t stream) {
    Context* now = state.context;
    const bool same = now && now->device == device;
    if (!same || now->stream != stream) {
        state.context = nullptr;
        state.context = &context_of(device, stream);
    }
    // With one device nobody can have made another the current one.
    static const int count = [] {
        int n = 0;
        return cudaGetDeviceCount(&n) == cudaSuccess ? n : 0;
    }();
    if (!same || count != 1) check(cudaSetDevice(device), "cudaSetDevice");
}

Context& current_context() {
    if (!state.context) set_stream(0, nullptr);
    return *state.context;
}

void keep_error(const std::string& message) {
    if (state.error.empty()) state.error = message;
}

const char* take_error() {
    if (state.error.empty()) return nullptr;
    state.shown = std::move(state.error);
    state.error.clear();
    return state.shown.c_str();
}

}  // namespace polyad::kernels::cuda
