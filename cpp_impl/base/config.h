// SPDX-License-Identifier: Apache-2.0
// Reads a JSON configuration and refuses what it does not know: every read names a key, its type and what is
// allowed, and finish() reports keys nobody asked for together with the list of keys that exist.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace polyad {

using Json = nlohmann::json;

/// Parses UTF-8 JSON text; Code::invalid_config with line and column on failure. `what` names the text in
/// errors.
Json parse_json(std::string_view text, std::string_view what);

class ConfigReader {
  public:
    /// `where` is the path shown in errors, e.g. "method" or "training". `object` must be a JSON object.
    ConfigReader(const Json& object, std::string where);

    bool has(const char* key);
    int64_t integer(const char* key, int64_t fallback, int64_t min, int64_t max);
    double number(const char* key, double fallback, double min, double max);
    bool boolean(const char* key, bool fallback);
    std::string string(const char* key, std::string fallback);
    /// One of `allowed`.
    std::string choice(const char* key, const char* fallback, std::initializer_list<const char*> allowed);
    /// A string, or a list of strings.
    std::vector<std::string> strings(const char* key, std::vector<std::string> fallback);
    std::vector<double> numbers(const char* key, std::vector<double> fallback);
    /// Sub-object (empty object when absent).
    Json object(const char* key);
    /// Makes `key` known without reading it.
    void accept(const char* key);
    /// Throws Code::invalid_config when the object holds a key that was never asked for.
    void finish() const;

    [[noreturn]] void refuse(const char* key, const std::string& why) const;

  private:
    const Json* find(const char* key);
    const Json object_;
    std::string where_;
    std::set<std::string> known_;
};

}  // namespace polyad
