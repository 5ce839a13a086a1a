// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "evaluation/routing_statistics.h"
#include "io/bundle.h"
#include "objects.h"
#include "routing/derive.h"
#include "routing/flat_parameters.h"
#include "training/task_vectors.h"

using namespace polyad;
using namespace polyad::capi;

polyad_status* polyad_skillset_create(polyad_backbone* backbone, const polyad_dataset* dataset,
                                      const char* config_json, polyad_skillset** skillset) {
    return guarded([&] {
        clear_out(skillset, "skillset");
        const auto data = get(dataset);
        const Json config = options_json(config_json, "config");
        *skillset = make_skillset(backbone, [&](const auto& model) {
            return create_skillset(model, data->dataset->tasks(), config);
        });
    });
}

polyad_status* polyad_skillset_load(polyad_backbone* backbone, const char* path, polyad_skillset** skillset) {
    return guarded([&] {
        clear_out(skillset, "skillset");
        const std::filesystem::path file = required_string(path, "path");
        *skillset = make_skillset(backbone, [&](const auto& model) { return Skillset::load(model, file); });
    });
}

polyad_status* polyad_skillset_load_memory(polyad_backbone* backbone, const void* data, size_t size,
                                           polyad_skillset** skillset) {
    return guarded([&] {
        clear_out(skillset, "skillset");
        const Bytes bytes = Bytes::copy_of(byte_view(data, size, "data"), "memory");
        *skillset = make_skillset(backbone, [&](const auto& model) { return Skillset::load(model, bytes); });
    });
}

polyad_skillset* polyad_skillset_retain(polyad_skillset* skillset) {
    return retain(skillset);
}
void polyad_skillset_release(polyad_skillset* skillset) {
    release(skillset);
}

polyad_status* polyad_skillset_save(const polyad_skillset* skillset, const char* path) {
    return guarded([&] {
        const auto object = get(skillset);
        const std::string file = required_string(path, "path");
        const Shared hold(object->use, "skillset");
        object->skillset->save(file);
    });
}

polyad_status* polyad_skillset_save_memory(const polyad_skillset* skillset, polyad_text** bytes) {
    return guarded([&] {
        clear_out(bytes, "bytes");
        const auto object = get(skillset);
        const Shared hold(object->use, "skillset");
        *bytes = make_text(object->skillset->save_to_memory());
    });
}

polyad_status* polyad_skillset_info(const polyad_skillset* skillset, polyad_text** json) {
    return guarded([&] {
        clear_out(json, "json");
        const auto object = get(skillset);
        const Shared hold(object->use, "skillset");
        *json = make_text(describe(*object->skillset));
    });
}

polyad_status* polyad_skillset_add_task(polyad_skillset* skillset, const polyad_dataset* dataset,
                                        const char* task, const char* start) {
    return guarded([&] {
        const auto object = get(skillset);
        const auto data = get(dataset);
        const std::string name = required_string(task, "task");
        const int index = data->dataset->find(name);
        if (index < 0) fail(Code::unknown_task, "the dataset has no task '", name, "'");
        const Exclusive hold(object->use, "skillset");
        const uint64_t seed = object->skillset->tasks().size();
        const std::string how = start ? required_string(start, "start") : "fresh";
        object->backbone->context->compute->run(
            [&] { add_task(*object->skillset, data->dataset->tasks()[index], how, seed); });
    });
}

polyad_status* polyad_skillset_derive(const polyad_skillset* skillset, const char* options_text,
                                      polyad_skillset** derived) {
    return guarded([&] {
        clear_out(derived, "derived");
        const auto object = get(skillset);
        const Json options = options_json(options_text, "options");
        const Shared hold(object->use, "skillset");
        auto made = std::make_shared<SkillsetObject>();
        made->backbone = object->backbone;
        object->backbone->context->compute->run([&] { made->skillset = derive(*object->skillset, options); });
        *derived = wrap<polyad_skillset>(std::move(made));
    });
}

polyad_status* polyad_skillset_task_weights(const polyad_skillset* skillset, const char* task, float* weights,
                                            size_t capacity, size_t* count) {
    return guarded([&] {
        clear_out(count, "count");
        const auto object = get(skillset);
        if (!weights && capacity)
            fail(Code::invalid_argument, "'weights' is NULL but capacity is ", capacity);
        const std::string name = required_string(task, "task");
        const Shared hold(object->use, "skillset");
        std::vector<float> all;
        object->backbone->context->compute->run(
            [&] { all = object->skillset->method().task_weights(object->skillset->task_index(name)); });
        std::copy_n(all.begin(), std::min(capacity, all.size()), weights);
        *count = all.size();
    });
}

polyad_status* polyad_skillset_routing(const polyad_skillset* skillset, const polyad_dataset* dataset,
                                       const char* options_json, polyad_text** json) {
    return guarded([&] {
        clear_out(json, "json");
        const auto object = get(skillset);
        const auto data = get_optional(dataset);
        const auto options = RoutingOptions::from_json(capi::options_json(options_json, "options"));
        const Shared hold(object->use, "skillset");
        object->backbone->context->compute->run([&] {
            *json = make_text(
                routing_statistics(*object->skillset, data ? data->dataset.get() : nullptr, options));
        });
    });
}

polyad_status* polyad_skillset_set_encoder(polyad_skillset* skillset, const polyad_backbone* encoder) {
    return guarded([&] {
        const auto object = get(skillset);
        const auto other = get(encoder);
        const Exclusive hold(object->use, "skillset");
        object->skillset->set_encoder(other->backbone);
    });
}

polyad_status* polyad_skillset_intuition(const polyad_skillset* skillset, const char* instruction,
                                         const char* input, float* scores, size_t capacity, size_t* count) {
    return guarded([&] {
        clear_out(count, "count");
        const auto object = get(skillset);
        if (!scores && capacity) fail(Code::invalid_argument, "'scores' is NULL but capacity is ", capacity);
        const std::string told = instruction ? required_string(instruction, "instruction") : std::string();
        const std::string given = required_string(input, "input");
        const Shared hold(object->use, "skillset");
        std::vector<float> all;
        object->backbone->context->compute->run([&] { all = object->skillset->intuition_of(told, given); });
        std::copy_n(all.begin(), std::min(capacity, all.size()), scores);
        *count = all.size();
    });
}

polyad_status* polyad_skillset_set_metadata(polyad_skillset* skillset, const char* key,
                                            const char* value_json) {
    return guarded([&] {
        const auto object = get(skillset);
        const std::string name = required_string(key, "key");
        Json value = parse_json(required_string(value_json, "value"), "value");
        const Exclusive hold(object->use, "skillset");
        object->skillset->metadata()[name] = std::move(value);
    });
}

polyad_status* polyad_skillset_parameter_count(const polyad_skillset* skillset, size_t* count) {
    return guarded([&] {
        clear_out(count, "count");
        const auto object = get(skillset);
        const Shared hold(object->use, "skillset");
        *count = static_cast<size_t>(flat_parameter_count(*object->skillset));
    });
}

polyad_status* polyad_skillset_get_parameters(const polyad_skillset* skillset, float* values,
                                              size_t capacity) {
    return guarded([&] {
        const auto object = get(skillset);
        if (!values) fail(Code::invalid_argument, "'values' is NULL");
        const Shared hold(object->use, "skillset");
        get_flat_parameters(*object->skillset, {values, capacity});
    });
}

polyad_status* polyad_skillset_set_parameters(polyad_skillset* skillset, const float* values, size_t count) {
    return guarded([&] {
        const auto object = get(skillset);
        if (!values) fail(Code::invalid_argument, "'values' is NULL");
        const Exclusive hold(object->use, "skillset");
        set_flat_parameters(*object->skillset, {values, count});
    });
}

polyad_status* polyad_bundle_inspect(polyad_context* context, const char* path, polyad_text** json) {
    return guarded([&] {
        clear_out(json, "json");
        get(context);
        *json = make_text(describe(decode_bundle(Bytes::map_file(required_string(path, "path")))));
    });
}
