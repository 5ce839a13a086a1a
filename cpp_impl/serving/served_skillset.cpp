// SPDX-License-Identifier: Apache-2.0
#include "serving/served_skillset.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "backbone/buffer_pool.h"
#include "base/error.h"

namespace polyad {
namespace {

/// The tasks' pairs of one site, nullopt when one of them is no plain pair.
std::optional<std::vector<CollapsedSite>> collapse_all(const Skillset& skillset, int task,
                                                       const std::function<void()>& rest) {
    std::vector<CollapsedSite> out;
    for (const Site& site : skillset.sites()) {
        std::optional<CollapsedSite> pair = skillset.method().collapse(site, task);
        if (!pair) return std::nullopt;
        out.push_back(std::move(*pair));
        if (rest) rest();
    }
    return out;
}

constexpr int64_t alignment = 64;  ///< bytes

int64_t aligned(int64_t elements, int64_t size) {
    return (elements * size + alignment - 1) / alignment * alignment / size;
}

}  // namespace

std::shared_ptr<const ResidentLora> ResidentLora::make(const Skillset& skillset, int task,
                                                       const std::function<void()>& rest) {
    Method& method = skillset.method();
    if (method.exclusive() || method.prefix_tokens(task) > 0 || (task < 0 && method.needs_task()))
        return nullptr;
    const at::NoGradGuard no_grad;
    std::optional<std::vector<CollapsedSite>> pairs;
    try {
        pairs = collapse_all(skillset, task, rest);
    } catch (const Error& e) {
        if (e.code() != Code::unknown_task && e.code() != Code::invalid_argument) throw;
    }
    if (!pairs) return nullptr;
    const auto dtype = skillset.backbone()->compute_dtype();
    const auto size = static_cast<int64_t>(at::elementSize(dtype));
    int64_t elements = 0;
    for (const CollapsedSite& pair : *pairs)
        elements += aligned(pair.a.numel(), size) + aligned(pair.b.numel(), size);
    const std::shared_ptr<ResidentLora> lora(new ResidentLora());
    lora->memory_ =
        new_lasting({elements}, at::TensorOptions().dtype(dtype).device(skillset.backbone()->device()));
    lora->of_site_.resize(skillset.backbone()->sites().size());
    int64_t at = 0;
    const auto keep = [&](const at::Tensor& values) {
        const at::Tensor to = lora->memory_.narrow(0, at, values.numel()).view(values.sizes());
        to.copy_(values);
        at += aligned(values.numel(), size);
        return static_cast<const void*>(to.const_data_ptr());
    };
    for (size_t i = 0; i < pairs->size(); ++i) {
        const CollapsedSite& pair = (*pairs)[i];
        if (rest) rest();
        const auto rank = static_cast<int32_t>(pair.a.size(0));
        if (rank == 0) continue;
        const void* a = keep(pair.a);
        const void* b = keep(pair.b.t());
        lora->of_site_[static_cast<size_t>(skillset.sites()[i].index)] = {a, b, rank, 1.0f};
    }
    return lora;
}

bool ResidentLora::operator==(const ResidentLora& other) const {
    if (of_site_.size() != other.of_site_.size() || bytes() != other.bytes()) return false;
    for (size_t i = 0; i < of_site_.size(); ++i)
        if (of_site_[i].rank != other.of_site_[i].rank || !of_site_[i].a != !other.of_site_[i].a)
            return false;
    return memory_.equal(other.memory_);
}

ServedSkillset::ServedSkillset(std::shared_ptr<const Skillset> skillset, int64_t most_resident_bytes,
                               const std::function<void()>& rest)
    : skillset_(std::move(skillset)) {
    static std::atomic<int64_t> next{1};
    id_ = next++;
    for (const Parameter& p : skillset_->method().parameters())
        bytes_ += static_cast<int64_t>(p.value.nbytes());
    const int tasks = static_cast<int>(skillset_->tasks().size());
    int64_t resident = 0;
    bool same = !skillset_->method().needs_task();  // then the tasks usually share one pair
    for (int task = -1; task < tasks; ++task) {
        std::shared_ptr<const ResidentLora> lora = ResidentLora::make(*skillset_, task, rest);
        if (lora && same && task >= 0 && loras_[0] && *lora == *loras_[0]) lora = loras_[0];
        if (lora && (loras_.empty() || lora != loras_[0])) {
            resident += lora->bytes();
            // What one task takes all will take: no need to make them to find out.
            const int64_t all = same ? resident : lora->bytes() * tasks;
            if (std::max(resident, all) > most_resident_bytes) {
                loras_.clear();
                return;
            }
        }
        loras_.push_back(std::move(lora));
    }
    bytes_ += resident;
}

ServedSkillset::~ServedSkillset() {
    if (ledger_) *ledger_ -= bytes_;
}

const ResidentLora* ServedSkillset::lora(int task) const {
    const auto index = static_cast<size_t>(task + 1);
    return index < loras_.size() ? loras_[index].get() : nullptr;
}

void ServedSkillset::account(std::shared_ptr<std::atomic<int64_t>> ledger) {
    POLYAD_CHECK(!ledger_);
    ledger_ = std::move(ledger);
    *ledger_ += bytes_;
}

}  // namespace polyad
