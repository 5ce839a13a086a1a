// SPDX-License-Identifier: Apache-2.0
// The report's parts, each made from what a run folder holds. A part whose data is missing is "".
#pragma once

#include <string>
#include <vector>

#include "common.h"

namespace cli {

/// The JSON files of a run; what is not there is an empty object.
struct RunData {
    Json config, training, routing, scores;
};

std::string header_section(const RunData& run, const std::string& title);
std::string training_section(const RunData& run);
std::string scores_section(const RunData& run);
/// Heat map of tasks and skills with the tree of tasks, loads, usage per layer.
std::string routing_section(const RunData& run);
/// What each source gives each target, for methods whose skills have names of their own (PEMT).
std::string sources_section(const RunData& run);
/// Rows that use a skill, or belong to a cluster, most.
std::string examples_section(const RunData& run);
std::string configuration_section(const RunData& run);

/// Names of the skills a routing table has columns for.
std::vector<std::string> skill_names(const RunData& run);

}  // namespace cli
