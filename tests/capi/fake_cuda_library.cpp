// SPDX-License-Identifier: Apache-2.0
// Stands for libpolyad_cuda.so where there is no GPU. FAKE_VERSION: what it calls itself; FAKE_DEVICES: how
// many devices it claims to see, 0 = it says that the driver is too old; FAKE_OLD: they are of compute
// capability 7.5, which the library refuses.
#include <cstdio>
#include <cstring>

#include "kernels/cuda/cuda_library.h"

using namespace polyad::kernels;

namespace {

int device_count(char* reason, size_t size) {
    if (FAKE_DEVICES == 0)
        std::snprintf(reason, size, "the driver supports CUDA 12.2, this library needs 13.0");
    return FAKE_DEVICES;
}

int device_info(int, CudaDevice* out, char* reason, size_t size) {
    if (FAKE_OLD) {
        std::snprintf(reason, size, "made up has compute capability 7.5, at least 8.0 is wanted");
        return -1;
    }
    *out = {};
    std::strcpy(out->name, "made up");
    out->memory = uint64_t{8} << 30;
    out->major = 9;
    return 0;
}

CudaLibrary library{};

}  // namespace

extern "C" __attribute__((visibility("default"))) const CudaLibrary* polyad_cuda_library(
    const char* core_version, char* reason, size_t size) {
    if (std::strcmp(core_version, FAKE_VERSION) != 0) {
        std::snprintf(reason, size, "it is of version %s, the core of version %s", FAKE_VERSION,
                      core_version);
        return nullptr;
    }
    library.version = FAKE_VERSION;
    library.device_count = device_count;
    library.device_info = device_info;
    return &library;
}
