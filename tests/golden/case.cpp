// SPDX-License-Identifier: Apache-2.0
#include "golden/case.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "base/error.h"
#include "io/safetensors.h"

namespace polyad::golden {
namespace {

at::Tensor to_tensor(const StoredTensor& stored) {
    const at::ScalarType type = stored.dtype == DType::f32   ? at::kFloat
                                : stored.dtype == DType::i64 ? at::kLong
                                : stored.dtype == DType::u8  ? at::kByte
                                                             : at::kDouble;
    if (type == at::kDouble) fail(Code::bad_format, "tensor '", stored.name, "' is not F32, I64 or U8");
    at::Tensor tensor = at::empty(stored.shape, at::TensorOptions().dtype(type));
    std::memcpy(tensor.mutable_data_ptr(), stored.data.data(), stored.data.size());
    return tensor;
}

at::Device chosen_device = at::kCPU;

}  // namespace

at::Device device() {
    return chosen_device;
}

void set_device(at::Device device) {
    chosen_device = device;
}

at::Tensor Case::find(const std::string& name) const {
    const auto found = tensors.find(name);
    return found == tensors.end() ? at::Tensor() : found->second;
}

at::Tensor Case::at(const std::string& name) const {
    at::Tensor tensor = find(name);
    if (!tensor.defined()) fail(Code::bad_format, "the case has no tensor '", name, "'");
    return tensor;
}

std::vector<std::string> Case::names(const std::string& prefix) const {
    std::vector<std::string> out;
    for (const auto& [name, tensor] : tensors)
        if (name.rfind(prefix, 0) == 0) out.push_back(name.substr(prefix.size()));
    return out;
}

Case read_case(const std::filesystem::path& file) {
    const Safetensors stored = open_safetensors(file);
    const auto text = stored.metadata.find("case");
    if (text == stored.metadata.end()) fail(Code::bad_format, "no metadata entry 'case'");
    const Json json = parse_json(text->second, "case");
    Case c;
    c.name = json.at("name").get<std::string>();
    c.method = json.at("method").get<std::string>();
    const auto mode = json.at("mode").get<std::string>();
    if (mode != "train" && mode != "eval") fail(Code::bad_format, "mode '", mode, "'");
    c.train = mode == "train";
    c.config = json.at("config");
    c.rtol = json.at("tolerance").at("rtol").get<double>();
    c.atol = json.at("tolerance").at("atol").get<double>();
    c.trainable = json.at("trainable").get<std::vector<std::string>>();
    c.grad_inputs = json.at("grad_inputs").get<std::vector<std::string>>();
    if (const auto error = json.find("expected_error"); error != json.end() && error->is_string())
        c.expected_error = error->get<std::string>();
    for (const StoredTensor& tensor : stored.tensors) c.tensors[tensor.name] = to_tensor(tensor);
    for (const char* list : {"inputs", "params", "expected"})
        for (const Json& name : json.at(list)) c.at(name.get<std::string>());
    return c;
}

std::string difference(const std::string& what, const at::Tensor& got, const at::Tensor& want,
                       const Case& c) {
    if (!got.defined()) return what + " was not computed";
    if (got.sizes() != want.sizes())
        return text(what, " has shape ", got.sizes(), " instead of ", want.sizes());
    if (want.numel() == 0) return {};
    if (want.scalar_type() == at::kLong)
        return got.to(at::kCPU, at::kLong).equal(want) ? "" : what + " differs (integers)";
    const at::Tensor reference = want.to(at::kDouble);
    const double off = (got.detach().to(at::kCPU, at::kDouble) - reference).abs().max().item<double>();
    const double limit = c.atol + c.rtol * reference.abs().max().item<double>();
    if (off <= limit) return {};
    return text(what, " is off by ", off, ", allowed ", limit);
}

void report(const std::string& name, const std::string& problem, Count& count) {
    std::printf("%s %s%s%s\n", problem.empty() ? "ok  " : "FAIL", name.c_str(), problem.empty() ? "" : ": ",
                problem.c_str());
    ++(problem.empty() ? count.passed : count.failed);
}

}  // namespace polyad::golden
