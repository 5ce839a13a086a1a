// SPDX-License-Identifier: Apache-2.0
// Task tables: logits over skills, one table per site or shared by many (methods.md 8.5, router_granularity).
#pragma once

#include <string>
#include <vector>

#include "backbone/adaptation.h"
#include "base/config.h"

namespace polyad {

/// Which table each site reads.
struct RouterSharing {
    std::vector<std::string> tables;    ///< name of each table; a site's own path with "finegrained"
    std::vector<size_t> table_of_site;  ///< [sites]
    std::vector<size_t> first_site;     ///< [tables] a site that reads it
};

/// "finegrained" (a table per site) | "blockwise" (self_attn, mlp, ...) | "layerwise" | "coderwise" (encoder,
/// decoder) | "coarsegrained" (one table).
std::string read_router_granularity(ConfigReader& reader);
RouterSharing share_routers(const std::vector<Site>& sites, const std::string& granularity);

}  // namespace polyad
