// SPDX-License-Identifier: Apache-2.0
// The library's one entry: tables, devices, memory, graphs.
#include <algorithm>
#include <cstdio>

#include "kernels/cuda/ops.h"

#if !defined(POLYAD_VERSION)
#error "POLYAD_VERSION is the version the core has"
#endif

namespace polyad::kernels::cuda {
namespace {

constexpr int least_major = 8;

void explain(char* reason, size_t size, const std::string& text) {
    if (!reason || size == 0) return;
    const size_t count = std::min(size - 1, text.size());
    std::memcpy(reason, text.data(), count);
    reason[count] = 0;
}

std::string version_text(int version) {
    return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

/// The number of devices, or 0 and why.
int count_devices(std::string& why) {
    int driver = 0, runtime = 0, count = 0;
    cudaRuntimeGetVersion(&runtime);
    if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
        cudaGetLastError();
        why = "no CUDA driver is installed (libcuda.so.1 was not found)";
        return 0;
    }
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error == cudaSuccess && count > 0) return count;
    cudaGetLastError();
    if (error == cudaErrorInsufficientDriver)
        why = "the CUDA driver is too old: it supports CUDA " + version_text(driver) +
              ", this library needs " + version_text(runtime);
    else if (error == cudaErrorNoDevice || error == cudaSuccess)
        why = "the CUDA driver (" + version_text(driver) + ") sees no device";
    else
        why = std::string("CUDA: ") + cudaGetErrorString(error);
    return 0;
}

int device_count(char* reason, size_t size) {
    std::string why;
    const int count = count_devices(why);
    if (count == 0) explain(reason, size, why);
    return count;
}

int device_info(int device, CudaDevice* out, char* reason, size_t size) {
    std::string why;
    const int count = count_devices(why);
    if (count > 0 && (device < 0 || device >= count))
        why = "CUDA device " + std::to_string(device) + " does not exist, there " +
              (count == 1 ? "is one, 0"
                          : "are " + std::to_string(count) + ", 0 to " + std::to_string(count - 1));
    cudaDeviceProp properties{};
    if (why.empty()) {
        const cudaError_t error = cudaGetDeviceProperties(&properties, device);
        if (error != cudaSuccess) {
            cudaGetLastError();
            why = std::string("CUDA: ") + cudaGetErrorString(error);
        } else if (properties.major < least_major) {
            why = std::string(properties.name) + " has compute capability " +
                  std::to_string(properties.major) + "." + std::to_string(properties.minor) +
                  ", at least 8.0 is wanted";
        }
    }
    if (!why.empty()) {
        explain(reason, size, why);
        return -1;
    }
    *out = {};
    std::snprintf(out->name, sizeof out->name, "%s", properties.name);
    out->memory = properties.totalGlobalMem;
    out->major = properties.major;
    out->minor = properties.minor;
    out->multiprocessors = properties.multiProcessorCount;
    cudaDriverGetVersion(&out->driver);
    cudaRuntimeGetVersion(&out->runtime);
    int before = 0;
    size_t available = 0, total = 0;
    cudaGetDevice(&before);
    if (cudaSetDevice(device) == cudaSuccess && cudaMemGetInfo(&available, &total) == cudaSuccess)
        out->free = available;
    cudaSetDevice(before);
    return 0;
}

/// Like run(), for what is no operator.
template <class Body>
void guard(Body&& body) {
    try {
        body();
    } catch (const Failure& failure) {
        keep_error(failure.message);
    } catch (const std::exception& error) {
        keep_error(error.what());
    }
}

void use_stream(int device, void* stream) {
    guard([&] { set_stream(device, static_cast<cudaStream_t>(stream)); });
}

void* allocate(uint64_t bytes) {
    void* memory = nullptr;
    guard([&] {
        current_context();
        const cudaError_t error = cudaMalloc(&memory, std::max<uint64_t>(bytes, 1));
        if (error == cudaSuccess) return;
        memory = nullptr;
        cudaGetLastError();
        size_t available = 0, total = 0;
        cudaMemGetInfo(&available, &total);
        fail("out of device memory: %llu MiB wanted, %zu of %zu MiB are free (%s)",
             static_cast<unsigned long long>((bytes >> 20) + 1), available >> 20, total >> 20,
             cudaGetErrorName(error));
    });
    return memory;
}

void release(void* p) {
    guard([&] { check(cudaFree(p), "release"); });
}

void upload(void* to, const void* from, int64_t bytes) {
    run("upload", [&](Call& call) { call.upload(to, from, bytes); });
}

void copy(void* to, const void* from, uint64_t bytes) {
    guard([&] {
        if (bytes == 0) return;
        const cudaStream_t stream = current_context().stream;
        check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream), "copy");
        const auto on_device = [](const void* p) {
            cudaPointerAttributes attributes{};
            return cudaPointerGetAttributes(&attributes, p) == cudaSuccess &&
                   attributes.type == cudaMemoryTypeDevice;
        };
        if (!on_device(to) || !on_device(from)) check(cudaStreamSynchronize(stream), "copy");
    });
}

void zero(void* p, uint64_t bytes) {
    guard([&] { check(cudaMemsetAsync(p, 0, bytes, current_context().stream), "zero"); });
}

void synchronise() {
    guard([&] { check(cudaStreamSynchronize(current_context().stream), "synchronise"); });
}

void* stream_create() {
    cudaStream_t stream = nullptr;
    guard([&] {
        current_context();
        check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream_create");
    });
    return stream;
}

void stream_release(void* stream) {
    guard([&] { check(cudaStreamDestroy(static_cast<cudaStream_t>(stream)), "stream_release"); });
}

void bind(const void* host, uint64_t bytes, const void* device) {
    guard([&] {
        Context& context = current_context();
        const std::lock_guard<std::mutex> lock(context.mutex);
        context.bind(host, bytes, device);
    });
}

void unbind(const void* host) {
    guard([&] {
        Context& context = current_context();
        const std::lock_guard<std::mutex> lock(context.mutex);
        context.unbind(host);
    });
}

void graph_begin() {
    guard([] {
        check(cudaStreamBeginCapture(current_context().stream, cudaStreamCaptureModeThreadLocal),
              "graph_begin");
    });
}

void* graph_end() {
    cudaGraphExec_t exec = nullptr;
    guard([&] {
        cudaGraph_t graph = nullptr;
        check(cudaStreamEndCapture(current_context().stream, &graph), "graph_end");
        const cudaError_t error = cudaGraphInstantiate(&exec, graph, 0);
        cudaGraphDestroy(graph);
        check(error, "graph_end");
    });
    return exec;
}

void graph_launch(void* graph) {
    guard([&] {
        check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), current_context().stream), "graph_launch");
    });
}

void graph_release(void* graph) {
    guard([&] { check(cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph)), "graph_release"); });
}

OpTable table() {
    OpTable t{};
    t.isa = "cuda";
    t.upload = upload;
    t.dequantise = dequantise;
    t.dequantise_bf16 = dequantise_bf16;
    t.multiply_packed = multiply_packed;
    t.to_bf16 = to_bf16;
    t.from_bf16 = from_bf16;
    t.rms_norm = rms_norm;
    t.rms_norm_backward = rms_norm_backward;
    t.add_rms_norm = add_rms_norm;
    t.rope = rope;
    t.swiglu = swiglu;
    t.swiglu_backward = swiglu_backward;
    t.add = add;
    t.append = append;
    t.attention = attention;
    t.attention_backward = attention_backward;
    t.low_rank_down = low_rank_down;
    t.low_rank_up = low_rank_up;
    t.low_rank_rows = low_rank_rows;
    t.low_rank = low_rank;
    t.low_rank_up_backward = low_rank_up_backward;
    t.low_rank_down_backward = low_rank_down_backward;
    t.gate = gate;
    t.gate_backward = gate_backward;
    t.mix_factors = mix_factors;
    t.mix_factors_backward = mix_factors_backward;
    t.cross_entropy = cross_entropy;
    t.adamw = adamw;
    t.sum_squares = sum_squares;
    return t;
}

const OpTable ops = table();
const CudaOps more = {sample, nearest};
const CudaLibrary library = {
    POLYAD_VERSION, device_count, device_info,   &ops,           &more,       use_stream, take_error,
    set_reclaim,    allocate,     release,       copy,           zero,        synchronise, stream_create,
    stream_release, bind,         unbind,        graph_begin,    graph_end,   graph_launch, graph_release,
};

}  // namespace
}  // namespace polyad::kernels::cuda

extern "C" __attribute__((visibility("default"))) const polyad::kernels::CudaLibrary* polyad_cuda_library(
    const char* core_version, char* reason, size_t size) {
    using namespace polyad::kernels::cuda;
    if (!core_version || std::strcmp(core_version, POLYAD_VERSION) != 0) {
        explain(reason, size,
                std::string("libpolyad_cuda.so is version " POLYAD_VERSION ", the core is version ") +
                    (core_version ? core_version : "unknown"));
        return nullptr;
    }
    return &library;
}
