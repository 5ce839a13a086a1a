// SPDX-License-Identifier: Apache-2.0
// The C++ objects behind the handles of polyad.h.
#pragma once

#include <atomic>
#include <functional>
#include <memory>

#include "backbone/backbone.h"
#include "backbone/compute_thread.h"
#include "boundary.h"
#include "data/dataset.h"
#include "routing/skillset.h"

namespace polyad::capi {

/// Of one object's work.
inline constexpr int max_threads = 1024;

struct ContextObject {
    int threads = 0;
    BackboneOptions placed;  ///< device alone: what is opened here lies on it
    void* stream = nullptr;  ///< the host's cudaStream_t, or null
    /// For the compute threads of this context's objects.
    std::function<ComputeThread::Scope()> enter;
    /// Work of objects that have no thread of their own: opening, logits.
    std::unique_ptr<ComputeThread> compute;
};

struct BackboneObject {
    std::shared_ptr<ContextObject> context;
    std::shared_ptr<const Backbone> backbone;
};

struct DatasetObject {
    std::shared_ptr<ContextObject> context;
    std::shared_ptr<const Dataset> dataset;
};

struct SkillsetObject {
    std::shared_ptr<BackboneObject> backbone;
    std::shared_ptr<Skillset> skillset;
    Occupancy use{0};
};

POLYAD_HANDLE(polyad_context, context, ContextObject);
POLYAD_HANDLE(polyad_backbone, backbone, BackboneObject);
POLYAD_HANDLE(polyad_dataset, dataset, DatasetObject);
POLYAD_HANDLE(polyad_skillset, skillset, SkillsetObject);

/// retain and release are the same for every handle type.
template <class Handle>
Handle* retain(Handle* handle) {
    return retain_handle(HandleTraits<Handle>::kind, handle) ? handle : nullptr;
}

template <class Handle>
void release(Handle* handle) {
    release_handle(HandleTraits<Handle>::kind, handle);
}

/// A skillset handle over `backbone`; `make` runs on the context's compute thread.
template <class Make>
polyad_skillset* make_skillset(polyad_backbone* backbone, Make make) {
    auto parent = get(backbone);
    auto object = std::make_shared<SkillsetObject>();
    object->backbone = parent;
    parent->context->compute->run([&] { object->skillset = make(parent->backbone); });
    return wrap<polyad_skillset>(std::move(object));
}

}  // namespace polyad::capi
