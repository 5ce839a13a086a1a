// SPDX-License-Identifier: Apache-2.0
#include "routing/gguf_export.h"

#include <ATen/core/grad_mode.h>

#include "backbone/decoder.h"
#include "base/error.h"
#include "io/gguf_names.h"
#include "io/gguf_writer.h"
#include "routing/plain_lora.h"
#include "routing/stored_values.h"

namespace polyad {
namespace {

const char* architecture(const ModelConfig& config) {
    switch (config.family) {
        case Family::llama:
        case Family::mistral:  // llama.cpp knows it as a llama
            return "llama";
        case Family::qwen2:
            return "qwen2";
        case Family::qwen3:
            return "qwen3";
        default:
            fail(Code::unsupported,
                 "LoRA files for llama.cpp are written for llama, mistral, qwen2 and qwen3");
    }
}

/// llama.cpp's converter turns the two halves of a head's rotary pairs into neighbours (2i, 2i + 1):
/// rows [head, half, i] become [head, i, half].
at::Tensor neighbours(const at::Tensor& b, int64_t heads) {
    return b.view({heads, 2, b.size(0) / heads / 2, b.size(1)}).transpose(1, 2).reshape(b.sizes());
}

}  // namespace

std::string export_gguf_lora(const Skillset& skillset, int task, const Json& options) {
    const BackboneInfo& info = skillset.backbone()->info();
    const auto* decoder = dynamic_cast<const Decoder*>(skillset.backbone().get());
    if (!decoder)
        fail(Code::unsupported, "backbone '", info.name, "' (", info.family,
             ") is no decoder: LoRA files for llama.cpp are written for llama, mistral, qwen2 and qwen3");
    const ModelConfig& config = decoder->config();
    const char* arch = architecture(config);
    ConfigReader reader(options, "export");
    const std::string name =
        reader.string("name", task < 0 ? info.name : skillset.tasks().at(static_cast<size_t>(task)).name);
    reader.finish();

    at::NoGradGuard no_grad;
    const PlainLora plain = plain_lora(skillset, task);
    GgufWriter out;
    out.add("general.architecture", arch);
    out.add("general.type", "adapter");
    out.add("general.name", std::string_view(name));
    out.add("general.file_type", uint32_t{0});  // all float32
    out.add("adapter.type", "lora");
    out.add("adapter.lora.alpha", static_cast<float>(plain.rank));
    const bool paired = std::string_view(arch) == "llama";
    for (const PlainLora::Pair& pair : plain.pairs) {
        const std::string tensor = gguf_name(pair.site.path + ".weight");
        if (tensor.empty()) fail(Code::unsupported, "site '", pair.site.path, "' has no name in llama.cpp");
        at::Tensor b = pair.b;
        if (paired && pair.site.name() == "q_proj") b = neighbours(b, config.heads);
        if (paired && pair.site.name() == "k_proj") b = neighbours(b, config.kv_heads);
        out.add(stored_values(pair.a, tensor + ".lora_a"));
        out.add(stored_values(b, tensor + ".lora_b"));
    }
    return out.encode();
}

}  // namespace polyad
