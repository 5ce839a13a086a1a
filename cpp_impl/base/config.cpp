// SPDX-License-Identifier: Apache-2.0
#include "base/config.h"

#include <cmath>

#include "base/error.h"

namespace polyad {
namespace {

constexpr int max_json_depth = 64;

template <class List>
std::string join(const List& list) {
    std::string out;
    for (const auto& item : list) out += (out.empty() ? "" : ", ") + std::string(item);
    return out;
}

}  // namespace

Json parse_json(std::string_view source, std::string_view what) {
    bool too_deep = false;
    auto guard = [&](int depth, Json::parse_event_t, Json&) {
        if (depth > max_json_depth) too_deep = true;
        if (too_deep) fail(Code::invalid_config, what, ": nested deeper than ", max_json_depth, " levels");
        return true;
    };
    try {
        return Json::parse(source.begin(), source.end(), guard);
    } catch (const Json::exception& e) {
        fail(Code::invalid_config, what, ": not valid JSON: ", e.what());
    }
}

ConfigReader::ConfigReader(const Json& object, std::string where)
    : object_(object), where_(std::move(where)) {
    if (!object_.is_object())
        fail(Code::invalid_config, where_, " must be a JSON object, got ", object_.type_name());
}

const Json* ConfigReader::find(const char* key) {
    known_.insert(key);
    auto it = object_.find(key);
    return it == object_.end() || it->is_null() ? nullptr : &*it;
}

bool ConfigReader::has(const char* key) {
    return find(key) != nullptr;
}

void ConfigReader::accept(const char* key) {
    known_.insert(key);
}

void ConfigReader::refuse(const char* key, const std::string& why) const {
    throw Error(Code::invalid_config, text(where_, ".", key, ": ", why), text(where_, ".", key));
}

int64_t ConfigReader::integer(const char* key, int64_t fallback, int64_t min, int64_t max) {
    const Json* value = find(key);
    if (!value) return fallback;
    if (!value->is_number_integer()) refuse(key, text("needs an integer, got ", value->dump()));
    const bool too_big =
        value->is_number_unsigned() && value->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX);
    const int64_t number = too_big ? 0 : value->get<int64_t>();
    if (too_big || number < min || number > max)
        refuse(key, text(value->dump(), " is out of range, allowed: ", min, " to ", max));
    return number;
}

double ConfigReader::number(const char* key, double fallback, double min, double max) {
    const Json* value = find(key);
    if (!value) return fallback;
    if (!value->is_number()) refuse(key, text("needs a number, got ", value->dump()));
    const double number = value->get<double>();
    if (!std::isfinite(number) || number < min || number > max)
        refuse(key, text(value->dump(), " is out of range, allowed: ", min, " to ", max));
    return number;
}

bool ConfigReader::boolean(const char* key, bool fallback) {
    const Json* value = find(key);
    if (!value) return fallback;
    if (!value->is_boolean()) refuse(key, text("needs true or false, got ", value->dump()));
    return value->get<bool>();
}

std::string ConfigReader::string(const char* key, std::string fallback) {
    const Json* value = find(key);
    if (!value) return fallback;
    if (!value->is_string()) refuse(key, text("needs a string, got ", value->dump()));
    return value->get<std::string>();
}

std::string ConfigReader::choice(const char* key, const char* fallback,
                                 std::initializer_list<const char*> allowed) {
    std::string got = string(key, fallback);
    for (const char* option : allowed)
        if (got == option) return got;
    refuse(key, text("'", got, "' is not known, allowed: ", join(allowed)));
}

std::vector<std::string> ConfigReader::strings(const char* key, std::vector<std::string> fallback) {
    const Json* value = find(key);
    if (!value) return fallback;
    if (value->is_string()) return {value->get<std::string>()};
    if (!value->is_array()) refuse(key, text("needs a string or a list of strings, got ", value->dump()));
    std::vector<std::string> out;
    for (const Json& item : *value) {
        if (!item.is_string()) refuse(key, text("needs a list of strings, found ", item.dump()));
        out.push_back(item.get<std::string>());
    }
    return out;
}

std::vector<double> ConfigReader::numbers(const char* key, std::vector<double> fallback) {
    const Json* value = find(key);
    if (!value) return fallback;
    if (!value->is_array()) refuse(key, text("needs a list of numbers, got ", value->dump()));
    std::vector<double> out;
    for (const Json& item : *value) {
        if (!item.is_number()) refuse(key, text("needs a list of numbers, found ", item.dump()));
        out.push_back(item.get<double>());
    }
    return out;
}

Json ConfigReader::object(const char* key) {
    const Json* value = find(key);
    if (!value) return Json::object();
    if (!value->is_object()) refuse(key, text("needs an object, got ", value->dump()));
    return *value;
}

void ConfigReader::finish() const {
    for (const auto& [key, value] : object_.items())
        if (!known_.count(key))
            throw Error(Code::invalid_config,
                        text(where_, ".", key, ": unknown key, allowed: ", join(known_)),
                        text(where_, ".", key));
}

}  // namespace polyad
