// SPDX-License-Identifier: Apache-2.0
// What PEMT's second stage takes over from its first: the experts and prompts of the source tasks.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <string>
#include <vector>

#include "base/config.h"
#include "routing/method.h"

namespace polyad {

struct SourceTask {
    std::string name;
    int64_t prompt_tokens = 0;
};

struct PemtSources {
    std::string expert;  ///< "lora" | "bottleneck"
    int64_t rank = 0;
    double alpha = 0.0;
    std::vector<SourceTask> tasks;  ///< in the order of the gate's entries
    /// "<site path>.lora_a" [m, ...] and so on, and "prompt.<i>" [n_i, width], by the names of stage 1; empty
    /// when the configuration is a bundle's own, whose tensors follow.
    std::map<std::string, at::Tensor> values;

    int64_t count() const { return static_cast<int64_t>(tasks.size()); }
    void write(Json& config) const;
};

/// config["sources"] is a list of stage 1's bundles ("a.polyad", or {"bundle": "a.polyad", "tasks": ["x"]}
/// for some of its tasks) or, in a complete configuration, what write() wrote. Refused by name: a bundle that
/// cannot be read or belongs to another backbone, one of another method, experts that differ in form, a site
/// stage 1 did not train, a source named twice.
PemtSources read_pemt_sources(const Json& config, ConfigReader& reader, const MethodContext& context);

/// Code::invalid_config unless every site is a feed-forward's output projection, one per layer.
void expect_feed_forward_sites(const std::vector<Site>& sites, const ConfigReader& reader);

/// Width of the stream that carries the prompt.
int64_t prompt_width(const MethodContext& context);

}  // namespace polyad
