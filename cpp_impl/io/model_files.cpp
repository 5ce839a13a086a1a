// SPDX-License-Identifier: Apache-2.0
#include "io/model_files.h"

#include "base/error.h"
#include "io/gguf_names.h"
#include "io/hash.h"
#include "io/model_layout.h"

namespace polyad {
namespace {

bool has_prefix(const std::vector<StoredTensor>& tensors, std::string_view prefix) {
    for (const StoredTensor& tensor : tensors)
        if (tensor.name.starts_with(prefix)) return true;
    return false;
}

/// Published files of one family differ in prefixes and, for old BERTs, in the names of norm weights.
std::string unified_name(std::string name, Family family, bool has_model_prefix) {
    switch (family) {
        case Family::bert: {
            if (name.starts_with("bert.")) name.erase(0, 5);
            const size_t dot = name.rfind('.');
            if (name.ends_with("LayerNorm.gamma")) name.replace(dot, std::string::npos, ".weight");
            if (name.ends_with("LayerNorm.beta")) name.replace(dot, std::string::npos, ".bias");
            return name;
        }
        case Family::t5:
            return name;
        default: {
            const bool outside =
                name == "lm_head.weight" || name == "final_logits_bias" || name == "rope_freqs.weight";
            return has_model_prefix || outside ? name : "model." + name;
        }
    }
}

/// Weights are read in place as float or half words: a header of odd length would leave them unaligned.
void align(StoredTensor& tensor) {
    const auto size =
        static_cast<uintptr_t>(block_elements(tensor.dtype) == 1 ? block_bytes(tensor.dtype) : 1);
    if (reinterpret_cast<uintptr_t>(tensor.data.data()) % size == 0) return;
    tensor.owner = Bytes::copy_of(tensor.data, tensor.owner.name());
    tensor.data = tensor.owner.span();
}

}  // namespace

TensorStore TensorStore::from_gguf(const GgufFile& file) {
    TensorStore out;
    out.source_ = file.name();
    out.permuted_qk_ = file.architecture() == "llama";
    for (StoredTensor tensor : file.tensors()) {
        tensor.name = hugging_face_name(tensor.name);
        std::string name = tensor.name;
        if (!out.tensors_.emplace(name, std::move(tensor)).second)
            fail(Code::bad_format, out.source_, ": two tensors stand for '", name, "'");
    }
    return out;
}

TensorStore TensorStore::from_safetensors(Safetensors file, Family family) {
    TensorStore out;
    out.source_ = file.source;
    const bool prefixed = has_prefix(file.tensors, "model.");
    for (StoredTensor& tensor : file.tensors) {
        tensor.name = unified_name(tensor.name, family, prefixed);
        align(tensor);
        std::string name = tensor.name;
        if (!out.tensors_.emplace(name, std::move(tensor)).second)
            fail(Code::bad_format, out.source_, ": two tensors stand for '", name, "'");
    }
    // T5 and BART files keep one of the tied embeddings, not always the one named shared.
    const std::string prefix = family == Family::bart ? "model." : "";
    if ((family == Family::bart || family == Family::t5) && !out.find(prefix + "shared.weight"))
        for (const char* other : {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"})
            if (const StoredTensor* tensor = out.find(prefix + other)) {
                StoredTensor shared = *tensor;
                shared.name = prefix + "shared.weight";
                out.tensors_.emplace(shared.name, shared);
            }
    return out;
}

const StoredTensor* TensorStore::find(std::string_view name) const {
    const auto at = tensors_.find(name);
    return at == tensors_.end() ? nullptr : &at->second;
}

const StoredTensor& TensorStore::expect(std::string_view name, std::span<const int64_t> shape) const {
    const StoredTensor* tensor = find(name);
    if (!tensor)
        fail(Code::bad_format, source_, ": tensor '", name, "' of shape ", shape_text(shape), " is missing");
    if (!std::equal(shape.begin(), shape.end(), tensor->shape.begin(), tensor->shape.end()))
        fail(Code::bad_format, source_, ": tensor '", name, "' has shape ", shape_text(tensor->shape),
             ", the config wants ", shape_text(shape));
    if (!is_weight_dtype(tensor->dtype))
        fail(Code::bad_format, source_, ": tensor '", name, "' is ", dtype_name(tensor->dtype),
             ", a weight needs F32, F16, BF16 or a GGUF block type");
    return *tensor;
}

void TensorStore::validate(const ModelConfig& config) const {
    for_each_tensor(config, [&](const TensorSpec& spec) {
        if (!spec.optional || find(spec.name)) expect(spec.name, spec.shape);
        return true;
    });
}

std::string ModelFiles::fingerprint() const {
    std::string description = config.to_json().dump() + (tensors.permuted_qk() ? "\npermuted\n" : "\n");
    for_each_tensor(config, [&](const TensorSpec& spec) {
        if (const StoredTensor* tensor = tensors.find(spec.name))
            description += text(spec.name, " ", dtype_name(tensor->dtype), " ", shape_text(tensor->shape),
                                " ", hash128(tensor->data).hex(), "\n");
        return true;
    });
    return hash128(std::as_bytes(std::span(description.data(), description.size()))).hex();
}

ModelFiles open_model_files(const Bytes& gguf) {
    // Blocks hold 2- and 4-byte words and tensors lie at multiples of 8: memory lent at an odd address is
    // copied.
    const bool aligned = reinterpret_cast<uintptr_t>(gguf.data()) % 8 == 0;
    const GgufFile file = GgufFile::parse(aligned ? gguf : Bytes::copy_of(gguf.span(), gguf.name()));
    ModelFiles out;
    out.name = std::filesystem::path(gguf.name()).filename().string();
    out.config = gguf_model_config(file);
    out.tensors = TensorStore::from_gguf(file);
    out.tensors.validate(out.config);
    out.gguf_tokenizer = file.tokenizer_metadata();
    return out;
}

ModelFiles open_model_files(const std::filesystem::path& path) {
    if (!std::filesystem::is_directory(path)) return open_model_files(Bytes::map_file(path));
    const Bytes config = Bytes::map_file(path / "config.json");
    ModelFiles out;
    out.folder = path;
    out.name = std::filesystem::path(path / "").parent_path().filename().string();
    out.config = parse_hf_config(config.text(), config.name());
    out.tensors = TensorStore::from_safetensors(open_safetensors_folder(path), out.config.family);
    out.tensors.validate(out.config);
    return out;
}

}  // namespace polyad
