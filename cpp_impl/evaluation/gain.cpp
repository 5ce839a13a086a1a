// SPDX-License-Identifier: Apache-2.0
#include "evaluation/gain.h"

#include "base/error.h"

namespace polyad {

double average_relative_gain(const std::map<std::string, double>& base,
                             const std::map<std::string, double>& scores, bool skip_zero_base) {
    double sum = 0.0;
    int count = 0;
    for (const auto& [task, before] : base) {
        const auto after = scores.find(task);
        if (after == scores.end()) continue;
        if (before == 0.0) {
            if (skip_zero_base) continue;
            throw Error(Code::invalid_argument,
                        text("the base score of task '", task, "' is 0: no relative gain exists"),
                        "zero_base");
        }
        sum += (after->second - before) / before;
        ++count;
    }
    if (count == 0)
        throw Error(Code::invalid_argument, "no task has both a base score and a new one", "no_common_tasks");
    return sum / count;
}

}  // namespace polyad
