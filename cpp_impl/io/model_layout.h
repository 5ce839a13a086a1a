// SPDX-License-Identifier: Apache-2.0
// The tensors a ModelConfig stands for, by Hugging Face name and shape. One list: opening a model checks the
// file against it, the fingerprint hashes in its order, and the backbone loads by it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "io/hf_config.h"

namespace polyad {

struct TensorSpec {
    std::string name;
    std::vector<int64_t> shape;
    bool optional = false;  ///< may be absent (BERT's pooler, BART's final_logits_bias, rope_freqs.weight)
};

/// Calls `visit` for every tensor, layer by layer, until it returns false. Holds one spec at a time, so a
/// config with an absurd number of layers costs nothing before the first missing tensor is reported.
void for_each_tensor(const ModelConfig& config, const std::function<bool(const TensorSpec&)>& visit);
std::vector<TensorSpec> model_layout(const ModelConfig& config);

}  // namespace polyad
