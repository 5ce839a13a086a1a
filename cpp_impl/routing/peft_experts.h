// SPDX-License-Identifier: Apache-2.0
// LoRA adapters of Hugging Face PEFT as the experts of one method.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "backbone/adaptation.h"
#include "io/peft.h"

namespace polyad {

/// A stored tensor's values in float32.
at::Tensor tensor_of(const StoredTensor& stored);

/// Largest rank any module has; 0 without adapters.
int64_t largest_expert_rank(const std::vector<PeftAdapter>& adapters);

/// Code::unsupported for kinds other than LoRA and rsLoRA; Code::bad_format, naming the module, when an
/// adapter changes a linear that is none of `sites` or has another size there.
void check_experts(const std::vector<PeftAdapter>& adapters, const std::vector<Site>& sites);

/// Expert e of `site`, a [E, r, d_in] and b [E, d_out, r], becomes adapters[e]: of a smaller rank with zeros
/// after it, its scale divided by `scale` in b, all zeros where it does not adapt the site.
void fill_experts(const std::vector<PeftAdapter>& adapters, const Site& site, double scale, at::Tensor a,
                  at::Tensor b);

}  // namespace polyad
