// SPDX-License-Identifier: Apache-2.0
#include "table.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <sstream>
#include <stdexcept>

namespace claims {
namespace {

constexpr const char* begin_mark = "<!-- measured: written by `make claims` -->";
constexpr const char* end_mark = "<!-- measured: end -->";
constexpr const char* none = "–";

std::string fixed(double value, int decimals) {
    if (!std::isfinite(value)) return none;
    char out[48];
    std::snprintf(out, sizeof out, "%.*f", decimals, value);
    return out;
}

/// Mean of what the cells have at `path`, with the spread when there are several.
struct Mean {
    double sum = 0, low = INFINITY, high = -INFINITY;
    int count = 0;
    void add(double value) {
        if (!std::isfinite(value)) return;
        sum += value;
        low = std::min(low, value);
        high = std::max(high, value);
        ++count;
    }
    double mean() const { return count ? sum / count : std::nan(""); }
    std::string text(int decimals) const {
        std::string out = fixed(mean(), decimals);
        if (count > 1) out += " ±" + fixed((high - low) / 2, decimals);
        return out;
    }
};

double number_at(const Json& cell, const std::string& pointer) {
    const Json::json_pointer at(pointer);
    return cell.contains(at) && cell.at(at).is_number() ? cell.at(at).get<double>() : std::nan("");
}

Mean mean_of(const std::vector<const Json*>& cells, const std::string& pointer) {
    Mean out;
    for (const Json* cell : cells) out.add(number_at(*cell, pointer));
    return out;
}

std::map<std::string, std::vector<const Json*>> by_name(const std::vector<Json>& cells) {
    std::map<std::string, std::vector<const Json*>> out;
    for (const Json& cell : cells)
        if (!cell.contains("error")) out[cell.at("name")].push_back(&cell);
    return out;
}

/// ARG against the reference of the same seed.
Mean gains(const std::vector<const Json*>& cells, const std::vector<const Json*>& references, int& left_out) {
    Mean out;
    for (const Json* cell : cells)
        for (const Json* reference : references)
            if (cell->at("seed") == reference->at("seed"))
                out.add(100 * relative_gain(reference->at("few_shot"), cell->at("few_shot"), &left_out));
    return out;
}

/// The sources each few-shot target leans on most.
std::string source_table(const std::vector<Json>& cells) {
    std::ostringstream out;
    for (const Json& cell : cells) {
        const Json::json_pointer at("/few_shot/sources");
        if (cell.contains("error") || !cell.contains(at)) continue;
        out << "\n### What the targets of " << cell.at("name").get<std::string>() << " lean on (seed "
            << cell.at("seed") << ")\n\n| target | sources with the largest gates |\n|---|---|\n";
        for (const auto& [target, weights] : cell.at(at).items()) {
            std::vector<std::pair<double, std::string>> order;
            for (const auto& [source, weight] : weights.items())
                order.emplace_back(-weight.get<double>(), source);
            std::sort(order.begin(), order.end());
            out << "| " << target << " |";
            for (size_t i = 0; i < std::min<size_t>(order.size(), 3); ++i)
                out << (i ? ", " : " ") << order[i].second << " " << fixed(-order[i].first, 3);
            out << " |\n";
        }
        out << "\nAn even mix would be " << fixed(1.0 / static_cast<double>(cell.at(at).front().size()), 3)
            << ".\n";
    }
    return out.str();
}

}  // namespace

std::string tables(const Results& results) {
    const auto cells = by_name(results.cells);
    const auto found = cells.find(reference);
    const std::vector<const Json*> references =
        found == cells.end() ? std::vector<const Json*>() : found->second;
    std::ostringstream out;
    if (!results.settings.is_null()) {
        const Json& s = results.settings;
        out << "Every line: " << s.at("steps") << " steps of " << s.at("batch_size")
            << " rows (the same rows in the same order), learning rate " << s.at("learning_rate").dump()
            << " (routing logits 10 times that), " << s.at("test_rows")
            << " test rows per task (0 = all), answers of at most " << s.at("max_answer")
            << " tokens; few-shot: " << s.at("shots") << " shots, " << s.at("few_shot_steps") << " steps of "
            << s.at("few_shot_batch")
            << " rows, every parameter moves. Scores are means over tasks, in percent.\n";
        std::set<std::string> machines;
        for (const auto& [name, list] : cells)
            for (const Json* cell : list) machines.insert(cell->value("machine", std::string("?")));
        out << "Model " << results.model << ", prompts with answers of at most " << s.at("prompt_tokens")
            << " tokens.";
        for (const std::string& machine : machines)
            out << (machine == *machines.begin() ? " Machine: " : "; ") << machine;
        out << ".\n";
        out << "\n";
    }
    int left_out = 0;
    for (const auto& [group, title] :
         {std::pair{"active", "Equal active parameters: rank 8 in use at every site"},
          std::pair{"trainable", "Equal trainable parameters: 54 ranks at every site, as C-Poly has"},
          std::pair{"own", "As published, with their own sizes"},
          std::pair{"scale", "Equal active parameters at another scale: alpha / rank = 8 (x8) or 1 (x1)"}}) {
        std::ostringstream rows;
        for (const Configuration& configuration : configurations) {
            if (std::string(configuration.group) != group) continue;
            const auto entry = cells.find(configuration.name);
            if (entry == cells.end()) continue;
            const std::vector<const Json*>& c = entry->second;
            int skipped = 0;
            rows << "| " << configuration.name << " | " << mean_of(c, "/train/overall/rouge_l").text(1)
                 << " | " << mean_of(c, "/train/overall/exact_match").text(1) << " | "
                 << mean_of(c, "/few_shot/overall/rouge_l").text(1) << " | "
                 << mean_of(c, "/few_shot/overall/exact_match").text(1) << " | "
                 << (configuration.name == std::string(reference) ? "0"
                                                                  : gains(c, references, skipped).text(1))
                 << " | " << mean_of(c, "/zero_shot/overall/rouge_l").text(1) << " | "
                 << fixed(mean_of(c, "/parameters/trainable").mean() / 1e6, 2) << " | "
                 << fixed(mean_of(c, "/parameters/active").mean() / 1e6, 2) << " | "
                 << fixed(mean_of(c, "/parameters/stored").mean() / 1e6, 2) << " | "
                 << mean_of(c, "/tokens_per_second").text(0) << " | " << c.size() << " |\n";
            left_out = std::max(left_out, skipped);
        }
        if (rows.str().empty()) continue;
        out << "### " << title
            << "\n\n| | ROUGE-L, train tasks | exact | ROUGE-L, few-shot | exact | ARG % | ROUGE-L, "
               "zero-shot | trainable M | active M | "
               "stored M | tokens/s | seeds |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n"
            << rows.str() << "\n";
    }
    if (results.base.is_object())
        out << "The backbone alone: ROUGE-L " << fixed(number_at(results.base, "/train/overall/rouge_l"), 1)
            << ", exact " << fixed(number_at(results.base, "/train/overall/exact_match"), 1)
            << " on the train tasks; " << fixed(number_at(results.base, "/zero_shot/overall/rouge_l"), 1)
            << " and " << fixed(number_at(results.base, "/zero_shot/overall/exact_match"), 1)
            << " on the transfer tasks.\n\n";
    if (!cells.empty()) {
        out << "ARG: average relative gain of few-shot ROUGE-L over " << reference
            << ", task by task. ± is half the range over seeds. Active: parameters one mixture uses, counted "
               "before training.\n";
        if (left_out > 0)
            out << "Tasks on which " << reference << " scores 0 have no relative gain; at most " << left_out
                << " were left out.\n";
    }
    out << source_table(results.cells);
    for (const std::string& line : results.missing) out << "- " << line << "\n";
    if (results.planted.is_object()) {
        out << "\n### Planted skills\n\n| | table matched | families found | answers right on unseen rows "
               "|\n|---|---|---|---|\n";
        for (const Json& r : results.planted.at("results"))
            out << "| " << r.at("world").get<std::string>() << " | "
                << fixed(100 * number_at(r, "/matched_accuracy"), 1) << " % | "
                << fixed(100 * number_at(r, "/families_found"), 1) << " % | "
                << fixed(number_at(r, "/answers_right"), 1) << " % |\n";
        out << "| by chance | " << fixed(100 * number_at(results.planted, "/by_chance"), 1) << " % | | |\n";
    }
    return out.str();
}

void write_between_markers(const std::filesystem::path& file, const std::string& text) {
    std::string all;
    if (std::ifstream in(file, std::ios::binary); in)
        all.assign(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
    if (all.empty()) all = std::string("# Claims\n\n") + begin_mark + "\n" + end_mark + "\n";
    const size_t begin = all.find(begin_mark), end = all.find(end_mark);
    if (begin == std::string::npos || end == std::string::npos || end < begin)
        throw std::runtime_error(file.string() + " has lost the lines between which the tables go");
    all = all.substr(0, begin) + begin_mark + "\n\n" + text + "\n" + all.substr(end);
    const std::filesystem::path part = file.string() + ".part";
    std::ofstream out(part, std::ios::binary);
    out << all;
    out.close();
    if (!out) throw std::runtime_error("cannot write " + part.string());
    std::filesystem::rename(part, file);
}

}  // namespace claims
