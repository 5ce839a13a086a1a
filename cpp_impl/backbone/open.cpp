// SPDX-License-Identifier: Apache-2.0
// From files to a backbone: options decided, tokenizer attached, family dispatched.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/mm.h>

#include "backbone/backbone.h"
#include "backbone/bart.h"
#include "backbone/bert.h"
#include "backbone/cuda.h"
#include "backbone/decode_step.h"
#include "backbone/decoder.h"
#include "backbone/t5.h"
#include "base/error.h"
#include "base/mapped_pages.h"
#include "io/model_files.h"

namespace polyad {

at::Tensor Backbone::frozen_product(const std::string& path, const at::Tensor& x) const {
    const at::NoGradGuard no_grad;
    const at::Tensor weight = frozen(path + ".weight");
    return weight.defined() ? at::mm(x.detach().to(at::kFloat), weight.t()) : at::Tensor();
}

namespace {

LoadPlan decide(const BackboneOptions& options) {
    LoadPlan plan;
    const bool bf16 = options.precision == Precision::automatic
                          ? !options.device.is_cpu() || cpu_has_fast_bf16()
                          : options.precision == Precision::bf16;
    plan.device = options.device;
    plan.dtype = bf16 ? at::kBFloat16 : at::kFloat;
    plan.packed = options.weights == WeightStorage::packed;
    return plan;
}

std::shared_ptr<const Tokenizer> open_tokenizer(const ModelFiles& files) {
    if (!files.gguf_tokenizer.is_null()) return Tokenizer::from_gguf(files.gguf_tokenizer);
    if (files.folder.empty()) return nullptr;
    const auto path = files.folder / "tokenizer.json";
    if (!std::filesystem::exists(path)) return nullptr;
    Json config;
    const auto config_path = files.folder / "tokenizer_config.json";
    if (std::filesystem::exists(config_path))
        config = parse_json(Bytes::map_file(config_path).text(), config_path.string());
    return Tokenizer::from_json(Bytes::map_file(path).text(), config);
}

std::shared_ptr<const Backbone> assemble(const ModelFiles& files, const BackboneOptions& options) {
    const LoadPlan plan = decide(options);
    switch (files.config.family) {
        case Family::llama:
        case Family::qwen2:
        case Family::qwen3:
        case Family::mistral:
            return std::make_shared<const Decoder>(files, plan, open_tokenizer(files));
        case Family::t5:
            return std::make_shared<const T5>(files, plan, open_tokenizer(files));
        case Family::bart:
            return std::make_shared<const Bart>(files, plan, open_tokenizer(files));
        case Family::bert:
            return std::make_shared<const Bert>(files, plan, open_tokenizer(files));
    }
    fail(Code::unsupported, "'", files.name, "' is a ", family_name(files.config.family),
         " model, which this build does not run");
}

/// Reading a page brings its neighbours, of tensors that were let go of already.
std::shared_ptr<const Backbone> load(const ModelFiles& files, const BackboneOptions& options) {
    std::shared_ptr<const Backbone> out = assemble(files, options);
    for (const auto& [name, tensor] : files.tensors.tensors()) release_pages(tensor.owner, tensor.data);
    return out;
}

}  // namespace

BackboneOptions BackboneOptions::from_json(const Json& object) {
    ConfigReader reader(object, "backbone");
    BackboneOptions options;
    const std::string precision = reader.choice("precision", "auto", {"auto", "fp32", "bf16"});
    if (precision == "fp32") options.precision = Precision::fp32;
    if (precision == "bf16") options.precision = Precision::bf16;
    const std::string weights = reader.choice("weights", "auto", {"auto", "packed", "expanded"});
    if (weights == "packed") options.weights = WeightStorage::packed;
    if (weights == "expanded") options.weights = WeightStorage::expanded;
    reader.finish();
    return options;
}

std::unique_ptr<DecodeStep> Backbone::make_decode_step(int, int, Recorder&) const {
    return nullptr;
}

std::shared_ptr<const Backbone> Backbone::open(const std::filesystem::path& path,
                                               const BackboneOptions& options) {
    return load(open_model_files(path), options);
}

std::shared_ptr<const Backbone> Backbone::open(const Bytes& gguf, const BackboneOptions& options) {
    return load(open_model_files(gguf), options);
}

}  // namespace polyad
