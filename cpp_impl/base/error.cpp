// SPDX-License-Identifier: Apache-2.0
#include "base/error.h"

namespace polyad {

const char* code_name(Code code) {
    switch (code) {
        case Code::ok:
            return "ok";
        case Code::invalid_argument:
            return "invalid_argument";
        case Code::invalid_config:
            return "invalid_config";
        case Code::not_found:
            return "not_found";
        case Code::io_error:
            return "io_error";
        case Code::bad_format:
            return "bad_format";
        case Code::unsupported:
            return "unsupported";
        case Code::backbone_mismatch:
            return "backbone_mismatch";
        case Code::unknown_task:
            return "unknown_task";
        case Code::bad_data:
            return "bad_data";
        case Code::context_overflow:
            return "context_overflow";
        case Code::numeric_error:
            return "numeric_error";
        case Code::cancelled:
            return "cancelled";
        case Code::wrong_state:
            return "wrong_state";
        case Code::out_of_memory:
            return "out_of_memory";
        case Code::queue_full:
            return "queue_full";
        case Code::internal:
            return "internal";
    }
    return "unknown";
}

}  // namespace polyad
