// SPDX-License-Identifier: Apache-2.0
// The little of Unicode that scoring needs.
#pragma once

#include <string>
#include <string_view>

namespace polyad {

/// Full Unicode lower-casing: mappings to several characters (U+0130) and the final-sigma rule included.
/// Bytes that are not UTF-8 become U+FFFD.
std::string lowercase(std::string_view text);

}  // namespace polyad
