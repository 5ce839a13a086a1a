// SPDX-License-Identifier: Apache-2.0
// Reads rows out of task files and JSON Lines, refusing or skipping the ones that cannot be used. What needs
// all rows at once (labels, splits, caps) is left to dataset.cpp.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/config.h"
#include "data/dataset.h"

namespace polyad {

struct RawExample {
    Example example;
    std::optional<Split> split;  ///< as the data names it
    int64_t line = 0;            ///< where it came from, for reports made later
    int file = 0;                ///< index into TaskReader::files
};

struct RawTask {
    Task task;
    std::vector<RawExample> rows;
    std::set<std::string, std::less<>> ids;
    bool has_instruction = false;
    bool labels_declared = false;  ///< the data said what the labels are, or that there are none
};

class TaskReader {
  public:
    explicit TaskReader(bool skip_bad_rows) : skip_(skip_bad_rows) {}

    /// One task in upstream's form (capitalised keys, no splits) or the packs' form; `stem` names upstream's
    /// tasks.
    void read_task_file(const Bytes& file, const std::string& stem);
    /// `unnamed` is the split of rows that name none.
    void read_jsonl(const Bytes& file, std::optional<Split> unnamed = {});
    /// The label sets of an index of a pack, {"tasks": [{"task", "type", "label_set"}]}.
    void read_index(const Bytes& file);

    /// Throws Code::bad_data, or notes the row when bad rows are skipped.
    void bad_row(const std::string& file, int64_t line, const std::string& why);

    std::map<std::string, RawTask> tasks;  ///< by name
    std::vector<std::string> files;
    std::vector<BadRow> bad_rows;

  private:
    void read_instances(RawTask& task, const Json& document, const char* key, const char* output_key,
                        std::optional<Split> split, const std::string& file);
    void add(RawTask& task, RawExample row);

    bool skip_;
};

/// "train", "validation" (also "valid", "val", "dev") or "test".
std::optional<Split> split_of(std::string_view name);

}  // namespace polyad
