// SPDX-License-Identifier: Apache-2.0
// A run: what `polyad train --run DIR` leaves behind, `polyad eval --run DIR` adds to and `polyad report DIR`
// reads.
//
//     config.json    what was trained on what: model, tasks, method, sizes
//     training.json  the trainer's report: configuration, history, validation
//     routing.json   routing statistics after training
//     skills.polyad  the bundle
//     scores.json    {"base", "skills"}, as `polyad eval --json` prints them
#pragma once

#include <filesystem>
#include <string>

#include "common.h"

namespace cli {

class RunFolder {
  public:
    explicit RunFolder(std::filesystem::path path) : path_(std::move(path)) {}
    /// Makes the folder; NOT_FOUND or IO_ERROR by name when it cannot be.
    void create() const;
    std::string file(const char* name) const { return (path_ / name).string(); }
    std::string bundle() const { return file("skills.polyad"); }
    bool has(const char* name) const { return std::filesystem::exists(path_ / name); }
    /// Written to a temporary name and renamed.
    void write(const char* name, const Json& value) const;
    /// NOT_FOUND when it is missing, BAD_FORMAT when it is no JSON object.
    Json read(const char* name) const;

  private:
    std::filesystem::path path_;
};

/// Writes a file whole or not at all.
void write_whole_file(const std::filesystem::path& path, const std::string& bytes);

/// Routing statistics on the first split that has rows (test, validation, train).
Json routing_of(const polyad_skillset* skills, const polyad_dataset* data);

}  // namespace cli
