// SPDX-License-Identifier: Apache-2.0
// Tasks and their examples, read from Super-NaturalInstructions files (upstream's or the packs' form), a
// folder of them, or JSON Lines {"task", "instruction", "input", "output" | "outputs", "split"?}.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/config.h"

namespace polyad {

enum class Split : int { train = 0, validation = 1, test = 2 };
const char* split_name(Split split);

struct Example {
    std::string id;
    std::string input;
    std::vector<std::string> outputs;  ///< at least one reference
};

struct Task {
    std::string name;
    std::string category;             ///< may be empty
    std::string instruction;          ///< the definition; may be empty
    std::vector<std::string> labels;  ///< label set of a classification task; empty = free text
    std::vector<Example> positive_examples;
    std::vector<Example> splits[3];  ///< indexed by Split

    const std::vector<Example>& examples(Split split) const { return splits[static_cast<int>(split)]; }
};

struct BadRow {
    std::string file;
    int64_t line = 0;  ///< 1-based line (JSON Lines) or instance index (task files)
    std::string why;
};

struct DatasetOptions {
    bool skip_bad_rows = false;                             ///< "on_bad_row": "error" (default) | "skip"
    double validation_fraction = 0.1, test_fraction = 0.1;  ///< used only where the data names no splits
    uint64_t seed = 0;
    int64_t max_examples_per_task = 0;  ///< of the train split; 0 = all
    std::vector<std::string> tasks;     ///< keep only these; empty = all
    static DatasetOptions from_json(const Json& object);
};

class Dataset {
  public:
    /// A task file, a JSON Lines file, or a folder of either. Tasks come sorted by name.
    static Dataset open(const std::filesystem::path& path, const DatasetOptions& options = {});
    static Dataset from_jsonl(const Bytes& data, const DatasetOptions& options = {});

    const std::vector<Task>& tasks() const { return tasks_; }
    const std::vector<BadRow>& bad_rows() const { return bad_rows_; }
    /// -1 when unknown.
    int find(std::string_view task) const;

  private:
    std::vector<Task> tasks_;
    std::vector<BadRow> bad_rows_;
};

}  // namespace polyad
