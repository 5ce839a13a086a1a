// SPDX-License-Identifier: Apache-2.0
// Hugging Face PEFT adapter folders: adapter_config.json + adapter_model.safetensors. Names, shapes and
// float32 values only; what they mean for a skillset is decided above this layer.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/config.h"
#include "io/tensor_file.h"

namespace polyad {

enum class PeftKind { lora, rslora, dora, poly };
const char* peft_kind_name(PeftKind kind);

/// One adapted module. LoRA: a [r, d_in], b [d_out, r], for DoRA magnitude [d_out]. Poly: a [splits, skills,
/// d_in/splits, r], b [splits, skills, r, d_out/splits], logits [tasks, splits * skills] (split-major).
struct PeftModule {
    std::string path;  ///< Hugging Face module path, "model.layers.0.self_attn.q_proj"
    int64_t rank = 0;  ///< LoRA: after rank_pattern
    double scale = 1;  ///< LoRA: alpha/r, or alpha/sqrt(r) (rsLoRA), after the patterns. Poly: 1/r
    int64_t d_in = 0, d_out = 0;
    StoredTensor a, b;
    std::optional<StoredTensor> magnitude, logits;
};

struct PeftAdapter {
    PeftKind kind = PeftKind::lora;
    Json config;  ///< adapter_config.json as it was
    int64_t rank = 0;
    double alpha = 0, dropout = 0;
    int64_t tasks = 0, skills = 0, splits = 0;  ///< Poly
    std::vector<std::string> task_names;        ///< Poly: [tasks], or empty: PEFT itself keeps none
    std::vector<std::string> target_modules;    ///< names, or one regular expression when `target_regex`
    bool target_regex = false;
    std::string base_model;
    std::vector<PeftModule> modules;  ///< sorted by path
};

/// Checks config and tensors against each other; Code::bad_format or unsupported, naming key or tensor.
PeftAdapter open_peft(const std::filesystem::path& folder);
PeftAdapter parse_peft(const Json& config, const std::vector<StoredTensor>& tensors,
                       const std::string& source);

struct BaseModule {
    std::string path;
    int64_t d_in = 0, d_out = 0;
};
/// Second step of reading: every module exists in `base` with these sizes, every target_modules name matches
/// one.
void check_against_base(const PeftAdapter& adapter, const std::vector<BaseModule>& base);

/// Writes both files (each atomically) as PEFT's save_pretrained does. LoRA, rsLoRA, DoRA and Poly.
void write_peft(const std::filesystem::path& folder, const PeftAdapter& adapter);

}  // namespace polyad
