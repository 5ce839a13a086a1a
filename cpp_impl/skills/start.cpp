// SPDX-License-Identifier: Apache-2.0
#include "skills/start.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "base/error.h"

namespace polyad {
namespace {

constexpr struct {
    SkillInit init;
    const char* name;
} init_names[] = {{SkillInit::kaiming, "kaiming"},
                  {SkillInit::gaussian, "gaussian"},
                  {SkillInit::polytropon, "polytropon"},
                  {SkillInit::peft_poly, "peft_poly"},
                  {SkillInit::molora, "molora"}};

void fill_down(SkillInit init, int64_t rank, int64_t d_in, int64_t splits, Generator& generator, float* out,
               size_t n) {
    const double width = static_cast<double>(d_in);
    auto uniform = [&](double bound) { generator.fill_uniform(out, n, -bound, bound); };
    switch (init) {
        case SkillInit::kaiming:
            return uniform(1.0 / std::sqrt(width));
        case SkillInit::gaussian:
            return generator.fill_normal(out, n, 0.0, 1.0 / static_cast<double>(rank));
        case SkillInit::polytropon:
            return uniform(std::sqrt(1.0 / (3.0 * width)));
        case SkillInit::peft_poly:
            return uniform(std::sqrt(static_cast<double>(splits) / width));
        case SkillInit::molora:
            return generator.fill_normal(out, n, 0.0, 0.02);
    }
}

}  // namespace

SkillInit read_skill_init(ConfigReader& reader) {
    const std::string name =
        reader.choice("init", "kaiming", {"kaiming", "gaussian", "polytropon", "peft_poly", "molora"});
    for (const auto& entry : init_names)
        if (name == entry.name) return entry.init;
    return SkillInit::kaiming;
}

const char* skill_init_name(SkillInit init) {
    return init_names[static_cast<size_t>(init)].name;
}

Generator named_generator(uint64_t seed, std::string_view name) {
    uint64_t stream = 0xcbf29ce484222325;  // FNV-1a
    for (const char c : name) stream = (stream ^ static_cast<unsigned char>(c)) * 0x100000001b3;
    return Generator(seed, stream);
}

at::Tensor TensorMaker::make(at::IntArrayRef shape, std::string_view name, const Filler& filler) const {
    const auto options = at::TensorOptions().dtype(at::kFloat);
    if (fill_ == Fill::shapes_only) return at::empty(shape, options.device(at::kMeta));
    if (fill_ == Fill::uninitialised) return at::empty(shape, options.device(device_));
    if (!filler) return at::zeros(shape, options.device(device_));
    const at::Tensor tensor = at::empty(shape, options);
    Generator generator = named_generator(seed_, name);
    filler(generator, tensor.mutable_data_ptr<float>(), static_cast<size_t>(tensor.numel()));
    return tensor.to(device_);
}

at::Tensor TensorMaker::zeros(at::IntArrayRef shape) const {
    return make(shape, {}, {});
}

at::Tensor TensorMaker::uniform(at::IntArrayRef shape, std::string_view name, double low, double high) const {
    return make(shape, name, [&](Generator& g, float* out, size_t n) { g.fill_uniform(out, n, low, high); });
}

at::Tensor TensorMaker::normal(at::IntArrayRef shape, std::string_view name, double std) const {
    return make(shape, name, [&](Generator& g, float* out, size_t n) { g.fill_normal(out, n, 0.0, std); });
}

at::Tensor TensorMaker::down(at::IntArrayRef shape, std::string_view name, SkillInit init,
                             int64_t splits) const {
    POLYAD_CHECK(shape.size() >= 2);
    const int64_t rank = shape[shape.size() - 2], d_in = shape.back();
    return make(shape, name,
                [&](Generator& g, float* out, size_t n) { fill_down(init, rank, d_in, splits, g, out, n); });
}

at::Tensor draw_down(at::IntArrayRef shape, SkillInit init, int64_t splits, Generator& generator,
                     at::Device device) {
    at::Tensor tensor = at::empty(shape, at::TensorOptions().dtype(at::kFloat));
    fill_down(init, shape[shape.size() - 2], shape.back(), splits, generator,
              tensor.mutable_data_ptr<float>(), static_cast<size_t>(tensor.numel()));
    return tensor.to(device);
}

}  // namespace polyad
