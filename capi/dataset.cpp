// SPDX-License-Identifier: Apache-2.0
#include "objects.h"

using namespace polyad;
using namespace polyad::capi;

namespace {

template <class Open>
polyad_dataset* open_dataset(polyad_context* context, const char* options, Open open) {
    auto parent = get(context);
    const DatasetOptions parsed = DatasetOptions::from_json(options_json(options, "dataset options"));
    return wrap<polyad_dataset>(std::make_shared<DatasetObject>(
        DatasetObject{parent, std::make_shared<const Dataset>(open(parsed))}));
}

}  // namespace

polyad_status* polyad_dataset_open(polyad_context* context, const char* path, const char* options,
                                   polyad_dataset** dataset) {
    return guarded([&] {
        clear_out(dataset, "dataset");
        const std::string file = required_string(path, "path");
        *dataset =
            open_dataset(context, options, [&](const DatasetOptions& o) { return Dataset::open(file, o); });
    });
}

polyad_status* polyad_dataset_open_memory(polyad_context* context, const void* data, size_t size,
                                          const char* options, polyad_dataset** dataset) {
    return guarded([&] {
        clear_out(dataset, "dataset");
        const Bytes bytes = Bytes::copy_of(byte_view(data, size, "data"), "memory");
        *dataset = open_dataset(context, options,
                                [&](const DatasetOptions& o) { return Dataset::from_jsonl(bytes, o); });
    });
}

polyad_dataset* polyad_dataset_retain(polyad_dataset* dataset) {
    return retain(dataset);
}
void polyad_dataset_release(polyad_dataset* dataset) {
    release(dataset);
}

polyad_status* polyad_dataset_info(const polyad_dataset* dataset, polyad_text** json) {
    return guarded([&] {
        clear_out(json, "json");
        const auto object = get(dataset);
        Json tasks = Json::array(), bad = Json::array();
        for (const Task& task : object->dataset->tasks()) {
            Json entry{{"name", task.name},
                       {"category", task.category},
                       {"instruction", task.instruction},
                       {"labels", task.labels}};
            for (Split split : {Split::train, Split::validation, Split::test})
                entry[split_name(split)] = task.examples(split).size();
            tasks.push_back(std::move(entry));
        }
        for (const BadRow& row : object->dataset->bad_rows())
            bad.push_back({{"file", row.file}, {"line", row.line}, {"why", row.why}});
        *json = make_text(Json{{"tasks", std::move(tasks)}, {"bad_rows", std::move(bad)}});
    });
}

polyad_status* polyad_dataset_example(const polyad_dataset* dataset, const char* task, int32_t split,
                                      int64_t index, polyad_text** json) {
    return guarded([&] {
        clear_out(json, "json");
        const auto object = get(dataset);
        const std::string name = required_string(task, "task");
        const int at = object->dataset->find(name);
        if (at < 0) fail(Code::unknown_task, "the dataset has no task '", name, "'");
        if (split < POLYAD_TRAIN || split > POLYAD_TEST)
            fail(Code::invalid_argument, "split is ", split,
                 ", allowed: 0 (train), 1 (validation), 2 (test)");
        const auto& examples = object->dataset->tasks()[at].examples(static_cast<Split>(split));
        if (index < 0 || index >= static_cast<int64_t>(examples.size()))
            fail(Code::invalid_argument, "index is ", index, ", task '", name, "' has ", examples.size(), " ",
                 split_name(static_cast<Split>(split)), " examples");
        const Example& example = examples[index];
        *json = make_text(Json{{"id", example.id}, {"input", example.input}, {"outputs", example.outputs}});
    });
}
