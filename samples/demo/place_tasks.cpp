// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>

#include "demo_tasks.h"

namespace {

nlohmann::json read_codes(const std::filesystem::path& folder, const std::string& standard) {
    const std::filesystem::path path = folder / ("iso_" + standard + ".json");
    std::ifstream file(path);
    if (!file) throw std::runtime_error("cannot read " + path.string() + " (Debian package iso-codes)");
    return nlohmann::json::parse(file).at(standard);
}

/// The lists are sorted, which a split must not follow; a fixed shuffle by hash.
void shuffle(std::vector<DemoExample>& examples) {
    const auto hash = [](const std::string& text) {
        uint64_t value = 1469598103934665603ULL;
        for (unsigned char c : text) value = (value ^ c) * 1099511628211ULL;
        return (value ^ (value >> 29)) * 0xbf58476d1ce4e5b9ULL;
    };
    std::sort(examples.begin(), examples.end(),
              [&](const DemoExample& a, const DemoExample& b) { return hash(a.input) < hash(b.input); });
}

bool is_simple_name(const std::string& name) {
    return name.size() >= 3 && name.find_first_of(",;()[]/0123456789") == std::string::npos;
}

}  // namespace

DemoTask place_country(const std::filesystem::path& iso_codes) {
    struct Country {
        const char *code, *name;
    };
    constexpr std::array<Country, 8> countries = {{{"FR", "France"},
                                                   {"IT", "Italy"},
                                                   {"JP", "Japan"},
                                                   {"ES", "Spain"},
                                                   {"TH", "Thailand"},
                                                   {"TR", "Turkey"},
                                                   {"US", "United States"},
                                                   {"VN", "Vietnam"}}};
    std::map<std::string, std::set<std::string>> places;  // name -> countries that have one
    for (const auto& row : read_codes(iso_codes, "3166-2")) {
        const std::string code = row.at("code"), name = row.at("name");
        if (is_simple_name(name)) places[name].insert(code.substr(0, 2));
    }
    std::vector<std::vector<DemoExample>> classes(countries.size());
    for (const auto& [name, codes] : places) {
        const auto country = std::find_if(countries.begin(), countries.end(),
                                          [&](const Country& c) { return codes.count(c.code) == 1; });
        if (codes.size() == 1 && country != countries.end())
            classes[country - countries.begin()].push_back({name, {country->name}});
    }
    DemoTask task{"place_country", "Which country is it in?", {}};
    constexpr size_t most = 60;  // the United States have no more
    for (auto& examples : classes) {
        shuffle(examples);
        if (examples.size() > most) examples.resize(most);
        task.examples.insert(task.examples.end(), examples.begin(), examples.end());
    }
    shuffle(task.examples);
    return task;
}

DemoTask language_code(const std::filesystem::path& iso_codes) {
    DemoTask task{"language_code", "Give the three-letter language code.", {}};
    std::vector<DemoExample> minor;
    for (const auto& row : read_codes(iso_codes, "639-2")) {
        std::string name = row.contains("common_name") ? row.at("common_name") : row.at("name");
        name.resize(std::min(name.size(), name.find(';')));  // "Catalan; Valencian"
        if (!is_simple_name(name) || name.find("languages") != std::string::npos) continue;
        // Languages with a two-letter code of their own are the ones people have heard of.
        DemoExample example{name, {row.at("alpha_3")}};
        if (row.contains("bibliographic")) example.outputs.push_back(row.at("bibliographic"));
        (row.contains("alpha_2") ? task.examples : minor).push_back(std::move(example));
    }
    shuffle(task.examples);
    shuffle(minor);
    task.examples.insert(task.examples.end(), minor.begin(), minor.end());
    return task;
}
