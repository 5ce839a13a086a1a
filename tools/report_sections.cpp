// SPDX-License-Identifier: Apache-2.0
#include "report_sections.h"

#include <algorithm>
#include <cmath>
#include <sstream>

#include "report_charts.h"

namespace cli {
namespace {

constexpr size_t chart_points = 400;

double real(const Json& object, const char* key) {
    const auto found = object.is_object() ? object.find(key) : object.end();
    return object.is_object() && found != object.end() && found->is_number() ? found->get<double>()
                                                                             : std::nan("");
}

std::string word(const Json& object, const char* key) {
    const auto found = object.is_object() ? object.find(key) : object.end();
    return object.is_object() && found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

/// An empty object where there is none.
const Json& part(const Json& object, const char* key) {
    static const Json nothing = Json::object();
    if (!object.is_object()) return nothing;
    const auto found = object.find(key);
    return found == object.end() || found->is_null() ? nothing : *found;
}

std::vector<double> reals(const Json& list) {
    std::vector<double> out;
    if (list.is_array())
        for (const Json& item : list) out.push_back(item.is_number() ? item.get<double>() : std::nan(""));
    return out;
}

/// 12,345 or 1.23M.
std::string amount(double value) {
    if (!std::isfinite(value)) return "\xE2\x80\x93";
    if (std::abs(value) >= 1e6) return fixed(value / 1e6, 2) + "M";
    std::string out = fixed(value, 0);
    for (auto at = static_cast<int>(out.size()) - 3; at > (out[0] == '-' ? 1 : 0); at -= 3)
        out.insert(static_cast<size_t>(at), ",");
    return out;
}

void tile(std::ostringstream& out, const std::string& value, const std::string& what) {
    out << "<div class=\"tile\"><b>" << escape(value) << "</b><span>" << escape(what) << "</span></div>";
}

std::string figure(const std::string& caption, const std::string& drawing) {
    if (drawing.empty()) return "";
    return "<figure><figcaption>" + escape(caption) + "</figcaption>" + drawing + "</figure>";
}

std::string percent_or_dash(double value) {
    return fixed(value, 1);
}

/// Scores of a task or of all tasks; the side that was not scored gives NaN.
struct ScorePair {
    double base = std::nan(""), skills = std::nan("");
};

ScorePair pair_of(const Json& base, const Json& skills, const char* metric) {
    return {real(base, metric), real(skills, metric)};
}

std::string score_cells(const ScorePair& exact, const ScorePair& rouge, bool has_base, bool has_skills) {
    std::ostringstream out;
    const auto cell = [&](double value) {
        out << "<td data-value=\"" << number(std::isfinite(value) ? value : -1, 8) << "\">"
            << percent_or_dash(value) << "</td>";
    };
    for (const ScorePair& score : {exact, rouge}) {
        if (has_base) cell(score.base);
        if (has_skills) cell(score.skills);
    }
    if (has_base && has_skills) {
        const double gain = rouge.skills - rouge.base;
        out << "<td data-value=\"" << number(std::isfinite(gain) ? gain : -1000, 8) << "\" class=\""
            << (gain < 0   ? "down"
                : gain > 0 ? "up"
                           : "muted")
            << "\">" << (gain > 0 ? "+" : "") << percent_or_dash(gain) << "</td>";
        const double from = std::clamp(rouge.base, 0.0, 100.0), to = std::clamp(rouge.skills, 0.0, 100.0);
        out << "<td data-value=\"" << number(std::isfinite(gain) ? gain : -1000, 8)
            << "\"><span class=\"track\">";
        if (std::isfinite(from) && std::isfinite(to))
            out << "<i style=\"left:" << fixed(std::min(from, to), 1)
                << "%;width:" << fixed(std::abs(to - from), 1)
                << "%\"></i><b class=\"was\" style=\"left:" << fixed(from, 1)
                << "%\"></b><b style=\"left:" << fixed(to, 1) << "%\"></b>";
        out << "</span></td>";
    }
    return out.str();
}

/// Rows of the tables in the tree's order, where there is a tree.
std::vector<int> row_order(const Json& routing, size_t tasks) {
    std::vector<int> order;
    const Json& known = part(routing, "order");
    if (known.is_array() && known.size() == tasks)
        for (const Json& item : known)
            if (item.is_number_integer() && item >= 0 && item < static_cast<int64_t>(tasks))
                order.push_back(item.get<int>());
    if (order.size() == tasks) return order;
    order.clear();
    for (size_t i = 0; i < tasks; ++i) order.push_back(static_cast<int>(i));
    return order;
}

std::vector<TreeNode> tree_of(const Json& routing) {
    std::vector<TreeNode> out;
    const Json& linkage = part(routing, "linkage");
    if (!linkage.is_array()) return out;
    for (const Json& merge : linkage)
        out.push_back({static_cast<int>(real(merge, "left")), static_cast<int>(real(merge, "right")),
                       real(merge, "height")});
    return out;
}

std::vector<std::string> task_names(const Json& routing) {
    std::vector<std::string> out;
    const Json& tasks = part(routing, "tasks");
    if (tasks.is_array())
        for (const Json& task : tasks) out.push_back(word(task, "name"));
    return out;
}

std::string heat_map(const RunData& run, const std::vector<std::string>& skills) {
    const Json& groups = part(run.routing, "groups");
    const std::vector<std::string> tasks = task_names(run.routing);
    if (!groups.is_array() || groups.empty() || tasks.empty() || skills.empty()) return "";
    const std::vector<int> order = row_order(run.routing, tasks.size());
    double most = 0;
    for (const Json& group : groups)
        for (const Json& row : part(group, "weights"))
            for (const double v : reals(row))
                if (std::isfinite(v)) most = std::max(most, std::abs(v));
    if (most <= 0) most = 1;
    const size_t count = skills.size(), columns = count * groups.size();
    const int cell = columns <= 18 ? 30 : columns <= 36 ? 22 : columns <= 56 ? 12 : 9;

    std::ostringstream out;
    out << "<div class=\"scroll\"><table class=\"map\" style=\"--cell:" << cell
        << "px\"><thead><tr><th></th>";
    for (const Json& group : groups)
        out << "<th class=\"group\" colspan=\"" << count << "\">" << escape(word(group, "name"))
            << "</th><th class=\"gap\"></th>";
    out << "<th></th></tr><tr><th></th>";
    const size_t every = cell >= 22 ? 1 : cell >= 12 ? 2 : 4;
    for (size_t g = 0; g < groups.size(); ++g) {
        for (size_t j = 0; j < count; ++j) {
            out << "<th title=\"" << escape(skills[j]) << "\">";
            if (j % every == 0) out << j + 1;
            out << "</th>";
        }
        out << "<th class=\"gap\"></th>";
    }
    out << "<th></th></tr></thead><tbody>";
    for (size_t i = 0; i < order.size(); ++i) {
        const auto t = static_cast<size_t>(order[i]);
        out << "<tr><th scope=\"row\" title=\"" << escape(tasks[t]) << "\">" << escape(tasks[t]) << "</th>";
        for (const Json& group : groups) {
            const Json& table = part(group, "weights");
            const std::vector<double> row =
                table.is_array() && t < table.size() ? reals(table[t]) : std::vector<double>();
            for (size_t j = 0; j < count; ++j) {
                const double v = j < row.size() && std::isfinite(row[j]) ? row[j] : 0;
                out << "<td title=\"" << escape(tasks[t]) << ", " << escape(skills[j]) << ": " << number(v, 3)
                    << "\"><i" << (v < 0 ? " class=\"minus\"" : "")
                    << " style=\"--v:" << fixed(std::abs(v) / most, 3) << "\"></i></td>";
            }
            out << "<td class=\"gap\"></td>";
        }
        if (i == 0)
            out << "<td class=\"tree\" rowspan=\"" << order.size() << "\">"
                << dendrogram(tree_of(run.routing), order, {}) << "</td>";
        out << "</tr>";
    }
    out << "</tbody></table></div><p class=\"note\">0 <span class=\"scale\"></span> " << number(most, 3)
        << ". Rows stand in the order of the tree: tasks on a short branch are routed alike.";
    bool named = false;
    for (size_t j = 0; j < count; ++j) named = named || skills[j] != "skill " + std::to_string(j + 1);
    out << "</p>";
    if (named) {
        out << "<details><summary>What the columns are</summary><p class=\"note\">";
        for (size_t j = 0; j < count; ++j) out << (j ? ", " : "") << j + 1 << " = " << escape(skills[j]);
        out << "</p></details>";
    }
    const std::string tree = dendrogram(tree_of(run.routing), order, tasks);
    if (!tree.empty()) out << "<div class=\"narrow\">" << figure("Tasks by their mixtures", tree) << "</div>";
    return out.str();
}

std::string card(const std::string& title, const std::string& note, const Json& examples) {
    std::ostringstream out;
    out << "<div class=\"card\"><h3>" << escape(title) << "</h3>";
    if (!note.empty()) out << "<p class=\"note\">" << escape(note) << "</p>";
    out << "<ul>";
    for (const Json& example : examples) {
        const std::string input = example.is_string() ? example.get<std::string>() : word(example, "input");
        const std::string text = input.empty() ? word(example, "prompt") : input;
        out << "<li><span class=\"clip\" title=\"" << escape(text) << "\">" << escape(text) << "</span>";
        const std::string task = word(example, "task");
        const double share = real(example, "share"), score = real(example, "score");
        const std::string strength = std::isfinite(share)   ? fixed(100 * share, 0) + " %"
                                     : std::isfinite(score) ? fixed(score, 2)
                                                            : "";
        if (!task.empty() || !strength.empty())
            out << "<em>" << escape(task) << (task.empty() || strength.empty() ? "" : ", ") << strength
                << "</em>";
        out << "</li>";
    }
    out << "</ul></div>";
    return out.str();
}

/// Names of the sources a method mixes (PEMT), empty for other methods.
std::vector<std::string> source_names(const RunData& run) {
    const Json& sources = part(part(run.config, "method"), "sources");
    std::vector<std::string> out;
    if (!sources.is_array() || static_cast<double>(sources.size()) != real(run.routing, "skills")) return out;
    for (const Json& source : sources)
        out.push_back(source.is_string() ? source.get<std::string>() : word(source, "name"));
    return out;
}

}  // namespace

std::vector<std::string> skill_names(const RunData& run) {
    const double known = real(run.routing, "skills");
    const size_t count = std::isfinite(known) && known > 0 ? static_cast<size_t>(known) : 0;
    std::vector<std::string> out;
    const Json& method = part(run.config, "method");
    out = source_names(run);
    if (!out.empty()) return out;
    const double common = real(method, "common_skills"), own = real(method, "private_skills");
    const std::vector<std::string> tasks = task_names(run.routing);
    if (common >= 0 && own >= 0 &&
        static_cast<size_t>(common) + static_cast<size_t>(own) * tasks.size() == count) {
        for (int i = 0; i < common; ++i) out.push_back("common " + std::to_string(i + 1));
        for (const std::string& task : tasks)
            for (int k = 0; k < own; ++k) out.push_back("private to " + task);
        return out;
    }
    out.clear();
    for (size_t j = 0; j < count; ++j) out.push_back("skill " + std::to_string(j + 1));
    return out;
}

std::string header_section(const RunData& run, const std::string& title) {
    std::ostringstream out;
    const Json& backbone = part(run.config, "backbone");
    const Json& progress = part(run.training, "progress");
    const Json& tasks = part(run.config, "tasks");
    double rows = 0;
    if (tasks.is_array())
        for (const Json& task : tasks) rows += std::isfinite(real(task, "train")) ? real(task, "train") : 0;
    out << "<header><p class=\"over\">Polyad run</p><h1>" << escape(title) << "</h1><p class=\"muted\">"
        << escape(word(backbone, "name")) << ", " << escape(word(backbone, "family")) << ", "
        << amount(real(backbone, "parameters")) << " frozen parameters, "
        << escape(word(backbone, "precision")) << "</p><div class=\"tiles\">";
    tile(out, tasks.is_array() ? std::to_string(tasks.size()) : "0", "tasks");
    tile(out, amount(rows), "training rows");
    tile(out, amount(real(progress, "step")), "steps");
    tile(out, amount(real(progress, "tokens")), "tokens");
    const Json& parameters = part(run.config, "parameters");
    tile(out, amount(real(parameters, "trainable")), "trainable parameters");
    if (std::isfinite(real(run.routing, "active_parameters")))
        tile(out, amount(real(run.routing, "active_parameters")), "active in one mixture");
    if (std::isfinite(real(progress, "best_validation_loss")))
        tile(out, number(real(progress, "best_validation_loss")), "best validation loss");
    const ScorePair rouge = pair_of(part(part(run.scores, "base"), "overall"),
                                    part(part(run.scores, "skills"), "overall"), "rouge_l");
    if (std::isfinite(rouge.skills))
        tile(out,
             (std::isfinite(rouge.base) ? fixed(rouge.base, 1) + " \xE2\x86\x92 " : "") +
                 fixed(rouge.skills, 1),
             "ROUGE-L, all tasks");
    out << "</div></header>";
    return out.str();
}

std::string training_section(const RunData& run) {
    const Json& history = part(run.training, "history");
    const Json& validation = part(run.training, "validation");
    const std::vector<double> steps = reals(part(history, "step")), loss = reals(part(history, "loss"));
    if (steps.empty() || loss.size() != steps.size()) return "";
    Series raw{"a faint", steps, loss},
        smooth{"a", steps, smoothed(loss, static_cast<double>(steps.size()) / 25)};
    Series valid{"b", reals(part(validation, "step")), reals(part(validation, "loss")), true};
    thin(raw.x, raw.y, chart_points);
    thin(smooth.x, smooth.y, chart_points);
    Series rate{"a", steps, reals(part(history, "learning_rate"))};
    thin(rate.x, rate.y, chart_points);
    std::ostringstream out;
    out << "<section><h2>Training</h2><div class=\"pair\"><div><ul class=\"key\"><li "
           "class=\"ka\"><i></i>training (thin: single steps)</li>";
    if (!valid.x.empty()) out << "<li class=\"kb\"><i></i>validation</li>";
    out << "</ul>"
        << figure("Loss per answer token", line_chart({raw, smooth, valid}, {"loss by step", "step"}))
        << "</div><div><ul class=\"key\"><li class=\"ka\"><i></i>of the skills</li></ul>"
        << figure("Learning rate", line_chart({rate}, {"learning rate by step", "step", true}))
        << "</div></div>";
    if (run.training.contains("progress")) {
        const Json& progress = part(run.training, "progress");
        out << "<p class=\"note\">Last step: loss " << number(real(progress, "loss"));
        if (std::isfinite(real(progress, "best_validation_loss")))
            out << ", best validation " << number(real(progress, "best_validation_loss"));
        if (part(progress, "stopped_early") == true) out << "; stopped early, best weights kept";
        if (real(progress, "truncated_rows") > 0)
            out << "; " << amount(real(progress, "truncated_rows")) << " prompts were cut";
        out << ".</p>";
    }
    out << "</section>";
    return out.str();
}

std::string scores_section(const RunData& run) {
    const Json &base = part(run.scores, "base"), &skills = part(run.scores, "skills");
    const bool has_base = base.contains("tasks"), has_skills = skills.contains("tasks");
    if (!has_base && !has_skills) return "";
    const Json& leading = has_skills ? skills : base;
    std::ostringstream out;
    out << "<section><h2>Scores</h2><p class=\"note\">Split " << escape(word(leading, "split")) << ", "
        << (word(leading, "mode") == "labels" ? "labels ranked by likelihood" : "greedy answers")
        << ". Exact match and ROUGE-L in percent";
    if (has_base && has_skills) out << "; the ring is the backbone alone, the dot has the skills";
    out << ". A heading sorts.</p><div class=\"scroll\"><table class=\"scores\"><thead><tr>";
    const auto head = [&](const char* name) {
        out << "<th><button type=\"button\">" << name << "</button></th>";
    };
    head("task");
    head("examples");
    for (const char* metric : {"exact", "ROUGE-L"}) {
        if (has_base) head((std::string(metric) + ", base").c_str());
        if (has_skills) head((std::string(metric) + ", skills").c_str());
    }
    if (has_base && has_skills) {
        head("gain");
        head("0 to 100");
    }
    out << "</tr></thead><tbody>";
    for (const auto& [name, task] : part(leading, "tasks").items()) {
        const Json &b = part(part(base, "tasks"), name.c_str()),
                   &s = part(part(skills, "tasks"), name.c_str());
        out << "<tr><td data-value=\"" << escape(name) << "\" title=\"" << escape(name) << "\">"
            << escape(name) << "</td><td data-value=\"" << number(real(task, "count"), 9) << "\">"
            << amount(real(task, "count")) << "</td>"
            << score_cells(pair_of(b, s, "exact_match"), pair_of(b, s, "rouge_l"), has_base, has_skills)
            << "</tr>";
    }
    const Json &b = part(base, "overall"), &s = part(skills, "overall");
    out << "</tbody><tfoot><tr><td>all</td><td>" << amount(real(part(leading, "overall"), "count")) << "</td>"
        << score_cells(pair_of(b, s, "exact_match"), pair_of(b, s, "rouge_l"), has_base, has_skills)
        << "</tr></tfoot></table></div></section>";
    return out.str();
}

std::string routing_section(const RunData& run) {
    const Json& overall = part(run.routing, "overall");
    const std::vector<std::string> names = skill_names(run);
    if (names.empty() || overall.empty()) return "";
    std::ostringstream out;
    out << "<section><h2>Which skills the tasks use</h2>";
    const Json &collapsed = part(run.routing, "collapsed"), &dead = part(overall, "dead");
    if (collapsed.is_array() && !collapsed.empty())
        out << "<div class=\"warning\" role=\"alert\"><p>Routing has collapsed: " << dead.size() << " of "
            << names.size() << " skills are used by no task, usage is " << number(real(overall, "usage"), 2)
            << " of 1.</p></div>";
    out << "<p class=\"note\">"
        << (word(run.routing, "source") == "rows"
                ? "Mean weights over the prompts and answers of " + amount(real(run.routing, "rows")) +
                      " rows (" + escape(word(run.routing, "split")) + " split)."
                : "Weights of the task table as they are used in serving.")
        << "</p><div class=\"tiles\">";
    tile(out, std::to_string(names.size()), "skills");
    tile(out, std::to_string(dead.is_array() ? dead.size() : 0), "dead: no task uses them");
    tile(out, number(real(overall, "usage"), 3), "usage: 1 = all alike");
    tile(out, number(real(overall, "entropy"), 3), "entropy of a mixture: 0 = one skill");
    tile(out, number(real(overall, "discreteness"), 3), "undecided gates: 0 = all decided");
    tile(out, number(real(overall, "sparsity"), 3), "gates open");
    out << "</div>" << heat_map(run, names);

    Series usage{"a", {}, {}}, entropy{"b", {}, {}};
    const Json& layers = part(run.routing, "layers");
    if (layers.is_array())
        for (const Json& layer : layers) {
            usage.x.push_back(real(layer, "layer"));
            usage.y.push_back(real(layer, "usage"));
            entropy.x.push_back(real(layer, "layer"));
            entropy.y.push_back(real(layer, "entropy"));
        }
    const std::vector<double> load = reals(part(overall, "load"));
    std::vector<bool> marked(load.size(), false);
    if (dead.is_array())
        for (const Json& j : dead)
            if (j.is_number_unsigned() && j.get<size_t>() < marked.size()) marked[j.get<size_t>()] = true;
    out << "<div class=\"pair\" style=\"margin-top:18px\">";
    if (load.size() == names.size())
        out << figure("Share of the load, per skill",
                      bar_chart(load, names, marked, "share of the load per skill"));
    if (usage.x.size() > 1)
        out << "<div><ul class=\"key\"><li class=\"ka\"><i></i>usage</li><li class=\"kb\"><i></i>entropy of "
               "a "
               "mixture</li></ul>"
            << figure("By layer",
                      line_chart({usage, entropy}, {"usage and entropy by layer", "layer", true, 1}))
            << "</div>";
    out << "</div></section>";
    return out.str();
}

std::string sources_section(const RunData& run) {
    const std::vector<std::string> names = source_names(run);
    if (names.empty()) return "";
    std::ostringstream out;
    out << "<section><h2>What each target takes from the sources</h2><p class=\"note\">Gate per source, "
           "averaged over "
           "layers; the largest first. With "
        << names.size() << " sources an even mix gives each "
        << fixed(1.0 / static_cast<double>(names.size()), 3) << ".</p><div class=\"cards wide\">";
    for (const Json& task : part(run.routing, "tasks")) {
        const std::vector<double> weights = reals(part(task, "weights"));
        std::vector<size_t> order;
        for (size_t j = 0; j < std::min(weights.size(), names.size()); ++j) order.push_back(j);
        std::stable_sort(order.begin(), order.end(),
                         [&](size_t a, size_t b) { return weights[a] > weights[b]; });
        const double most = order.empty() ? 1 : std::max(1e-9, weights[order[0]]);
        out << "<div class=\"card\"><h3>" << escape(word(task, "name")) << "</h3>";
        for (size_t i = 0; i < std::min<size_t>(order.size(), 8); ++i)
            out << "<div class=\"meter\"><span title=\"" << escape(names[order[i]]) << "\">"
                << escape(names[order[i]]) << "</span><u><i style=\"width:"
                << fixed(100 * std::clamp(weights[order[i]] / most, 0.0, 1.0), 1) << "%\"></i></u><b>"
                << fixed(weights[order[i]], 3) << "</b></div>";
        out << "</div>";
    }
    out << "</div></section>";
    return out.str();
}

std::string examples_section(const RunData& run) {
    std::ostringstream out;
    if (const Json& clusters = part(run.routing, "clusters"); clusters.is_array() && !clusters.empty()) {
        out << "<section><h2>Clusters of instances</h2><p class=\"note\">What the prompts are about, as the "
               "sentence "
               "encoder sees it: each cluster speaks for the expert of its number. Prompts nearest to the "
               "centre, "
               "with the cosine between them.</p><div class=\"cards\">";
        std::string empty;
        for (size_t k = 0; k < clusters.size(); ++k) {
            const double rows = real(clusters[k], "rows");
            if (rows == 0) {
                empty += (empty.empty() ? "" : ", ") + std::to_string(k + 1);
                continue;
            }
            std::vector<std::pair<double, std::string>> tasks;
            for (const auto& [name, count] : part(clusters[k], "tasks").items())
                tasks.emplace_back(count.is_number() ? count.get<double>() : 0, name);
            std::stable_sort(tasks.begin(), tasks.end(),
                             [](const auto& a, const auto& b) { return a.first > b.first; });
            std::string note = std::isfinite(rows) ? amount(rows) + (rows == 1 ? " row" : " rows") : "";
            for (size_t t = 0; t < std::min<size_t>(tasks.size(), 2); ++t)
                note += (t ? ", " : ": ") + amount(tasks[t].first) + " of " + tasks[t].second;
            if (tasks.size() > 2) note += ", " + std::to_string(tasks.size() - 2) + " more tasks";
            out << card("cluster " + std::to_string(k + 1), note, part(clusters[k], "examples"));
        }
        out << "</div>";
        if (!empty.empty())
            out << "<p class=\"note\" style=\"margin-top:12px\">No row of this split is nearest to: " << empty
                << ".</p>";
        out << "</section>";
    }
    const Json& skills = part(run.routing, "skill_examples");
    const std::vector<std::string> names = skill_names(run);
    if (!skills.is_array() || skills.empty() || names.size() < 2) return out.str();
    const std::vector<double> load = reals(part(part(run.routing, "overall"), "load"));
    std::vector<size_t> order;
    for (size_t i = 0; i < skills.size(); ++i)
        if (!part(skills[i], "examples").empty()) order.push_back(i);
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
        return (a < load.size() ? load[a] : 0) > (b < load.size() ? load[b] : 0);
    });
    constexpr size_t shown = 12;
    out << "<section><h2>Rows that use each skill most</h2><p class=\"note\">With the skill's share of the "
           "row's "
           "mixture; busiest skills first.</p><div class=\"cards\">";
    for (size_t i = 0; i < order.size(); ++i) {
        if (i == shown)
            out << "</div><details><summary>" << order.size() - shown
                << " more skills</summary><div class=\"cards\">";
        const size_t j = order[i];
        out << card(j < names.size() ? names[j] : "skill " + std::to_string(j + 1),
                    j < load.size() ? fixed(100 * load[j], 1) + " % of the load" : "",
                    part(skills[j], "examples"));
    }
    out << (order.size() > shown ? "</div></details></section>" : "</div></section>");
    return out.str();
}

std::string configuration_section(const RunData& run) {
    std::ostringstream out;
    out << "<section><h2>Configuration</h2>";
    const auto block = [&](const char* title, const Json& value) {
        if (!value.empty())
            out << "<details><summary>" << title << "</summary><pre>" << escape(value.dump(2))
                << "</pre></details>";
    };
    block("Method", part(run.config, "method"));
    block("Training", part(run.training, "config"));
    block("Backbone", part(run.config, "backbone"));
    out << "</section>";
    return out.str();
}

}  // namespace cli
