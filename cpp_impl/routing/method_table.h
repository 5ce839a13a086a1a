// SPDX-License-Identifier: Apache-2.0
// One row per method. A new method is its own file and one line here and in method_table.cpp.
#pragma once

#include <memory>
#include <string_view>

#include "routing/method.h"

namespace polyad {

std::unique_ptr<Method> make_lora(const Json& config, const MethodContext& context);
std::unique_ptr<Method> make_lora_set(const Json& config, const MethodContext& context);
std::unique_ptr<Method> make_poly(const Json& config, const MethodContext& context);  ///< poly and mhr
std::unique_ptr<Method> make_cpoly(const Json& config, const MethodContext& context);
std::unique_ptr<Method> make_private_lora(const Json& config, const MethodContext& context);
std::unique_ptr<Method> make_molora(const Json& config, const MethodContext& context);
std::unique_ptr<Method> make_xlora(const Json& config, const MethodContext& context);
std::unique_ptr<Method> make_moelora(const Json& config, const MethodContext& context);
std::unique_ptr<Method> make_orchmoe(const Json& config, const MethodContext& context);
std::unique_ptr<Method> make_mor1e(const Json& config, const MethodContext& context);
std::unique_ptr<Method> make_mixlora(const Json& config, const MethodContext& context);
std::unique_ptr<Method> make_task_moe(const Json& config, const MethodContext& context);
std::unique_ptr<Method> make_pemt_source(const Json& config, const MethodContext& context);
std::unique_ptr<Method> make_pemt(const Json& config, const MethodContext& context);

/// What "target_modules" is where the configuration does not say.
const char* default_target_modules(std::string_view method);

}  // namespace polyad
