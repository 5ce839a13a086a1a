// SPDX-License-Identifier: Apache-2.0
// Finished cells as text: the tables of docs/claims.md.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "cells.h"

namespace claims {

struct Results {
    Json settings, base, planted;  ///< null = not there
    std::string model;
    std::vector<Json> cells;
    std::vector<std::string> missing;  ///< lines on what was left out, and why
};

/// Markdown, means over seeds.
std::string tables(const Results& results);
/// Puts `text` between the markers of `file`, which keeps what people wrote around them; makes the file when
/// it is not there.
void write_between_markers(const std::filesystem::path& file, const std::string& text);

}  // namespace claims
