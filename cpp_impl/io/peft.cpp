// SPDX-License-Identifier: Apache-2.0
#include "io/peft.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "base/error.h"
#include "base/pattern.h"
#include "io/file_json.h"
#include "io/safetensors.h"

namespace polyad {
namespace {

constexpr std::string_view key_prefix = "base_model.model.";
constexpr int64_t max_rank = 1 << 16, max_tasks = 1 << 24, max_skills = 1 << 16;
constexpr size_t max_pattern = 1024;
/// Task names in the safetensors metadata, which other readers pass over: a JSON list.
constexpr const char* names_key = "polyad.tasks";

/// Options that change what the tensors mean and that nothing above this layer knows.
void refuse_unsupported(const Json& json, const std::string& source) {
    for (const char* key :
         {"modules_to_save", "layer_replication", "target_parameters", "trainable_token_indices",
          "use_qalora", "use_bdlora", "alora_invocation_tokens", "arrow_config", "fan_in_fan_out",
          "lora_bias", "corda_config", "kasa_config", "velora_config", "monteclora_config"}) {
        const auto at = json.find(key);
        if (at == json.end() || at->is_null() || *at == false || (at->is_array() && at->empty())) continue;
        fail(Code::unsupported, source, ".", key, ": is not supported");
    }
    const auto bias = json.find("bias");
    if (bias != json.end() && !bias->is_null() && *bias != "none")
        fail(Code::unsupported, source, ".bias: '", bias->dump().substr(0, 40),
             "' is not supported, allowed: none");
}

void read_targets(ConfigReader& in, PeftAdapter& out) {
    if (!in.has("target_modules")) in.refuse("target_modules", "is missing");
    out.target_modules = in.strings("target_modules", {});
    out.target_regex = out.config["target_modules"].is_string();
    if (out.target_modules.empty()) in.refuse("target_modules", "names no module");
    for (const std::string& name : out.target_modules)
        if (name.empty() || name.size() > max_pattern)
            in.refuse("target_modules", text("a name needs 1 to ", max_pattern, " characters"));
}

PeftAdapter read_config(const Json& json, const std::string& source) {
    ConfigReader in(json, source);
    PeftAdapter out;
    out.config = json;
    const std::string type = in.string("peft_type", "");
    if (type != "LORA" && type != "POLY")
        fail(Code::unsupported, source, ".peft_type: '", type.substr(0, 80),
             "' is not known, allowed: LORA, POLY");
    refuse_unsupported(json, source);
    out.rank = in.integer("r", 8, 1, max_rank);
    out.base_model = in.string("base_model_name_or_path", "");
    read_targets(in, out);
    if (type == "POLY") {
        out.kind = PeftKind::poly;
        in.choice("poly_type", "poly", {"poly"});
        out.tasks = in.integer("n_tasks", 1, 1, max_tasks);
        out.skills = in.integer("n_skills", 4, 1, max_skills);
        out.splits = in.integer("n_splits", 1, 1, max_skills);
        return out;
    }
    const bool dora = in.boolean("use_dora", false), rslora = in.boolean("use_rslora", false);
    out.kind = dora ? PeftKind::dora : rslora ? PeftKind::rslora : PeftKind::lora;
    out.alpha = in.number("lora_alpha", 8.0, -1e9, 1e9);
    out.dropout = in.number("lora_dropout", 0.0, 0.0, 1.0);
    return out;
}

/// The value of rank_pattern or alpha_pattern for a module: the first key that matches the end of the path at
/// a dot, as in PEFT, which reads every key as a regular expression.
const Json* pattern_value(const Json& config, const char* key, const std::string& path,
                          const std::string& source) {
    const auto patterns = config.find(key);
    if (patterns == config.end() || patterns->is_null()) return nullptr;
    if (!patterns->is_object()) fail(Code::bad_format, source, ".", key, ": needs an object");
    for (const auto& [name, value] : patterns->items()) {
        if (name.empty() || name.size() > max_pattern)
            fail(Code::bad_format, source, ".", key, ": a name needs 1 to ", max_pattern, " characters");
        // A plain name needs no pattern: large adapters have one key per module.
        if (name.find_first_of("^$*+?()[]{}|\\") == std::string::npos) {
            if (path == name || (path.size() > name.size() && path.ends_with(name) &&
                                 path[path.size() - name.size() - 1] == '.'))
                return &value;
        } else if (reading_file([&] { return Pattern("(.*\\.)?(" + name + ")$").matches(path); })) {
            return &value;
        }
    }
    return nullptr;
}

void set_scale(const PeftAdapter& adapter, PeftModule& module, const std::string& source) {
    module.rank = adapter.rank;
    double alpha = adapter.alpha;
    if (const Json* rank = pattern_value(adapter.config, "rank_pattern", module.path, source)) {
        const bool whole =
            rank->is_number_integer();  // the comparisons below are Json's, exact for any integer
        if (!whole || *rank < 1 || *rank > max_rank)
            fail(Code::bad_format, source, ".rank_pattern: ", rank->dump().substr(0, 40), ", allowed: 1 to ",
                 max_rank);
        module.rank = rank->get<int64_t>();
    }
    if (const Json* value = pattern_value(adapter.config, "alpha_pattern", module.path, source)) {
        if (!value->is_number() || !std::isfinite(value->get<double>()))
            fail(Code::bad_format, source, ".alpha_pattern: ", value->dump().substr(0, 40),
                 " is not a finite number");
        alpha = value->get<double>();
    }
    const auto rank = static_cast<double>(module.rank);
    const bool rooted = adapter.config.value("use_rslora", Json(false)) == true;
    module.scale = adapter.kind == PeftKind::poly ? 1.0 / rank : alpha / (rooted ? std::sqrt(rank) : rank);
}

void want_shape(const StoredTensor& tensor, const std::vector<int64_t>& wanted, const std::string& source) {
    if (tensor.shape != wanted)
        fail(Code::bad_format, source, ": tensor '", tensor.name, "' has shape ", shape_text(tensor.shape),
             ", the config wants ", shape_text(wanted));
}

int64_t dimension(const StoredTensor& tensor, size_t rank, size_t index, const std::string& source) {
    if (tensor.shape.size() != rank || tensor.shape[index] < 1)
        fail(Code::bad_format, source, ": tensor '", tensor.name, "' has shape ", shape_text(tensor.shape),
             ", ", rank, " positive dimensions are wanted");
    return tensor.shape[index];
}

void check_lora(const PeftAdapter& adapter, PeftModule& m, const std::string& source) {
    m.d_in = dimension(m.a, 2, 1, source);
    m.d_out = dimension(m.b, 2, 0, source);
    want_shape(m.a, {m.rank, m.d_in}, source);
    want_shape(m.b, {m.d_out, m.rank}, source);
    if ((adapter.kind == PeftKind::dora) != m.magnitude.has_value())
        fail(Code::bad_format, source, ": '", m.path, "': lora_magnitude_vector ",
             m.magnitude ? "is there without use_dora" : "is missing");
    if (m.magnitude) want_shape(*m.magnitude, {m.d_out}, source);
}

void check_poly(const PeftAdapter& adapter, PeftModule& m, const std::string& source) {
    if (!m.logits) fail(Code::bad_format, source, ": '", m.path, "': poly_router.module_logits is missing");
    const int64_t in = dimension(m.a, 4, 2, source), out = dimension(m.b, 4, 3, source);
    want_shape(m.a, {adapter.splits, adapter.skills, in, m.rank}, source);
    want_shape(m.b, {adapter.splits, adapter.skills, m.rank, out}, source);
    want_shape(*m.logits, {adapter.tasks, adapter.splits * adapter.skills}, source);
    m.d_in = in * adapter.splits;  // in and splits are dimensions of one tensor: no overflow
    m.d_out = out * adapter.splits;
}

enum class Part { a, b, magnitude, logits };

/// Splits a key into module path and part; false when the suffix belongs to no known kind.
bool split_key(const std::string& name, bool poly, std::string& path, Part& part) {
    static constexpr std::pair<std::string_view, Part> lora[] = {
        {".lora_A.weight", Part::a},
        {".lora_B.weight", Part::b},
        {".lora_magnitude_vector", Part::magnitude},
        {".lora_magnitude_vector.weight", Part::magnitude}};
    static constexpr std::pair<std::string_view, Part> many[] = {
        {".poly_lora_A", Part::a}, {".poly_lora_B", Part::b}, {".poly_router.module_logits", Part::logits}};
    if (!name.starts_with(key_prefix)) return false;
    const auto match = [&](const auto& table) {
        for (const auto& [suffix, value] : table)
            if (name.ends_with(suffix) && name.size() > key_prefix.size() + suffix.size()) {
                path = name.substr(key_prefix.size(), name.size() - key_prefix.size() - suffix.size());
                part = value;
                return true;
            }
        return false;
    };
    return poly ? match(many) : match(lora);
}

/// True when `name` (a module name or the end of a path; `pattern` when target_modules is one regular
/// expression) stands for `path`.
bool is_target(const std::string& name, const Pattern* pattern, const std::string& path) {
    if (pattern) return pattern->matches(path);
    return path == name ||
           (path.size() > name.size() && path.ends_with(name) && path[path.size() - name.size() - 1] == '.');
}

}  // namespace

const char* peft_kind_name(PeftKind kind) {
    static constexpr const char* names[] = {"lora", "rslora", "dora", "poly"};
    return names[static_cast<int>(kind)];
}

PeftAdapter parse_peft(const Json& config, const std::vector<StoredTensor>& tensors,
                       const std::string& source) {
    PeftAdapter out = reading_file([&] { return read_config(config, source); });
    const bool poly = out.kind == PeftKind::poly;
    std::map<std::string, std::map<Part, StoredTensor>> found;
    for (const StoredTensor& tensor : tensors) {
        std::string path;
        Part part{};
        if (!split_key(tensor.name, poly, path, part))
            fail(Code::bad_format, source, ": tensor '", tensor.name.substr(0, 200),
                 "' does not belong to a ", peft_kind_name(out.kind), " adapter");
        if (!is_weight_dtype(tensor.dtype))
            fail(Code::bad_format, source, ": tensor '", tensor.name.substr(0, 200), "' is ",
                 dtype_name(tensor.dtype), ", allowed: F32, F16, BF16");
        StoredTensor values = float_tensor(tensor.name, tensor.shape, to_float(tensor));
        if (!found[path].emplace(part, std::move(values)).second)
            fail(Code::bad_format, source, ": tensor '", tensor.name.substr(0, 200), "' is there twice");
    }
    if (found.empty()) fail(Code::bad_format, source, ": the adapter holds no tensors");
    for (auto& [path, parts] : found) {
        PeftModule module;
        module.path = path;
        for (Part part : {Part::a, Part::b})
            if (!parts.count(part))
                fail(Code::bad_format, source, ": '", path, "': ", poly ? "poly_" : "",
                     part == Part::a ? "lora_A" : "lora_B", " is missing");
        module.a = parts[Part::a];
        module.b = parts[Part::b];
        if (parts.count(Part::magnitude)) module.magnitude = parts[Part::magnitude];
        if (parts.count(Part::logits)) module.logits = parts[Part::logits];
        set_scale(out, module, source);
        poly ? check_poly(out, module, source) : check_lora(out, module, source);
        out.modules.push_back(std::move(module));
    }
    return out;
}

PeftAdapter open_peft(const std::filesystem::path& folder) {
    const Bytes config = Bytes::map_file(folder / "adapter_config.json");
    const Json json = parse_file_json(config.text(), config.name());
    const Safetensors file = open_safetensors(folder / "adapter_model.safetensors");
    PeftAdapter out = parse_peft(json, file.tensors, config.name());
    if (const auto names = file.metadata.find(names_key); names != file.metadata.end() && out.tasks > 0) {
        const Json list = reading_file([&] { return parse_json(names->second, file.source); });
        if (!list.is_array() || list.size() != static_cast<size_t>(out.tasks))
            fail(Code::bad_format, file.source, ": ", names_key, " does not list ", out.tasks, " names");
        for (const Json& name : list) {
            if (!name.is_string()) fail(Code::bad_format, file.source, ": ", names_key, " holds no name");
            out.task_names.push_back(name.get<std::string>());
        }
    }
    return out;
}

void check_against_base(const PeftAdapter& adapter, const std::vector<BaseModule>& base) {
    std::map<std::string, const BaseModule*> by_path;
    for (const BaseModule& module : base) by_path[module.path] = &module;
    for (const PeftModule& module : adapter.modules) {
        const auto at = by_path.find(module.path);
        if (at == by_path.end())
            fail(Code::bad_format, "the adapter has '", module.path, "', which the base lacks");
        if (at->second->d_in != module.d_in || at->second->d_out != module.d_out)
            fail(Code::bad_format, "the adapter's '", module.path, "' is ", module.d_in, " -> ", module.d_out,
                 ", the base's is ", at->second->d_in, " -> ", at->second->d_out);
    }
    if (adapter.target_modules == std::vector<std::string>{"all-linear"}) return;
    for (const std::string& name : adapter.target_modules) {
        std::optional<Pattern> pattern;
        if (adapter.target_regex) reading_file([&] { pattern.emplace(name); });
        const auto matches = [&](const BaseModule& m) {
            return is_target(name, pattern ? &*pattern : nullptr, m.path);
        };
        if (reading_file([&] { return std::none_of(base.begin(), base.end(), matches); }))
            fail(Code::bad_format, "target_modules: '", name.substr(0, 80),
                 "' matches no module of the base");
    }
}

void write_peft(const std::filesystem::path& folder, const PeftAdapter& adapter) {
    const bool poly = adapter.kind == PeftKind::poly;
    Json config = adapter.config.is_object() ? adapter.config : Json::object();
    config["peft_type"] = poly ? "POLY" : "LORA";
    config["r"] = adapter.rank;
    if (!adapter.base_model.empty()) config["base_model_name_or_path"] = adapter.base_model;
    if (adapter.target_regex)
        config["target_modules"] = adapter.target_modules.at(0);
    else
        config["target_modules"] = adapter.target_modules;
    config.emplace("inference_mode", true);
    if (poly) {
        config["poly_type"] = "poly";
        config["n_tasks"] = adapter.tasks;
        config["n_skills"] = adapter.skills;
        config["n_splits"] = adapter.splits;
    } else {
        config["lora_alpha"] = adapter.alpha;
        config["lora_dropout"] = adapter.dropout;
        config["use_dora"] = adapter.kind == PeftKind::dora;
        // rsLoRA is a scale and may stand beside DoRA: a config that was read keeps its own word.
        if (adapter.kind != PeftKind::dora) config["use_rslora"] = adapter.kind == PeftKind::rslora;
        config.emplace("bias", "none");
    }
    std::vector<StoredTensor> tensors;
    const auto add = [&](const PeftModule& module, const StoredTensor& tensor, const char* suffix) {
        tensors.push_back(tensor);
        tensors.back().name = std::string(key_prefix) + module.path + suffix;
    };
    for (const PeftModule& module : adapter.modules) {
        add(module, module.a, poly ? ".poly_lora_A" : ".lora_A.weight");
        add(module, module.b, poly ? ".poly_lora_B" : ".lora_B.weight");
        if (module.magnitude) add(module, *module.magnitude, ".lora_magnitude_vector");
        if (module.logits) add(module, *module.logits, ".poly_router.module_logits");
    }
    parse_peft(config, tensors, folder.string());  // never writes what it would not read
    std::filesystem::create_directories(folder);
    std::map<std::string, std::string> metadata = {{"format", "pt"}};
    if (!adapter.task_names.empty()) metadata[names_key] = Json(adapter.task_names).dump();
    write_file_atomically(folder / "adapter_model.safetensors", encode_safetensors(tensors, metadata));
    write_file_atomically(folder / "adapter_config.json", config.dump(2) + "\n");
}

}  // namespace polyad
