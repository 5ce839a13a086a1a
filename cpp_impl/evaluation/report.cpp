// SPDX-License-Identifier: Apache-2.0
#include "evaluation/report.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <vector>

namespace polyad {
namespace {

Json scores_of(const ScoreSum& sum) {
    const TextScore score = sum.percent();
    return {{"count", sum.count()}, {"exact_match", score.exact_match}, {"rouge_l", score.rouge_l}};
}

/// Characters of UTF-8 text: what a terminal gives a column each, wide scripts aside.
size_t width_of(const std::string& text) {
    return static_cast<size_t>(
        std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

}  // namespace

void ScoreReport::add(const std::string& task, const std::string& category, const TextScore& score) {
    overall_.add(score);
    if (!category.empty()) categories_[category].add(score);
    TaskScore& entry = tasks_[task];
    entry.category = category;
    entry.sum.add(score);
}

Json ScoreReport::to_json() const {
    Json tasks = Json::object(), categories = Json::object();
    for (const auto& [name, task] : tasks_) {
        tasks[name] = scores_of(task.sum);
        tasks[name]["category"] = task.category;
    }
    for (const auto& [name, sum] : categories_) categories[name] = scores_of(sum);
    return {
        {"overall", scores_of(overall_)}, {"categories", std::move(categories)}, {"tasks", std::move(tasks)}};
}

std::string ScoreReport::to_table() const {
    std::vector<std::array<std::string, 4>> rows;
    const auto add_row = [&](const std::string& name, const ScoreSum& sum) {
        const TextScore score = sum.percent();
        char exact[32], rouge[32];
        std::snprintf(exact, sizeof exact, "%.1f", score.exact_match);
        std::snprintf(rouge, sizeof rouge, "%.1f", score.rouge_l);
        rows.push_back({name, std::to_string(sum.count()), exact, rouge});
    };
    rows.push_back({"task", "examples", "exact match", "ROUGE-L"});
    for (const auto& [name, task] : tasks_) add_row(name, task.sum);
    if (categories_.size() > 1) {
        rows.push_back({"category", "", "", ""});
        for (const auto& [name, sum] : categories_) add_row(name, sum);
    }
    rows.push_back({});
    add_row("all", overall_);

    std::array<size_t, 4> width{};
    for (const auto& row : rows)
        for (size_t c = 0; c < row.size(); ++c) width[c] = std::max(width[c], width_of(row[c]));
    std::string out;
    for (const auto& row : rows) {
        if (row[1].empty()) out += '\n';
        if (row[0].empty()) continue;
        out += row[0] + std::string(width[0] - width_of(row[0]), ' ');
        for (size_t c = 1; c < row.size() && !row[1].empty(); ++c)
            out += "  " + std::string(width[c] - width_of(row[c]), ' ') + row[c];
        out += '\n';
    }
    return out;
}

}  // namespace polyad
