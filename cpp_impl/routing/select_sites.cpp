// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <set>

#include "base/error.h"
#include "base/pattern.h"
#include "routing/method.h"

namespace polyad {
namespace {

/// PEFT's rule: the whole path, or its last parts.
bool names_site(const std::string& name, const std::string& path) {
    if (name == path) return true;
    return path.size() > name.size() && path.compare(path.size() - name.size(), name.size(), name) == 0 &&
           path[path.size() - name.size() - 1] == '.';
}

[[noreturn]] void refuse(const std::vector<Site>& all, const std::string& why) {
    std::set<std::string> names;
    for (const Site& site : all) names.insert(site.name());
    std::string list;
    for (const std::string& name : names) list += (list.empty() ? "" : ", ") + name;
    throw Error(
        Code::invalid_config,
        text("target_modules: ", why, "; names here: ", list, ", or \"all-linear\" or \"feed-forward-out\""),
        "target_modules");
}

std::vector<Site> by_pattern(const std::vector<Site>& all, const std::string& pattern) {
    std::vector<Site> chosen;
    try {
        const Pattern expression(pattern);
        for (const Site& site : all)
            if (expression.matches(site.path)) chosen.push_back(site);
    } catch (const Error& e) {
        refuse(all, text("neither a name nor a usable regular expression (", e.what(), ")"));
    }
    if (chosen.empty())
        refuse(all,
               text("'", pattern.substr(0, 80), "' matches no site as a name or as a regular expression"));
    return chosen;
}

}  // namespace

std::vector<Site> select_sites(const std::vector<Site>& all, const Json& config) {
    const auto given = config.find("target_modules");
    if (given == config.end() || given->is_null() || *given == "all-linear") return all;
    if (*given == "feed-forward-out") {
        std::vector<Site> chosen;
        for (const Site& site : all)
            if (site.role == Role::feed_forward_out) chosen.push_back(site);
        if (chosen.empty()) refuse(all, "the backbone has no output projection of a feed-forward");
        return chosen;
    }
    std::vector<std::string> names;
    if (given->is_string()) {
        names.push_back(given->get<std::string>());
    } else if (given->is_array() && !given->empty()) {
        for (const Json& item : *given) {
            if (!item.is_string()) refuse(all, text("needs a list of strings, found ", item.dump()));
            names.push_back(item.get<std::string>());
        }
    } else {
        refuse(all, "needs a string or a list of strings");
    }
    for (const std::string& name : names) {
        if (std::any_of(all.begin(), all.end(),
                        [&](const Site& site) { return names_site(name, site.path); }))
            continue;
        if (given->is_string()) return by_pattern(all, name);
        refuse(all, text("'", name, "' matches no site"));
    }
    std::vector<Site> chosen;
    for (const Site& site : all)
        if (std::any_of(names.begin(), names.end(),
                        [&](const std::string& n) { return names_site(n, site.path); }))
            chosen.push_back(site);
    return chosen;
}

}  // namespace polyad
