// SPDX-License-Identifier: Apache-2.0
// All trainable parameters as one flat float32 buffer in bundle order: what federated and data-parallel hosts
// exchange. And what a skillset says of itself.
#pragma once

#include <cstdint>
#include <span>

#include "base/config.h"

namespace polyad {

class Skillset;
struct Bundle;

int64_t flat_parameter_count(const Skillset& skillset);
/// Sizes must be equal to flat_parameter_count; Code::invalid_argument names both.
void get_flat_parameters(const Skillset& skillset, std::span<float> values);
/// Refuses NaN and infinity before anything is changed.
void set_flat_parameters(Skillset& skillset, std::span<const float> values);

/// {"config", "tasks", "parameters": {"trainable", "stored"}, "metadata", "backbone"}.
Json describe(const Skillset& skillset);
/// The same for a bundle whose backbone is not at hand, plus "tensors".
Json describe(const Bundle& bundle);

}  // namespace polyad
