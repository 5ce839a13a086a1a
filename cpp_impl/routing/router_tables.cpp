// SPDX-License-Identifier: Apache-2.0
#include "routing/router_tables.h"

#include <algorithm>
#include <map>

namespace polyad {
namespace {

/// Path up to and including its first number ("model.layers.3"), or without it.
std::string layer_prefix(const std::string& path, bool with_number) {
    size_t begin = 0;
    while (begin < path.size()) {
        size_t end = path.find('.', begin);
        if (end == std::string::npos) end = path.size();
        const bool number = end > begin && std::all_of(path.begin() + static_cast<std::ptrdiff_t>(begin),
                                                       path.begin() + static_cast<std::ptrdiff_t>(end),
                                                       [](char c) { return c >= '0' && c <= '9'; });
        if (number) return path.substr(0, with_number ? end : (begin ? begin - 1 : 0));
        begin = end + 1;
    }
    return path.substr(0, path.rfind('.'));
}

std::string table_name(const Site& site, const std::string& granularity) {
    if (granularity == "finegrained") return site.path;
    if (granularity == "blockwise") return site.path.substr(0, site.path.rfind('.'));
    if (granularity == "layerwise") return layer_prefix(site.path, true);
    if (granularity == "coderwise") return layer_prefix(site.path, false);
    return "router";
}

}  // namespace

std::string read_router_granularity(ConfigReader& reader) {
    return reader.choice("router_granularity", "finegrained",
                         {"finegrained", "blockwise", "layerwise", "coderwise", "coarsegrained"});
}

RouterSharing share_routers(const std::vector<Site>& sites, const std::string& granularity) {
    RouterSharing sharing;
    std::map<std::string, size_t> index;
    for (size_t i = 0; i < sites.size(); ++i) {
        std::string name = table_name(sites[i], granularity);
        const auto [found, added] = index.try_emplace(name, sharing.tables.size());
        if (added) {
            sharing.tables.push_back(std::move(name));
            sharing.first_site.push_back(i);
        }
        sharing.table_of_site.push_back(found->second);
    }
    return sharing;
}

}  // namespace polyad
