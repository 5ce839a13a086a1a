// SPDX-License-Identifier: Apache-2.0
#include "skills/parameter.h"

namespace polyad {

const char* parameter_group_name(ParameterGroup group) {
    switch (group) {
        case ParameterGroup::skills:
            return "skills";
        case ParameterGroup::router:
            return "router";
        case ParameterGroup::private_weights:
            return "private_weights";
        case ParameterGroup::task_vectors:
            return "task_vectors";
        case ParameterGroup::scalars:
            return "scalars";
    }
    return "unknown";
}

}  // namespace polyad
