// SPDX-License-Identifier: Apache-2.0
#include "backbone/activation.h"

#include <ATen/ops/gelu.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/silu.h>

#include "base/error.h"

namespace polyad {

at::Tensor activate(Activation activation, const at::Tensor& x) {
    switch (activation) {
        case Activation::silu:
            return at::silu(x);
        case Activation::relu:
            return at::relu(x);
        case Activation::gelu:
            return at::gelu(x);
        case Activation::gelu_tanh:
            return at::gelu(x, "tanh");
    }
    fail(Code::unsupported, "this activation is not known");
}

}  // namespace polyad
