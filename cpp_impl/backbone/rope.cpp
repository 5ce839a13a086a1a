// SPDX-License-Identifier: Apache-2.0
#include "backbone/rope.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace polyad {
namespace {

// Llama 3's change of frequency: long wavelengths are slowed by `factor`, short ones kept, a linear blend
// between.
double scale_llama3(double frequency, const RopeScaling& scaling) {
    constexpr double two_pi = 6.283185307179586476925;
    const double turns =
        static_cast<double>(scaling.original_context) * frequency / two_pi;  // orig / wavelength
    if (turns > scaling.high_freq_factor) return frequency;
    if (turns < scaling.low_freq_factor) return frequency / scaling.factor;
    const double s = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor);
    return (1.0 - s) * frequency / scaling.factor + s * frequency;
}

}  // namespace

Rope::Rope(const ModelConfig& config, const std::vector<float>& factors, at::Device device)
    : device_(device) {
    const int64_t half = config.rotary_dim / 2;
    if (!factors.empty() && static_cast<int64_t>(factors.size()) != half)
        fail(Code::bad_format, "rope_freqs.weight has ", factors.size(), " entries, ", half, " wanted");
    for (int64_t i = 0; i < half; ++i) {
        double f = std::pow(config.rope_theta,
                            -2.0 * static_cast<double>(i) / static_cast<double>(config.rotary_dim));
        const RopeScaling& scaling = config.rope_scaling;
        if (!factors.empty())
            f /= factors[static_cast<size_t>(i)];
        else if (scaling.kind == RopeScaling::Kind::linear)
            f /= scaling.factor;
        else if (scaling.kind == RopeScaling::Kind::llama3)
            f = scale_llama3(f, scaling);
        frequencies_.push_back(f);
    }
}

std::shared_ptr<const RopeTable> Rope::table(int64_t positions) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (table_ && table_->positions >= positions) return table_;
    auto grown = std::make_shared<RopeTable>();
    grown->half = static_cast<int64_t>(frequencies_.size());
    grown->positions = std::max<int64_t>({positions, 256, table_ ? table_->positions * 2 : 0});
    const at::Tensor cos = at::empty({grown->positions, grown->half}, at::TensorOptions().dtype(at::kFloat));
    const at::Tensor sin = at::empty_like(cos);
    float *c = cos.mutable_data_ptr<float>(), *s = sin.mutable_data_ptr<float>();
    for (int64_t p = 0; p < grown->positions; ++p)
        for (const double f : frequencies_) {
            const double angle = static_cast<double>(p) * f;
            *c++ = static_cast<float>(std::cos(angle));
            *s++ = static_cast<float>(std::sin(angle));
        }
    grown->cos = cos.to(device_);
    grown->sin = sin.to(device_);
    table_ = grown;
    return table_;
}

}  // namespace polyad
