// SPDX-License-Identifier: Apache-2.0
#include "task_files.h"

#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>

std::string WordGroups::root(const std::string& word) {
    std::string at = word;
    for (auto next = parent_.find(at); next != parent_.end(); next = parent_.find(at)) at = next->second;
    return at;
}

void WordGroups::join(const std::string& a, const std::string& b) {
    const std::string x = root(a), y = root(b);
    if (x != y) parent_[std::max(x, y)] = std::min(x, y);
}

const char* WordGroups::split_of(const std::string& word, const SplitSizes& sizes) {
    uint64_t hash = 14695981039346656037ULL;  // FNV-1a, so that the split is the same on every machine
    for (unsigned char c : root(word)) hash = (hash ^ c) * 1099511628211ULL;
    const uint64_t at = (hash >> 20) % static_cast<uint64_t>(sizes.train + sizes.validation + sizes.test);
    if (at < static_cast<uint64_t>(sizes.train)) return "train";
    return at < static_cast<uint64_t>(sizes.train + sizes.validation) ? "validation" : "test";
}

std::map<std::string, int> write_task(const std::filesystem::path& folder, const DemoTask& task,
                                      WordGroups& groups, const SplitSizes& sizes) {
    const std::map<std::string, int> room = {
        {"train", sizes.train}, {"validation", sizes.validation}, {"test", sizes.test}};
    std::map<std::string, int> written;
    const std::filesystem::path path = folder / (task.name + ".jsonl");
    std::ofstream file(path, std::ios::binary | std::ios::trunc);
    for (const DemoExample& example : task.examples) {
        const std::string split = groups.split_of(example.input, sizes);
        if (written[split] >= room.at(split)) continue;
        ++written[split];
        nlohmann::ordered_json row;
        row["task"] = task.name;
        row["instruction"] = task.instruction;
        row["input"] = example.input;
        if (example.outputs.size() == 1) {
            row["output"] = example.outputs.front();
        } else {
            row["outputs"] = example.outputs;
        }
        row["split"] = split;
        file << row.dump() << "\n";
    }
    if (!file.flush()) throw std::runtime_error("cannot write " + path.string());
    return written;
}
