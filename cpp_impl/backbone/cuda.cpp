// SPDX-License-Identifier: Apache-2.0
#include "backbone/cuda.h"

#include <ATen/Context.h>
#include <c10/core/AllocatorConfig.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <dlfcn.h>

#include <atomic>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <mutex>
#include <vector>

#include "backbone/cuda_recorder.h"
#include "backbone/device.h"
#include "base/error.h"

namespace polyad {
namespace {

namespace fs = std::filesystem;

constexpr const char* library_name = "libpolyad_cuda.so";
constexpr const char* torch_name = "libtorch_cuda.so";
constexpr const char* override_variable = "POLYAD_CUDA_LIBRARY";
constexpr size_t reason_size = 512;

std::atomic<bool> ran_backward{false};

/// The folder of the file that holds this address.
fs::path folder_of(const void* address) {
    Dl_info info{};
    if (!dladdr(address, &info) || !info.dli_fname) return {};
    std::error_code ignored;
    const fs::path file = fs::canonical(info.dli_fname, ignored);
    return ignored ? fs::path(info.dli_fname).parent_path() : file.parent_path();
}

/// What dlopen says without the file's name, which the caller has named already.
std::string open_error(const fs::path& file) {
    const char* said = dlerror();
    std::string why = said ? said : "unknown reason";
    const std::string prefix = file.string() + ": ";
    return why.starts_with(prefix) ? why.substr(prefix.size()) : why;
}

/// Both libraries, each opened at most once and for good: what is registered with LibTorch stays registered.
class Cuda {
  public:
    static Cuda& instance() {
        static Cuda cuda;
        return cuda;
    }

    /// Our kernels. Throws Code::unsupported.
    const kernels::CudaLibrary& library() {
        const std::lock_guard lock(mutex_);
        if (!library_) open_library();
        return *library_;
    }
    const kernels::CudaLibrary* opened() const { return ready_.load(std::memory_order_acquire); }

    /// LibTorch's part; afterwards tensors can be made on CUDA devices.
    void enable() {
        const kernels::CudaLibrary& ours = library();
        const std::lock_guard lock(mutex_);
        if (ready_.load(std::memory_order_relaxed)) return;
        open_torch(share_);
        register_kernels(at::kCUDA, &Cuda::ops, ours.take_error);
        ours.set_reclaim(&give_back_cached);
        register_recorder(at::kCUDA,
                          [](at::Device device) { return make_cuda_recorder(*instance().opened(), device); });
        ready_.store(&ours, std::memory_order_release);
    }

    /// Code::wrong_state when another budget is in force. Takes effect with enable().
    void limit_memory(uint64_t bytes, uint64_t all) {
        const std::lock_guard lock(mutex_);
        if (bytes == limit_) return;
        if (ready_.load(std::memory_order_relaxed))
            fail(Code::wrong_state, "memory_budget: ", bytes, " bytes cannot be set any more, a budget of ",
                 limit_,
                 " (0 = everything) is in force: the first context of a process that asks for a CUDA device "
                 "sets it");
        limit_ = bytes;
        share_ = bytes == 0 ? 1.0 : std::min(1.0, static_cast<double>(bytes) / static_cast<double>(all));
    }

  private:
    static const kernels::OpTable& ops(at::Device device) {
        const kernels::CudaLibrary& library = *instance().opened();
        library.set_stream(device.index(),
                           c10::impl::VirtualGuardImpl(at::kCUDA).getStream(device).native_handle());
        return *library.ops;
    }

    /// What LibTorch's allocator only keeps for later goes back to the device. No harm when it cannot.
    static void give_back_cached(int) {
        try {
            if (auto* allocator = dynamic_cast<c10::DeviceAllocator*>(c10::GetAllocator(at::kCUDA)))
                allocator->emptyCache();
        } catch (const std::exception&) {  // another stream is being captured
        }
    }

    void open_library() {
        std::vector<fs::path> places;
        if (const char* given = std::getenv(override_variable); given && *given) {
            places.emplace_back(given);
        } else {
            const fs::path own = folder_of(reinterpret_cast<const void*>(&note_backward));
            places = {own / library_name, own / ".." / "lib" / library_name};
        }
        std::string tried;
        void* handle = nullptr;
        for (const fs::path& file : places) {
            handle = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
            if (handle) break;
            tried += text(tried.empty() ? "" : "; ", file.string(), ": ", open_error(file));
        }
        if (!handle)
            fail(Code::unsupported, "no CUDA device can be used: ", library_name, " could not be loaded (",
                 tried, "); ", override_variable, " may name another file");
        const auto enter =
            reinterpret_cast<kernels::CudaLibraryFunction>(dlsym(handle, POLYAD_CUDA_LIBRARY_SYMBOL));
        char reason[reason_size] = "it is not Polyad's";
        const kernels::CudaLibrary* library = enter ? enter(POLYAD_VERSION, reason, sizeof reason) : nullptr;
        if (!library) {
            dlclose(handle);
            fail(Code::unsupported, "no CUDA device can be used: ", library_name, " does not fit: ", reason);
        }
        library_ = library;
    }

    static void open_torch(double share) {
        const fs::path folder = folder_of(reinterpret_cast<const void*>(&at::globalContext));
        const fs::path file = folder / torch_name;
        if (!dlopen(file.c_str(), RTLD_NOW | RTLD_GLOBAL))
            fail(Code::unsupported, "no CUDA device can be used: LibTorch's CUDA part ", file.string(),
                 " could not be loaded: ", open_error(file),
                 ". It is part of LibTorch builds for CUDA and has to lie beside libtorch_cpu.so");
        // Read when the allocator starts, and known only to what has just been loaded.
        if (share < 1.0) {
            char setting[64];
            std::snprintf(setting, sizeof setting, "per_process_memory_fraction:%.9f", share);
            c10::CachingAllocator::setAllocatorSettings(setting);
        }
        if (!at::globalContext().hasCUDA())
            fail(ran_backward ? Code::wrong_state : Code::unsupported,
                 "no CUDA device can be used: LibTorch found none when ",
                 ran_backward
                     ? "this process trained on the CPU; create the context for the CUDA device before that"
                     : "it was asked");
    }

    std::mutex mutex_;
    const kernels::CudaLibrary* library_ = nullptr;
    std::atomic<const kernels::CudaLibrary*> ready_{nullptr};  ///< set when both are there
    uint64_t limit_ = 0;
    double share_ = 1.0;  ///< limit_ of the device's memory
};

int count_devices(const kernels::CudaLibrary& library) {
    char reason[reason_size] = "";
    const int count = library.device_count(reason, sizeof reason);
    if (count <= 0) fail(Code::unsupported, "no CUDA device can be used: ", reason);
    return count;
}

kernels::CudaDevice describe(const kernels::CudaLibrary& library, int index) {
    kernels::CudaDevice info{};
    char reason[reason_size] = "";
    if (library.device_info(index, &info, reason, sizeof reason) != 0)
        fail(Code::unsupported, "device 'cuda:", index, "' cannot be used: ", reason);
    return info;
}

/// -1 = the CPU.
int device_index(const std::string& name) {
    if (name == "cpu") return -1;
    if (name == "cuda") return 0;
    int index = -1;
    if (name.starts_with("cuda:")) {
        const char *begin = name.data() + 5, *end = name.data() + name.size();
        const auto [stop, error] = std::from_chars(begin, end, index);
        if (error != std::errc() || stop != end) index = -1;
    }
    if (index < 0)
        fail(Code::invalid_config, "device: '", name,
             "' is not known, allowed: cpu, cuda, cuda:N with N from 0");
    return index;
}

}  // namespace

at::Device open_device(const std::string& name, uint64_t memory_budget) {
    const int index = device_index(name);
    if (index < 0) return at::kCPU;
    Cuda& cuda = Cuda::instance();
    const kernels::CudaLibrary& library = cuda.library();
    const int count = count_devices(library);
    if (index >= count)
        fail(Code::invalid_argument, "device: 'cuda:", index,
             "' does not exist, allowed: cuda:0 to cuda:", count - 1);
    const kernels::CudaDevice info = describe(library, index);
    cuda.limit_memory(memory_budget, info.memory);
    cuda.enable();
    return {at::kCUDA, static_cast<at::DeviceIndex>(index)};
}

Json list_devices() {
    Json devices = Json::array({Json{{"name", "cpu"}, {"usable", true}}});
    Json out = {{"cuda", nullptr}};
    try {
        const kernels::CudaLibrary& library = Cuda::instance().library();
        const int count = count_devices(library);
        for (int i = 0; i < count; ++i) {
            Json device = {{"name", text("cuda:", i)}};
            try {
                const kernels::CudaDevice info = describe(library, i);
                device["usable"] = true;
                device["description"] = info.name;
                device["memory"] = info.memory;
                device["free"] = info.free;
                device["compute_capability"] = text(info.major, ".", info.minor);
                device["multiprocessors"] = info.multiprocessors;
                device["bf16"] = true;  // every device that is not refused
            } catch (const Error& error) {
                device["usable"] = false;
                device["reason"] = error.what();
            }
            devices.push_back(std::move(device));
        }
    } catch (const Error& error) {
        out["cuda"] = error.what();
    }
    out["devices"] = std::move(devices);
    return out;
}

const kernels::CudaOps* cuda_ops(at::Device device) {
    if (!device.is_cuda()) return nullptr;
    ops_on(device);  // this thread's device and stream
    return Cuda::instance().opened()->more;
}

c10::Stream cuda_stream(at::Device device, void* stream) {
    // LibTorch's number of a stream it did not make is the stream's own address.
    return c10::Stream(c10::Stream::UNSAFE, device,
                       static_cast<c10::StreamId>(reinterpret_cast<intptr_t>(stream)));
}

void note_backward() {
    ran_backward = true;
}

}  // namespace polyad
