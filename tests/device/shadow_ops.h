// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "kernels/op_table.h"

namespace polyad {

/// The CPU's kernels over the shadow device's memory. An address of tensor data that does not carry the
/// device's mark, or one of an index list that does, is Code::internal.
const kernels::OpTable& shadow_ops();

/// From now on AdamW's kernel does nothing and leaves this error, as one that cannot be launched; "" = it
/// works again.
void set_shadow_failure(std::string error);
/// What a kernel that cannot run leaves for the running thread.
void leave_shadow_error(const std::string& error);
/// The running thread's first error since the last call, or null.
const char* take_shadow_error();

}  // namespace polyad
