// SPDX-License-Identifier: Apache-2.0
#include "data/task_reader.h"

#include <algorithm>

#include "base/error.h"

namespace polyad {
namespace {

constexpr size_t max_text_bytes = size_t{1}
                                  << 20;  // of one input or output: a book chapter, not a whole corpus
constexpr size_t max_name_bytes = 512;
constexpr size_t max_labels = 4096;

/// Why one row cannot be used; turned into a report by whoever knows file and line.
struct Unusable {
    std::string why;
};

[[noreturn]] void unusable(std::string why) {
    throw Unusable{std::move(why)};
}

const Json* find(const Json& object, const char* key) {
    const auto it = object.find(key);
    return it == object.end() || it->is_null() ? nullptr : &*it;
}

std::string as_text(const Json& value, const char* key, size_t limit = max_text_bytes) {
    if (!value.is_string()) unusable(text("\"", key, "\" needs a string, got ", value.type_name()));
    const auto& got = value.get_ref<const std::string&>();
    if (got.size() > limit) unusable(text("\"", key, "\" has ", got.size(), " bytes, allowed: ", limit));
    return got;
}

std::string text_of(const Json& object, const char* key, size_t limit = max_text_bytes) {
    const Json* value = find(object, key);
    if (!value) unusable(text("key \"", key, "\" is missing"));
    return as_text(*value, key, limit);
}

std::string text_or(const Json& object, const char* key, const char* fallback,
                    size_t limit = max_text_bytes) {
    const Json* value = find(object, key);
    return value ? as_text(*value, key, limit) : fallback;
}

/// A string, or the first string of a list (upstream wraps definitions and categories in lists).
std::string first_text_or(const Json& object, const char* key, size_t limit) {
    const Json* value = find(object, key);
    if (!value) return "";
    if (!value->is_array()) return as_text(*value, key, limit);
    return value->empty() ? "" : as_text(value->front(), key, limit);
}

std::vector<std::string> outputs_of(const Json& value, const char* key) {
    std::vector<std::string> out;
    if (value.is_array())
        for (const Json& item : value) out.push_back(as_text(item, key));
    else
        out.push_back(as_text(value, key));
    if (out.empty()) unusable(text("\"", key, "\" is empty: at least one reference is needed"));
    for (const std::string& reference : out)
        if (reference.find_first_not_of(" \t\r\n") == std::string::npos)
            unusable(text("\"", key, "\" holds an empty text"));
    return out;
}

std::vector<std::string> labels_of(const Json& value, const char* key) {
    if (!value.is_array()) unusable(text("\"", key, "\" needs a list of strings, got ", value.type_name()));
    if (value.size() > max_labels)
        unusable(text("\"", key, "\" has ", value.size(), " labels, allowed: ", max_labels));
    std::vector<std::string> out;
    for (const Json& item : value) out.push_back(as_text(item, key));
    const std::set<std::string> distinct(out.begin(), out.end());
    if (distinct.size() != out.size() || distinct.count(""))
        unusable(text("\"", key, "\" holds an empty or repeated label"));
    return out;
}

/// Text of a row or task: input and instruction may each be empty, but not both.
void require_something_to_ask(const RawTask& task, const Example& example) {
    if (example.input.find_first_not_of(" \t\r\n") == std::string::npos && task.task.instruction.empty())
        unusable("\"input\" is empty and the task has no instruction");
}

std::vector<Example> demonstrations(const Json& document, const char* key) {
    std::vector<Example> out;
    const Json* list = find(document, key);
    if (!list) return out;
    if (!list->is_array()) unusable(text("\"", key, "\" needs a list, got ", list->type_name()));
    for (const Json& item : *list) {
        if (!item.is_object()) unusable(text("\"", key, "\" needs objects, found ", item.type_name()));
        Example example;
        example.input = text_of(item, "input");
        const Json* output = find(item, "output");
        if (!output) unusable(text("an entry of \"", key, "\" has no \"output\""));
        example.outputs = outputs_of(*output, "output");
        out.push_back(std::move(example));
    }
    return out;
}

/// Strips a UTF-8 byte order mark.
std::string_view content_of(const Bytes& file) {
    std::string_view all = file.text();
    if (all.starts_with("\xEF\xBB\xBF")) all.remove_prefix(3);
    return all;
}

Json parse_document(const Bytes& file) {
    const std::string_view all = content_of(file);
    if (const size_t at = find_invalid_utf8(all); at != std::string_view::npos) {
        const size_t offset = at + (file.size() - all.size());
        throw Error(Code::bad_data,
                    text(file.name(), ":", 1 + std::count(all.begin(), all.begin() + at, '\n'),
                         ": not UTF-8 at offset ", offset),
                    text(file.name(), " offset ", offset));
    }
    try {
        return parse_json(all, file.name());
    } catch (const Error& e) {
        throw Error(Code::bad_data, e.what(), file.name());
    }
}

}  // namespace

std::optional<Split> split_of(std::string_view name) {
    if (name == "train") return Split::train;
    if (name == "validation" || name == "valid" || name == "val" || name == "dev") return Split::validation;
    if (name == "test") return Split::test;
    return {};
}

void TaskReader::bad_row(const std::string& file, int64_t line, const std::string& why) {
    if (!skip_) throw Error(Code::bad_data, text(file, ":", line, ": ", why), text(file, ":", line));
    bad_rows.push_back({file, line, why});
}

void TaskReader::add(RawTask& task, RawExample row) {
    require_something_to_ask(task, row.example);
    if (!task.ids.insert(row.example.id).second)
        unusable(text("id \"", row.example.id, "\" appears twice in this task"));
    task.rows.push_back(std::move(row));
}

void TaskReader::read_instances(RawTask& task, const Json& document, const char* key, const char* output_key,
                                std::optional<Split> split, const std::string& file) {
    const Json* list = find(document, key);
    if (!list) return;
    if (!list->is_array())
        fail(Code::bad_data, file, ": \"", key, "\" needs a list, got ", list->type_name());
    int64_t index = 0;
    for (const Json& item : *list) {
        ++index;
        try {
            if (!item.is_object()) unusable(text("needs an object, got ", item.type_name()));
            RawExample row;
            row.split = split;
            row.line = index;
            row.file = static_cast<int>(files.size()) - 1;
            row.example.id = text_or(item, "id", "", max_name_bytes);
            if (row.example.id.empty()) row.example.id = text(task.task.name, "-", key, "-", index);
            row.example.input = text_of(item, "input");
            const Json* output = find(item, output_key);
            if (!output) unusable(text("key \"", output_key, "\" is missing"));
            row.example.outputs = outputs_of(*output, output_key);
            add(task, std::move(row));
        } catch (const Unusable& e) {
            bad_row(file, index, text(key, "[", index, "]: ", e.why));
        }
    }
}

void TaskReader::read_task_file(const Bytes& file, const std::string& stem) {
    const Json document = parse_document(file);
    if (!document.is_object())
        fail(Code::bad_data, file.name(), ": needs a JSON object, got ", document.type_name());
    const bool upstream = document.contains("Instances");
    if (!upstream && !document.contains("train") && !document.contains("validation") &&
        !document.contains("test"))
        fail(Code::bad_data, file.name(),
             ": not a task file: neither \"Instances\" nor \"train\", \"validation\", \"test\"");
    files.push_back(file.name());
    RawTask task;
    task.has_instruction = true;
    try {
        if (upstream) {
            task.task.name = stem;
            task.task.category = first_text_or(document, "Categories", max_name_bytes);
            task.task.instruction = first_text_or(document, "Definition", max_text_bytes);
            task.task.positive_examples = demonstrations(document, "Positive Examples");
        } else {
            task.task.name = text_or(document, "task", stem.c_str(), max_name_bytes);
            task.task.category = text_or(document, "category", "", max_name_bytes);
            task.task.instruction = first_text_or(document, "definition", max_text_bytes);
            task.task.positive_examples = demonstrations(document, "positive_examples");
            if (const Json* labels = find(document, "label_set")) {
                task.task.labels = labels_of(*labels, "label_set");
                task.labels_declared = true;
            }
        }
        if (task.task.name.empty()) unusable("the task has no name");
    } catch (const Unusable& e) {
        fail(Code::bad_data, file.name(), ": ", e.why);
    }
    if (tasks.count(task.task.name))
        fail(Code::bad_data, file.name(), ": task '", task.task.name, "' was read before from another file");
    if (upstream) {
        read_instances(task, document, "Instances", "output", {}, file.name());
    } else {
        for (const Split split : {Split::train, Split::validation, Split::test})
            read_instances(task, document, split_name(split), "outputs", split, file.name());
    }
    tasks.emplace(task.task.name, std::move(task));
}

void TaskReader::read_jsonl(const Bytes& file, std::optional<Split> unnamed) {
    files.push_back(file.name());
    const std::string_view all = content_of(file);
    int64_t line = 0;
    for (size_t begin = 0; begin < all.size();) {
        const size_t end = std::min(all.find('\n', begin), all.size());
        const std::string_view row_text = all.substr(begin, end - begin);
        const size_t offset = begin + (file.size() - all.size());
        begin = end + 1;
        ++line;
        if (row_text.find_first_not_of(" \t\r") == std::string_view::npos) continue;
        try {
            if (const size_t at = find_invalid_utf8(row_text); at != std::string_view::npos)
                unusable(text("not UTF-8 at offset ", at, " of the line (", offset + at, " of the file)"));
            Json row_json;
            try {
                row_json = parse_json(row_text, "row");
            } catch (const Error& e) {
                unusable(e.what());
            }
            if (!row_json.is_object())
                unusable(text("a row needs a JSON object, got ", row_json.type_name()));
            const std::string name = text_of(row_json, "task", max_name_bytes);
            if (name.empty()) unusable("\"task\" is empty");

            // Read the whole row before touching the task: a refused row leaves nothing behind.
            RawExample row;
            row.line = line;
            row.file = static_cast<int>(files.size()) - 1;
            row.split = unnamed;
            if (const Json* split = find(row_json, "split")) {
                row.split = split_of(as_text(*split, "split"));
                if (!row.split)
                    unusable(text("\"split\" is ", split->dump(), ", allowed: train, validation, test"));
            }
            row.example.input = text_or(row_json, "input", "");
            const Json* output = find(row_json, "output");
            const Json* outputs = find(row_json, "outputs");
            if (!output == !outputs) unusable("a row needs either \"output\" or \"outputs\"");
            row.example.outputs = output ? outputs_of(*output, "output") : outputs_of(*outputs, "outputs");
            row.example.id = text_or(row_json, "id", "", max_name_bytes);
            if (row.example.id.empty()) row.example.id = text(name, "-", files.size(), "-", line);
            const std::string instruction = first_text_or(row_json, "instruction", max_text_bytes);
            const std::string category = text_or(row_json, "category", "", max_name_bytes);
            std::vector<std::string> labels;
            if (const Json* given = find(row_json, "labels")) labels = labels_of(*given, "labels");

            const auto known = tasks.find(name);
            RawTask fresh;
            RawTask& task = known == tasks.end() ? fresh : known->second;
            if (!instruction.empty() && task.has_instruction && task.task.instruction != instruction)
                unusable(text("\"instruction\" differs from the one of earlier rows of task '", name, "'"));
            if (!labels.empty() && task.labels_declared && task.task.labels != labels)
                unusable(text("\"labels\" differ from those of earlier rows of task '", name, "'"));
            RawTask described;
            described.task.instruction = task.has_instruction ? task.task.instruction : instruction;
            require_something_to_ask(described, row.example);
            if (task.ids.count(row.example.id))
                unusable(text("id \"", row.example.id, "\" appears twice in this task"));

            task.task.name = name;
            if (!instruction.empty()) task.task.instruction = instruction, task.has_instruction = true;
            if (task.task.category.empty()) task.task.category = category;
            if (!labels.empty()) task.task.labels = std::move(labels), task.labels_declared = true;
            add(task, std::move(row));
            if (known == tasks.end()) tasks.emplace(name, std::move(fresh));
        } catch (const Unusable& e) {
            bad_row(file.name(), line, e.why);
        }
    }
}

void TaskReader::read_index(const Bytes& file) {
    const Json document = parse_document(file);
    const Json* list = document.is_object() ? find(document, "tasks") : nullptr;
    if (!list || !list->is_array()) fail(Code::bad_data, file.name(), ": an index needs a list \"tasks\"");
    for (const Json& entry : *list) {
        try {
            if (!entry.is_object()) unusable(text("\"tasks\" needs objects, found ", entry.type_name()));
            const auto task = tasks.find(text_of(entry, "task", max_name_bytes));
            if (task == tasks.end() || task->second.labels_declared)
                continue;  // the file's own word comes first
            const Json* labels = find(entry, "label_set");
            if (labels) task->second.task.labels = labels_of(*labels, "label_set");
            // An index that calls the task a generation task settles that its answers are free text.
            task->second.labels_declared = labels || find(entry, "type");
        } catch (const Unusable& e) {
            fail(Code::bad_data, file.name(), ": ", e.why);
        }
    }
}

}  // namespace polyad
