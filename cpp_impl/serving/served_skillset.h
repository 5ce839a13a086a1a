// SPDX-License-Identifier: Apache-2.0
// A published version of a skillset, ready to serve: every task whose mixture has an exact plain form lies
// there as one low-rank pair per site in the backbone's dtype, so that naming another task costs a request
// nothing.
#pragma once

#include <ATen/core/Tensor.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "kernels/op_table.h"
#include "routing/skillset.h"

namespace polyad {

/// One task as plain pairs, all of them in one piece of memory.
class ResidentLora {
  public:
    /// Null when the skillset has no exact plain form of the task (-1 = none named), or needs more than
    /// pairs.
    /// `rest` is called between sites.
    static std::shared_ptr<const ResidentLora> make(const Skillset& skillset, int task,
                                                    const std::function<void()>& rest = {});

    /// The pair of a site; a is null where the task changes nothing. Valid as long as this is.
    const kernels::RowFactors& at(const Site& site) const {
        return of_site_[static_cast<size_t>(site.index)];
    }
    int64_t bytes() const { return memory_.nbytes(); }
    bool operator==(const ResidentLora& other) const;

  private:
    ResidentLora() = default;

    at::Tensor memory_;
    std::vector<kernels::RowFactors> of_site_;  ///< [Backbone::sites()]
};

class ServedSkillset {
  public:
    /// `skillset` must not change any more. Makes the resident pairs, unless they would take more than
    /// `most_resident_bytes`: such a skillset mixes its factors as they are asked for. Heavy, and safe beside
    /// running steps; `rest` is called between its parts.
    ServedSkillset(std::shared_ptr<const Skillset> skillset, int64_t most_resident_bytes,
                   const std::function<void()>& rest = {});
    ~ServedSkillset();
    ServedSkillset(const ServedSkillset&) = delete;
    ServedSkillset& operator=(const ServedSkillset&) = delete;

    const Skillset& skillset() const { return *skillset_; }
    const std::shared_ptr<const Skillset>& shared() const { return skillset_; }
    /// Null: the task's rows go through the method.
    const ResidentLora* lora(int task) const;
    /// Parameters and resident pairs.
    int64_t bytes() const { return bytes_; }
    /// Unlike every other version's in this process.
    int64_t id() const { return id_; }
    /// `ledger` holds bytes() until the version is gone.
    void account(std::shared_ptr<std::atomic<int64_t>> ledger);

  private:
    std::shared_ptr<const Skillset> skillset_;
    std::vector<std::shared_ptr<const ResidentLora>> loras_;  ///< [1 + tasks]: none named, then each task
    int64_t bytes_ = 0, id_;
    std::shared_ptr<std::atomic<int64_t>> ledger_;
};

}  // namespace polyad
