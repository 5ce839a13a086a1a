// SPDX-License-Identifier: Apache-2.0
#include "routing/flat_parameters.h"

#include <algorithm>
#include <cmath>

#include "backbone/device.h"
#include "base/error.h"
#include "io/bundle.h"
#include "routing/skillset.h"

namespace polyad {
namespace {

void expect_size(const Skillset& skillset, size_t size) {
    const int64_t count = flat_parameter_count(skillset);
    if (static_cast<int64_t>(size) != count)
        fail(Code::invalid_argument, "the buffer holds ", size, " values, the skillset has ", count,
             " trainable parameters");
}

Json task_list(const std::vector<TaskEntry>& tasks) {
    Json out = Json::array();
    for (const TaskEntry& task : tasks)
        out.push_back({{"name", task.name},
                       {"category", task.category},
                       {"instruction", task.instruction},
                       {"labels", task.labels}});
    return out;
}

}  // namespace

int64_t flat_parameter_count(const Skillset& skillset) {
    int64_t count = 0;
    for (const Parameter& p : skillset.method().parameters())
        if (p.trainable) count += p.value.numel();
    return count;
}

void get_flat_parameters(const Skillset& skillset, std::span<float> values) {
    expect_size(skillset, values.size());
    float* out = values.data();
    for (const Parameter& p : skillset.method().parameters())
        if (p.trainable)
            out = std::copy_n(on_host(p.value.detach()).const_data_ptr<float>(), p.value.numel(), out);
}

void set_flat_parameters(Skillset& skillset, std::span<const float> values) {
    expect_size(skillset, values.size());
    for (size_t i = 0; i < values.size(); ++i)
        if (!std::isfinite(values[i])) fail(Code::numeric_error, "values[", i, "] is not a finite number");
    const float* in = values.data();
    for (Parameter& p : skillset.method().parameters()) {
        if (!p.trainable) continue;
        const at::Tensor fresh = at::empty(p.value.sizes(), at::TensorOptions().dtype(at::kFloat));
        std::copy_n(in, fresh.numel(), fresh.mutable_data_ptr<float>());
        p.value.detach().copy_(fresh);
        in += p.value.numel();
    }
    skillset.method().parameters_changed();
}

Json describe(const Skillset& skillset) {
    int64_t trainable = 0, stored = 0;
    for (const Parameter& p : skillset.method().parameters()) {
        stored += p.value.numel();
        if (p.trainable) trainable += p.value.numel();
    }
    const BackboneInfo& info = skillset.backbone()->info();
    return {{"config", skillset.config()},
            {"tasks", task_list(skillset.tasks())},
            {"parameters", {{"trainable", trainable}, {"stored", stored}}},
            {"skills", skillset.method().skill_count()},
            {"sites", skillset.sites().size()},
            {"metadata", const_cast<Skillset&>(skillset).metadata()},
            {"backbone", {{"name", info.name}, {"family", info.family}, {"fingerprint", info.fingerprint}}}};
}

Json describe(const Bundle& bundle) {
    Json tensors = Json::array();
    int64_t stored = 0;
    for (const StoredTensor& t : bundle.tensors) {
        tensors.push_back({{"name", t.name}, {"dtype", dtype_name(t.dtype)}, {"shape", t.shape}});
        stored += t.elements();
    }
    return {{"version", text(bundle.major, ".", bundle.minor)},
            {"config", bundle.config},
            {"tasks", bundle.tasks},
            {"parameters", {{"stored", stored}}},
            {"metadata", bundle.metadata},
            {"backbone", bundle.backbone},
            {"tensors", std::move(tensors)}};
}

}  // namespace polyad
