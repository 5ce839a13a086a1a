// SPDX-License-Identifier: Apache-2.0
// Starting values. Every tensor draws from a stream of its own, named after it, so that what one site starts
// from does not depend on which other sites there are or in which order they come.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "base/config.h"
#include "base/random.h"

namespace polyad {

/// What a new tensor holds.
enum class Fill {
    initialised,    ///< its starting values
    uninitialised,  ///< anything: a bundle's values follow
    shapes_only,    ///< no memory at all, to count and to check shapes
};

/// Distribution of A's entries (methods.md 7). B always starts at zero.
enum class SkillInit {
    kaiming,     ///< U(+-1/sqrt(d_in)): loralib, PEFT's init_lora_weights = true
    gaussian,    ///< N(0, 1/r^2): PEFT's "gaussian"
    polytropon,  ///< U(+-sqrt(1/3)/sqrt(d_in)): McGill's Polytropon, mttl
    peft_poly,   ///< U(+-sqrt(splits/d_in)): PEFT's Poly, fan-in of one split
    molora,      ///< N(0, 0.02^2): T5X MoLoRA
};

SkillInit read_skill_init(ConfigReader& reader);
const char* skill_init_name(SkillInit init);

/// Streams of one seed, by name.
Generator named_generator(uint64_t seed, std::string_view name);

class TensorMaker {
  public:
    /// Numbers are drawn in host memory and carried to `device`: the same seed starts the same there.
    explicit TensorMaker(uint64_t seed, Fill fill, at::Device device = at::kCPU)
        : seed_(seed), fill_(fill), device_(device) {}

    at::Tensor zeros(at::IntArrayRef shape) const;
    at::Tensor uniform(at::IntArrayRef shape, std::string_view name, double low, double high) const;
    at::Tensor normal(at::IntArrayRef shape, std::string_view name, double std) const;
    /// A factors: the last dimension is d_in, the one before it the rank.
    at::Tensor down(at::IntArrayRef shape, std::string_view name, SkillInit init, int64_t splits) const;
    Fill fill() const { return fill_; }

  private:
    using Filler = std::function<void(Generator&, float*, size_t)>;
    at::Tensor make(at::IntArrayRef shape, std::string_view name, const Filler& filler) const;

    uint64_t seed_;
    Fill fill_;
    at::Device device_;
};

/// Draws A factors from a generator at hand (skills of a task added later).
at::Tensor draw_down(at::IntArrayRef shape, SkillInit init, int64_t splits, Generator& generator,
                     at::Device device);

}  // namespace polyad
