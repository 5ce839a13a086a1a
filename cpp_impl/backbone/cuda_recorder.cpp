// SPDX-License-Identifier: Apache-2.0
// CUDA graphs. LibTorch's own are out of reach for who does not link its CUDA part, but they need no more
// than this: a stream to capture, and a pool of the allocator's that nobody else is given memory of.
#include "backbone/cuda_recorder.h"

#ifdef POLYAD_CUDA_HEADERS

#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/cuda/CUDACachingAllocator.h>

#include <atomic>
#include <exception>
#include <map>
#include <mutex>
#include <shared_mutex>
#include <utility>
#include <vector>

#include "backbone/cuda.h"
#include "backbone/device.h"
#include "base/error.h"
#include "base/log.h"

namespace polyad {
namespace {

using c10::cuda::CUDACachingAllocator::CUDAAllocator;
using kernels::CudaLibrary;

/// LibTorch's allocator, called through its virtual functions only; null when another one was put in.
CUDAAllocator* native_allocator() {
    auto* allocator = dynamic_cast<c10::DeviceAllocator*>(c10::GetAllocator(at::kCUDA));
    if (!allocator) return nullptr;
    auto* cuda = static_cast<CUDAAllocator*>(allocator);
    return cuda->name() == "native" ? cuda : nullptr;
}

/// Streams to capture on, used again: the kernels and LibTorch keep scratch memory for every stream they saw.
class CaptureStreams {
  public:
    static void* take(const CudaLibrary& library, int device) {
        const std::lock_guard lock(mutex());
        std::vector<void*>& streams = idle()[device];
        if (streams.empty()) return library.stream_create();
        void* const stream = streams.back();
        streams.pop_back();
        return stream;
    }
    static void give(int device, void* stream) {
        const std::lock_guard lock(mutex());
        idle()[device].push_back(stream);
    }

  private:
    // Never destroyed: at exit the driver may be gone before them.
    static std::mutex& mutex() {
        static auto& one = *new std::mutex;
        return one;
    }
    static std::map<int, std::vector<void*>>& idle() {
        static auto& all = *new std::map<int, std::vector<void*>>;
        return all;
    }
};

/// Memory of the allocator's that only what is recorded gets.
class Pool {
  public:
    Pool(CUDAAllocator& allocator, c10::DeviceIndex device)
        : allocator_(allocator), device_(device), id_(0, first_id + next_id++) {
        // The pool's first user, so that it stays when no recording is left.
        allocator_.beginAllocateToPool(device_, id_, [](cudaStream_t) { return false; });
        allocator_.endAllocateToPool(device_, id_);
    }
    ~Pool() { leave(); }
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    /// Until stop(), what this stream allocates comes from here. Counts as a user, who leaves with leave().
    void start(void* stream) {
        allocator_.beginAllocateToPool(device_, id_, [stream](cudaStream_t other) {
            return other == static_cast<cudaStream_t>(stream);
        });
    }
    void stop() { allocator_.endAllocateToPool(device_, id_); }
    void leave() noexcept {
        try {
            allocator_.releasePool(device_, id_);
        } catch (const std::exception&) {  // then its memory stays taken
        }
    }

  private:
    // LibTorch counts its own from 1.
    static constexpr c10::CaptureId_t first_id = c10::CaptureId_t{1} << 40;
    inline static std::atomic<c10::CaptureId_t> next_id{0};

    CUDAAllocator& allocator_;
    const c10::DeviceIndex device_;
    const c10::MempoolId_t id_;
};

class CudaRecording final : public Recording {
  public:
    CudaRecording(const CudaLibrary& library, at::Device device, void* graph, std::shared_ptr<Pool> pool)
        : library_(library), device_(device), graph_(graph), pool_(std::move(pool)) {}
    ~CudaRecording() override {
        library_.graph_release(graph_);
        pool_->leave();
    }
    void play() override {
        ops_on(device_);  // this thread's stream
        library_.graph_launch(graph_);
        check_device(device_);
    }

  private:
    const CudaLibrary& library_;
    const at::Device device_;
    void* const graph_;
    const std::shared_ptr<Pool> pool_;
};

class CudaRecorder final : public Recorder {
  public:
    CudaRecorder(const CudaLibrary& library, CUDAAllocator& allocator, at::Device device)
        : library_(library), device_(device), pool_(std::make_shared<Pool>(allocator, device.index())) {
        ops_on(device_);
        stream_ = CaptureStreams::take(library_, device_.index());
        check_device(device_);
    }
    ~CudaRecorder() override {
        if (stream_) CaptureStreams::give(device_.index(), stream_);
    }

    void rehearse(const std::function<void()>& work) override {
        wait_for(device_);
        {
            const DeviceScope there(device_, stream_);
            work();
        }
        wait_for(device_);
        check_device(device_);
    }

    std::unique_ptr<Recording> record(const std::function<void()>& work) override {
        check_device(device_);
        const std::unique_lock alone(waiting_for_devices());
        const DeviceScope there(device_, stream_);
        ops_on(device_);
        std::exception_ptr error;
        pool_->start(stream_);
        library_.graph_begin();
        try {
            check_device(device_);
            work();
        } catch (...) {
            error = std::current_exception();
        }
        ops_on(device_);
        void* const graph = library_.graph_end();
        pool_->stop();
        const char* const said = library_.take_error();
        if (graph && !error && !said) return std::make_unique<CudaRecording>(library_, device_, graph, pool_);
        const std::string why = said ? said : "the capture ended without a graph";
        if (graph) library_.graph_release(graph);
        pool_->leave();
        if (error) std::rethrow_exception(error);
        fail(Code::unsupported, "a step cannot be recorded on ", device_.str(), ": ", why);
    }

    void bind(const void* host, size_t bytes, const void* twin) override {
        const DeviceScope there(device_, stream_);
        ops_on(device_);
        library_.bind(host, bytes, twin);
    }
    void unbind(const void* host) override {
        const DeviceScope there(device_, stream_);
        ops_on(device_);
        library_.unbind(host);
    }

  private:
    const CudaLibrary& library_;
    const at::Device device_;
    const std::shared_ptr<Pool> pool_;
    void* stream_ = nullptr;
};

}  // namespace

std::unique_ptr<Recorder> make_cuda_recorder(const kernels::CudaLibrary& library, at::Device device) {
    CUDAAllocator* allocator = native_allocator();
    if (!allocator) {
        log(LogLevel::info,
            text("decoding on ", device.str(), " without graphs: LibTorch's allocator was replaced"));
        return nullptr;
    }
    return std::make_unique<CudaRecorder>(library, *allocator, device);
}

}  // namespace polyad

#else

namespace polyad {

std::unique_ptr<Recorder> make_cuda_recorder(const kernels::CudaLibrary&, at::Device) {
    return nullptr;
}

}  // namespace polyad

#endif
