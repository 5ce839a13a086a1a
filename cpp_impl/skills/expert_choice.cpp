// SPDX-License-Identifier: Apache-2.0
#include "skills/expert_choice.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/log.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros_like.h>

#include "base/error.h"

namespace polyad {
namespace {

constexpr const char* names[] = {"softmax", "gumbel_softmax", "gumbel_softmax_st"};

}  // namespace

ExpertChoice read_expert_choice(ConfigReader& reader, const char* key) {
    const std::string name = reader.choice(key, names[2], {names[2], names[1], names[0]});
    return name == names[0]   ? ExpertChoice::softmax
           : name == names[1] ? ExpertChoice::gumbel
                              : ExpertChoice::gumbel_st;
}

const char* expert_choice_name(ExpertChoice choice) {
    return names[static_cast<size_t>(choice)];
}

at::Tensor largest_expert(const at::Tensor& logits) {
    const at::Tensor values = logits.detach();
    return at::zeros_like(values).scatter_(-1, at::argmax(values, -1, true), 1.0);
}

at::Tensor choose_experts(const at::Tensor& logits, ExpertChoice choice, double tau, const at::Tensor& u) {
    if (choice == ExpertChoice::softmax) return at::softmax(logits / tau, -1);
    POLYAD_CHECK(u.defined() && u.sizes() == logits.sizes());
    const at::Tensor noisy = logits - at::log(-at::log(u));
    const at::Tensor soft = at::softmax(noisy / tau, -1);
    if (choice == ExpertChoice::gumbel) return soft;
    // soft - soft is exactly 0, so the sum is exactly one-hot.
    return largest_expert(noisy) + (soft - soft.detach());
}

}  // namespace polyad
