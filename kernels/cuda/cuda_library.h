// SPDX-License-Identifier: Apache-2.0
// libpolyad_cuda.so as the core sees it: one C function that hands out a table of plain functions. Neither
// LibTorch nor a CUDA header is needed to use it, and loading it needs no driver.
//
// Memory: tensor pointers (activations, factors, gates, cos and sin, float results) lie on the device. Index
// arrays (Rows::begin, group_of_row, query_begin, key_count, k_row, v_row, position, target, token lists,
// Sampling) lie in host memory and are read before the call returns; they travel to the device once per
// content. `quiet` below says how a captured graph keeps them at addresses of its own.
//
// Streams: every call is queued on the calling thread's stream (set_stream) and returns at once; only those
// that say so wait for the device. Calls on one stream from several threads take turns.
//
// Errors: an operator that cannot run (bad shape, launch failed, out of device memory) queues nothing more
// and leaves a message for take_error. Nothing throws.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/op_table.h"

#define POLYAD_CUDA_LIBRARY_SYMBOL "polyad_cuda_library"

namespace polyad::kernels {

struct CudaDevice {
    char name[256];
    uint64_t memory;       ///< bytes
    uint64_t free;         ///< bytes, now
    int32_t major, minor;  ///< compute capability
    int32_t multiprocessors;
    int32_t driver;   ///< CUDA version the driver supports, 1000 * major + 10 * minor
    int32_t runtime;  ///< CUDA version the library was built with
};

/// How one row's next token is chosen: penalty, temperature, top-k, top-p, draw, in this order.
struct Sampling {
    float temperature;         ///< 0 = greedy
    int32_t top_k;             ///< 0 = off
    float top_p;               ///< 1 = off
    float repetition_penalty;  ///< 1 = off
    double draw;               ///< uniform in [0, 1)
};

/// Operators beyond the common table. Pointers as there.
struct CudaOps {
    /// token[i] of logits [n, vocab]: options[i]; the ids seen[seen_rows.begin[i] ...) are penalised (prompt
    /// and answer; any order, repeated or not). Ties go to the lower id. -1 where a logit is NaN or plus
    /// infinity or all are minus infinity. token lies on the device.
    void (*sample)(const float* logits, const Sampling* options, const int32_t* seen, Rows seen_rows,
                   int64_t n, int64_t vocab, int32_t* token);
    /// member[i] = the centroid nearest to points[i] (spherical: of the largest inner product), the lowest on
    /// a tie. member lies on the device.
    void (*nearest)(const float* points, const float* centroids, int64_t n, int64_t clusters, int64_t width,
                    int spherical, int32_t* member);
};

struct CudaLibrary {
    const char* version;  ///< Polyad's

    /// Devices that can be used; 0 with the reason in `reason` (no driver, driver too old, no device, ...).
    int (*device_count)(char* reason, size_t size);
    /// 0, or -1 with the reason (index out of range, compute capability too low).
    int (*device_info)(int device, CudaDevice* out, char* reason, size_t size);
    const OpTable* ops;  ///< every entry but those of trees and of panels; isa = "cuda"
    const CudaOps* more;

    /// The calling thread's device and stream (a cudaStream_t; null = the default stream) for what follows.
    /// Also makes the device the thread's current one.
    void (*set_stream)(int device, void* stream);
    /// The calling thread's first error since the last call, or null. The text lives until the thread's next
    /// call.
    const char* (*take_error)();

    /// Called with a device whose memory is used up, before an operator that needs some gives up: the
    /// caller's allocator may give back what it only keeps. Not while the operator's stream is being
    /// captured.
    void (*set_reclaim)(void (*reclaim)(int device));

    /// Memory of the thread's device, for callers without an allocator of their own. Null when there is none
    /// left.
    void* (*allocate)(uint64_t bytes);
    void (*release)(void* p);
    /// Queued; host memory is read or written before `copy` returns (it waits), unless both are on the
    /// device.
    void (*copy)(void* to, const void* from, uint64_t bytes);
    void (*zero)(void* p, uint64_t bytes);
    void (*synchronise)();
    void* (*stream_create)();
    void (*stream_release)(void* stream);

    /// Says that the index array at host[0, bytes) has a twin on the device that the caller keeps up to date:
    /// calls on this thread's stream that are given a part of it read the twin. What the host memory holds
    /// then only bounds the launch: key_count its largest values, query_begin the true ones.
    void (*bind)(const void* host, uint64_t bytes, const void* device);
    void (*unbind)(const void* host);

    /// Graphs of what the thread's stream queues between begin and end. Every operator is capturable once it
    /// has run with these shapes outside. end: null with an error left for take_error when capture failed.
    void (*graph_begin)();
    void* (*graph_end)();
    void (*graph_launch)(void* graph);
    void (*graph_release)(void* graph);
};

/// The one exported symbol: null with both versions in `reason` when `core_version` is not the library's own.
using CudaLibraryFunction = const CudaLibrary* (*)(const char* core_version, char* reason, size_t size);

}  // namespace polyad::kernels
