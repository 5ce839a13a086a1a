// SPDX-License-Identifier: Apache-2.0
// metrics.json through the product's scoring, schedule, diagnostics and counting code.
#include <algorithm>
#include <cmath>
#include <fstream>
#include <functional>
#include <sstream>

#include "base/error.h"
#include "evaluation/gain.h"
#include "evaluation/text_metrics.h"
#include "golden/case.h"
#include "golden/options.h"
#include "routing/count.h"
#include "routing/diagnostics.h"
#include "training/schedule.h"

namespace polyad::golden {
namespace {

using Strings = std::vector<std::string>;

Json score_json(const TextScore& score) {
    return {{"exact_match", score.exact_match}, {"rouge_l", score.rouge_l}};
}

Json corpus(const Json& in) {
    const CorpusScore score =
        corpus_score(in.at("predictions").get<Strings>(), in.at("references").get<std::vector<Strings>>(),
                     in.contains("groups") ? in.at("groups").get<Strings>() : Strings{});
    Json out = {{"overall", score_json(score.overall)}};
    for (const auto& [name, group] : score.groups) out["groups"][name] = score_json(group);
    return out;
}

Json diagnostics(const Json& in) {
    std::vector<double> logits;
    int64_t columns = 0;
    for (const Json& row : in.at("logits")) {
        columns = static_cast<int64_t>(row.size());
        for (const Json& cell : row) logits.push_back(cell.get<double>());
    }
    const TableDiagnostics d = table_diagnostics(logits, columns);
    return {{"discreteness", d.discreteness}, {"sparsity", d.sparsity}, {"usage", d.usage}};
}

Json each_step(const Json& in, const std::function<double(int64_t)>& value) {
    Json out = Json::array();
    for (const Json& step : in.at("steps")) out.push_back(value(step.get<int64_t>()));
    return out;
}

int64_t count_parameters(const Json& in) {
    const auto method = in.at("method").get<std::string>();
    const Json& config = in.at("config");
    if (!in.contains("modules")) return recipe_parameter_count(method, config);
    const Json ours = product_config(method, config);
    int64_t total = 0;
    for (const Json& module : in.at("modules")) {
        Site site;
        site.path = "layer";
        site.d_in = module.at(0).get<int64_t>();
        site.d_out = module.at(1).get<int64_t>();
        total += module.at(2).get<int64_t>() * parameter_count(ours, {site}, config.value("n_tasks", 1));
    }
    return total;
}

Json compute(const std::string& kind, const Json& in) {
    const auto integer = [&](const char* key) { return in.at(key).get<int64_t>(); };
    const auto number = [&](const char* key) { return in.at(key).get<double>(); };
    if (kind == "normalize_answer") return normalize_answer(in.at("text").get<std::string>());
    if (kind == "rouge_tokens") return rouge_tokens(in.at("text").get<std::string>());
    if (kind == "porter_stem") {
        Json out = Json::array();
        for (const Json& word : in.at("words")) out.push_back(porter_stem(word.get<std::string>()));
        return out;
    }
    if (kind == "text_score")
        return score_json(
            text_score(in.at("prediction").get<std::string>(), in.at("references").get<Strings>()));
    if (kind == "corpus_score") return corpus(in);
    if (kind == "arg") {
        using Scores = std::map<std::string, double>;
        return average_relative_gain(in.at("base").get<Scores>(), in.at("new").get<Scores>(),
                                     in.value("skip_zero_base", false));
    }
    if (kind == "poly_diagnostics") return diagnostics(in);
    if (kind == "tau_schedule")
        return each_step(
            in, [&](int64_t s) { return tau_at(number("tau0"), number("rate"), number("tau_min"), s); });
    if (kind == "uniform_interpolation")
        return each_step(in, [&](int64_t s) {
            return uniform_interpolation(integer("total_steps"), integer("interp_steps"), s);
        });
    if (kind == "linear_warmup_decay")
        return each_step(in, [&](int64_t s) {
            return linear_warmup_decay(s, integer("warmup_steps"), integer("total_steps"));
        });
    if (kind == "parameter_count") return count_parameters(in);
    fail(Code::unsupported, "kind '", kind, "' is not known");
}

/// Path of the first difference, empty when there is none.
std::string first_difference(const Json& got, const Json& want, double rtol, double atol,
                             const std::string& where) {
    const auto differs = [&] { return text(where, ": ", got.dump(), " instead of ", want.dump()); };
    if (want.is_number_float() || (want.is_number() && got.is_number_float())) {
        if (!got.is_number()) return differs();
        const double w = want.get<double>();
        return std::abs(got.get<double>() - w) <= atol + rtol * std::abs(w) ? "" : differs();
    }
    if (want.is_object() || want.is_array()) {
        if (got.type() != want.type() || got.size() != want.size()) return differs();
        for (const auto& item : want.items()) {
            const Json* part = nullptr;
            if (want.is_array())
                part = &got[std::stoul(item.key())];
            else if (got.contains(item.key()))
                part = &got[item.key()];
            if (!part) return differs();
            std::string problem = first_difference(*part, item.value(), rtol, atol, where + "." + item.key());
            if (!problem.empty()) return problem;
        }
        return {};
    }
    return got == want ? "" : differs();
}

std::string run_case(const Json& c, double rtol, double atol) {
    const std::string expected = c.value("expected_error", "");
    try {
        const Json got = compute(c.at("kind").get<std::string>(), c.at("input"));
        if (!expected.empty()) return "was computed, expected the error " + expected;
        return first_difference(got, c.at("expected"), rtol, atol, "result");
    } catch (const Error& e) {
        const std::string said = std::string(e.what()) + " " + e.detail();
        if (!expected.empty() && said.find(expected) != std::string::npos) return {};
        return (expected.empty() ? "error " : "refused, but not for " + expected + ": ") + said;
    }
}

/// "mor1e" selects "mor1e_rank1" too.
bool selected(const std::string& method, const Strings& methods) {
    if (methods.empty()) return true;
    return std::any_of(methods.begin(), methods.end(),
                       [&](const std::string& m) { return method == m || method.rfind(m + "_", 0) == 0; });
}

}  // namespace

Count run_metrics(const std::filesystem::path& file, const Strings& methods) {
    std::ifstream in(file, std::ios::binary);
    std::stringstream content;
    content << in.rdbuf();
    const Json json = parse_json(content.str(), file.filename().string());
    if (json.at("format_version") != 1)
        fail(Code::unsupported, "format_version ", json.at("format_version").dump());
    const double rtol = json.at("tolerance").at("rtol").get<double>();
    const double atol = json.at("tolerance").at("atol").get<double>();
    Count count;
    for (const Json& c : json.at("cases")) {
        const auto name = c.value("name", std::string("unnamed"));
        try {
            if (c.at("kind") == "parameter_count" &&
                !selected(c.at("input").at("method").get<std::string>(), methods))
                continue;
            report("metrics/" + name, run_case(c, rtol, atol), count);
        } catch (const std::exception& e) {
            report("metrics/" + name, e.what(), count);
        }
    }
    return count;
}

}  // namespace polyad::golden
