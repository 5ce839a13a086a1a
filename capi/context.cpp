// SPDX-License-Identifier: Apache-2.0
#include <string>

#include "backbone/build_info.h"
#include "backbone/cuda.h"
#include "backbone/device.h"
#include "objects.h"
#include "routing/method.h"

using namespace polyad;
using namespace polyad::capi;

namespace {

const Json& build_info() {
    static const Json info = [] {
        Json out = compute_build_info();
        out["polyad"] = polyad_version_string();
        out["methods"] = method_names();
        out["cuda"] = true;  // it can use a CUDA device; whether there is one says polyad_devices()
        return out;
    }();
    return info;
}

}  // namespace

int32_t polyad_version(void) {
    return POLYAD_VERSION_NUMBER;
}

const char* polyad_version_string(void) {
    static const std::string version =
        text(POLYAD_VERSION_MAJOR, ".", POLYAD_VERSION_MINOR, ".", POLYAD_VERSION_PATCH);
    return version.c_str();
}

const char* polyad_build_info(void) {
    try {
        static const std::string info = build_info().dump();
        return info.c_str();
    } catch (...) {
        return "{}";
    }
}

int32_t polyad_has_feature(const char* name) {
    if (!name) return 0;
    try {
        const std::string feature = name;
        const Json& info = build_info();
        const auto listed = [&](const char* prefix, const char* list) {
            const std::string start = prefix;
            if (feature.rfind(start, 0) != 0) return false;
            for (const Json& item : info.at(list))
                if (item == feature.substr(start.size())) return true;
            return false;
        };
        if (listed("method:", "methods") || listed("family:", "families")) return 1;
        const auto it = info.find(feature);
        return it != info.end() && it->is_boolean() && it->get<bool>();
    } catch (...) {
        return 0;
    }
}

void polyad_context_options_init_sized(polyad_context_options* options, size_t struct_size) {
    init_struct(options, struct_size, polyad_context_options{});
}

polyad_status* polyad_context_create(const polyad_context_options* options, polyad_context** context) {
    return guarded([&] {
        clear_out(context, "context");
        const auto o = read_struct(options, polyad_context_options_init_sized, "polyad_context_options");
        if (o.threads < 0 || o.threads > max_threads)
            fail(Code::invalid_argument, "threads is ", o.threads, ", allowed: 0 (automatic) to ",
                 max_threads);
        auto object = std::make_shared<ContextObject>();
        object->threads = o.threads;
        const std::string device = o.device ? required_string(o.device, "device") : "cpu";
        if (device == "cpu" && (o.memory_budget || o.stream))
            fail(Code::invalid_argument, o.stream ? "stream" : "memory_budget",
                 " is for CUDA devices, device is 'cpu'");
        object->placed.device = open_device(device, o.memory_budget);
        object->stream = o.stream;
        if (!object->placed.device.is_cpu())
            object->enter = [where = object->placed.device, stream = o.stream] {
                return std::make_shared<DeviceScope>(where, stream);
            };
        object->compute = std::make_unique<ComputeThread>(o.threads, object->enter);
        *context = wrap<polyad_context>(std::move(object));
    });
}

polyad_status* polyad_devices(polyad_text** json) {
    return guarded([&] {
        clear_out(json, "json");
        *json = make_text(list_devices());
    });
}

polyad_context* polyad_context_retain(polyad_context* context) {
    return retain(context);
}
void polyad_context_release(polyad_context* context) {
    release(context);
}
