// SPDX-License-Identifier: Apache-2.0
// The golden format's option names in the product's words.
#pragma once

#include <string>

#include "base/config.h"

namespace polyad::golden {

/// Method configuration of a case; options the case does not name keep their defaults. Code::unsupported for
/// a method the runner does not know.
Json product_config(const std::string& method, const Json& config);
/// True when product_config knows the method.
bool has_product_config(const std::string& method);

}  // namespace polyad::golden
