// SPDX-License-Identifier: Apache-2.0
// One line per comparison, and the closing count.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "backbone/backbone.h"
#include "base/error.h"
#include "io/safetensors.h"

namespace polyad::parity {

/// Bounds of fixtures/README.md section 1: |a - b| <= absolute + relative * |b| (or * max |b| when
/// `of_largest`). In bf16 a whole tensor is compared by the cosine of its angle to the expected one instead.
struct Tolerance {
    double absolute = 2e-4, relative = 1e-5;
    bool of_largest = false;
    double cosine = 0.995;
};
inline constexpr Tolerance activations{};
inline constexpr Tolerance gradients{2e-5, 1e-4, true, 0.98};
inline constexpr Tolerance adapter_gradients{1e-4, 1e-4, true, 0.98};

class Report {
  public:
    Report(bool bf16, std::string model) : bf16_(bf16), model_(std::move(model)) {}

    bool bf16() const { return bf16_; }
    void result(const std::string& what, bool ok, const std::string& detail);
    void compare(const std::string& what, const at::Tensor& actual, const at::Tensor& expected,
                 Tolerance tolerance);
    void compare_value(const std::string& what, double actual, double expected, double absolute);
    void compare_tokens(const std::string& what, const std::vector<int32_t>& actual,
                        const std::vector<int32_t>& expected);
    int passed() const { return passed_; }
    int failed() const { return failed_; }

  private:
    bool bf16_;
    std::string model_;
    int passed_ = 0, failed_ = 0;
};

/// float32 tensor of a stored one.
at::Tensor tensor_of(const StoredTensor& stored);
std::vector<int32_t> ids_of(const StoredTensor& stored);

/// Rows laid end to end; no targets.
Batch ragged(const std::vector<std::vector<int32_t>>& rows);
/// Greedy continuation of every row (an encoder-decoder's answer to it), all rows in one ragged batch over a
/// cache. A row that emits `eos` (-1: never) leaves the batch and is filled up with `pad`.
std::vector<std::vector<int32_t>> greedy(const Backbone& backbone,
                                         const std::vector<std::vector<int32_t>>& prompts, int steps,
                                         int32_t eos, int32_t pad);

void run_decoder(const Backbone& backbone, const Safetensors& expected, const Json& about, Report& report);
void run_encoder_decoder(const Backbone& backbone, const Safetensors& expected, const Json& about,
                         Report& report);
void run_encoder(const Backbone& backbone, const Safetensors& expected, Report& report);
void run_minilm(const std::shared_ptr<const Backbone>& backbone, const std::filesystem::path& folder,
                Report& report);
void run_adapter(const std::shared_ptr<const Backbone>& backbone, const Safetensors& inputs,
                 const std::filesystem::path& folder, Report& report);
void run_smollm2(const Backbone& backbone, const std::filesystem::path& folder, Report& report);

}  // namespace polyad::parity
