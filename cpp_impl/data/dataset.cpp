// SPDX-License-Identifier: Apache-2.0
#include "data/dataset.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>
#include <unordered_map>

#include "base/error.h"
#include "base/log.h"
#include "data/task_reader.h"

namespace polyad {
namespace {

constexpr size_t max_derived_labels = 20;  // more distinct answers than this is free text
constexpr int64_t min_label_count = 3;     // and so is an answer seen less often than this

/// FNV-1a with a final mix: the order rows are dealt to splits in must not depend on platform or file order.
uint64_t stable_hash(uint64_t seed, std::string_view task, std::string_view input) {
    uint64_t h = 0xCBF29CE484222325ull ^ (seed * 0x9E3779B97F4A7C15ull);
    const auto eat = [&](std::string_view bytes) {
        for (const char c : bytes) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001B3ull;
    };
    eat(task);
    h = (h ^ 0x1F) * 0x100000001B3ull;
    eat(input);
    h = (h ^ (h >> 30)) * 0xBF58476D1CE4E5B9ull;
    h = (h ^ (h >> 27)) * 0x94D049BB133111EBull;
    return h ^ (h >> 31);
}

/// A given label set must cover every answer; otherwise label scoring could never be right on such a row.
void check_labels(TaskReader& reader, RawTask& raw) {
    if (raw.task.labels.empty()) return;
    const std::set<std::string_view> labels(raw.task.labels.begin(), raw.task.labels.end());
    std::erase_if(raw.rows, [&](const RawExample& row) {
        for (const std::string& output : row.example.outputs)
            if (!labels.count(output)) {
                reader.bad_row(reader.files[static_cast<size_t>(row.file)], row.line,
                               text("output '", output.substr(0, 80), "' is not one of the ", labels.size(),
                                    " labels of task '", raw.task.name, "'"));
                return true;
            }
        return false;
    });
}

std::vector<std::string> derive_labels(const std::vector<RawExample>& rows) {
    std::map<std::string, int64_t> seen;
    for (const RawExample& row : rows) {
        if (row.example.outputs.size() != 1) return {};
        ++seen[row.example.outputs.front()];
        if (seen.size() > max_derived_labels) return {};
    }
    if (seen.size() < 2) return {};
    std::vector<std::string> labels;
    for (const auto& [label, count] : seen) {
        if (count < min_label_count) return {};
        labels.push_back(label);
    }
    return labels;
}

/// How many of `groups` distinct inputs a split of this fraction gets: rounded, and at least one when there
/// are enough to leave the train split something.
size_t share(size_t groups, double fraction) {
    const auto rounded = static_cast<size_t>(std::llround(static_cast<double>(groups) * fraction));
    return fraction > 0 && groups >= 3 ? std::max<size_t>(1, rounded) : rounded;
}

/// Deals the distinct inputs out by hash, so that no input text is in two splits and adding rows moves few.
void deal_splits(RawTask& raw, const DatasetOptions& options) {
    std::map<std::pair<uint64_t, std::string_view>, Split> order;
    for (const RawExample& row : raw.rows)
        order.emplace(std::pair{stable_hash(options.seed, raw.task.name, row.example.input),
                                std::string_view(row.example.input)},
                      Split::train);
    size_t test = std::min(share(order.size(), options.test_fraction), order.size() - 1);
    size_t validation = std::min(share(order.size(), options.validation_fraction), order.size() - 1 - test);
    for (auto& [key, split] : order) {
        if (test > 0)
            split = Split::test, --test;
        else if (validation > 0)
            split = Split::validation, --validation;
    }
    for (RawExample& row : raw.rows)
        row.split =
            order.at({stable_hash(options.seed, raw.task.name, row.example.input), row.example.input});
}

void warn_of_leaks(const RawTask& raw) {
    std::unordered_map<std::string_view, Split> first;
    int64_t shared = 0;
    for (const RawExample& row : raw.rows)
        shared += first.try_emplace(row.example.input, *row.split).first->second != *row.split;
    if (shared > 0)
        log(LogLevel::warning, text("task '", raw.task.name, "': ", shared,
                                    " rows share their input text with a row of another split"));
}

/// Keeps `limit` train rows, chosen by hash (a file sorted by label must not lose labels), in file order.
void cap_train(RawTask& raw, const DatasetOptions& options) {
    std::vector<std::pair<uint64_t, size_t>> train;
    for (size_t i = 0; i < raw.rows.size(); ++i)
        if (raw.rows[i].split == Split::train)
            train.emplace_back(
                stable_hash(options.seed + 1, raw.rows[i].example.id, raw.rows[i].example.input), i);
    const auto limit = static_cast<size_t>(options.max_examples_per_task);
    if (limit == 0 || train.size() <= limit) return;
    std::sort(train.begin(), train.end());
    for (size_t k = limit; k < train.size(); ++k) raw.rows[train[k].second].split.reset();
    std::erase_if(raw.rows, [](const RawExample& row) { return !row.split; });
}

std::string some_names(const std::map<std::string, RawTask>& tasks) {
    std::string out;
    int shown = 0;
    for (const auto& [name, task] : tasks) {
        if (++shown > 12) return out + text(", ... (", tasks.size(), " in all)");
        out += (out.empty() ? "" : ", ") + name;
    }
    return out;
}

void keep_only(std::map<std::string, RawTask>& tasks, const std::vector<std::string>& wanted) {
    if (wanted.empty()) return;
    for (const std::string& name : wanted)
        if (!tasks.count(name))
            fail(Code::unknown_task, "task '", name, "' is not in the data, which has: ", some_names(tasks));
    const std::set<std::string> keep(wanted.begin(), wanted.end());
    std::erase_if(tasks, [&](const auto& item) { return !keep.count(item.first); });
}

std::vector<Task> finish(TaskReader& reader, const DatasetOptions& options, const std::string& name) {
    keep_only(reader.tasks, options.tasks);
    std::vector<Task> out;
    for (auto& [task_name, raw] : reader.tasks) {
        check_labels(reader, raw);
        if (raw.rows.empty()) {
            reader.bad_row(name, 0, text("task '", task_name, "' has no examples"));
            continue;
        }
        if (!raw.labels_declared) raw.task.labels = derive_labels(raw.rows);
        if (std::none_of(raw.rows.begin(), raw.rows.end(),
                         [](const RawExample& row) { return row.split.has_value(); })) {
            deal_splits(raw, options);
        } else {  // some rows name theirs: the others are for training
            for (RawExample& row : raw.rows)
                if (!row.split) row.split = Split::train;
            warn_of_leaks(raw);
        }
        cap_train(raw, options);
        for (RawExample& row : raw.rows)
            raw.task.splits[static_cast<int>(*row.split)].push_back(std::move(row.example));
        out.push_back(std::move(raw.task));
    }
    if (out.empty()) fail(Code::bad_data, name, ": no task with usable examples");
    if (!reader.bad_rows.empty())
        log(LogLevel::warning, text(name, ": skipped ", reader.bad_rows.size(), " bad rows, the first at ",
                                    reader.bad_rows.front().file, ":", reader.bad_rows.front().line, ": ",
                                    reader.bad_rows.front().why));
    return out;
}

void read_folder(TaskReader& reader, const std::filesystem::path& folder) {
    std::vector<std::filesystem::path> files;
    std::error_code error;
    for (auto it = std::filesystem::directory_iterator(folder, error);
         !error && it != std::filesystem::directory_iterator(); it.increment(error)) {
        const std::filesystem::path& path = it->path();
        if (path.filename().string().front() == '.' || !std::filesystem::is_regular_file(path)) continue;
        if (path.extension() == ".json" || path.extension() == ".jsonl") files.push_back(path);
    }
    if (error) fail(Code::io_error, "cannot list '", folder.string(), "': ", error.message());
    std::sort(files.begin(), files.end());
    std::filesystem::path index;
    bool any = false;
    for (const auto& path : files) {
        if (path.filename() == "tasks.json") {
            index = path;
            continue;
        }
        any = true;
        const Bytes bytes = Bytes::map_file(path);
        if (path.extension() == ".jsonl")
            reader.read_jsonl(bytes, split_of(path.stem().string()));
        else
            reader.read_task_file(bytes, path.stem().string());
    }
    if (!any)
        fail(Code::bad_data, "folder '", folder.string(),
             "' holds no task file (*.json) and no JSON Lines file (*.jsonl)");
    if (!index.empty()) reader.read_index(Bytes::map_file(index));
}

}  // namespace

const char* split_name(Split split) {
    static constexpr const char* names[] = {"train", "validation", "test"};
    return names[static_cast<int>(split)];
}

DatasetOptions DatasetOptions::from_json(const Json& object) {
    ConfigReader read(object, "dataset");
    DatasetOptions out;
    out.skip_bad_rows = read.choice("on_bad_row", "error", {"error", "skip"}) == "skip";
    out.validation_fraction = read.number("validation_fraction", out.validation_fraction, 0.0, 0.9);
    out.test_fraction = read.number("test_fraction", out.test_fraction, 0.0, 0.9);
    if (out.validation_fraction + out.test_fraction > 0.95)
        read.refuse("test_fraction",
                    "together with validation_fraction at most 0.95 may be held out of training");
    out.seed = static_cast<uint64_t>(read.integer("seed", 0, 0, INT64_MAX));
    out.max_examples_per_task = read.integer("max_examples_per_task", 0, 0, INT64_MAX);
    out.tasks = read.strings("tasks", {});
    read.finish();
    return out;
}

Dataset Dataset::open(const std::filesystem::path& path, const DatasetOptions& options) {
    TaskReader reader(options.skip_bad_rows);
    if (std::filesystem::is_directory(path)) {
        read_folder(reader, path);
    } else {
        const Bytes bytes = Bytes::map_file(path);
        if (path.extension() == ".json")
            reader.read_task_file(bytes, path.stem().string());
        else
            reader.read_jsonl(bytes);
    }
    Dataset out;
    out.tasks_ = finish(reader, options, path.string());
    out.bad_rows_ = std::move(reader.bad_rows);
    return out;
}

Dataset Dataset::from_jsonl(const Bytes& data, const DatasetOptions& options) {
    TaskReader reader(options.skip_bad_rows);
    reader.read_jsonl(data);
    Dataset out;
    out.tasks_ = finish(reader, options, data.name());
    out.bad_rows_ = std::move(reader.bad_rows);
    return out;
}

int Dataset::find(std::string_view task) const {
    const auto it = std::lower_bound(tasks_.begin(), tasks_.end(), task,
                                     [](const Task& a, std::string_view name) { return a.name < name; });
    return it != tasks_.end() && it->name == task ? static_cast<int>(it - tasks_.begin()) : -1;
}

}  // namespace polyad
