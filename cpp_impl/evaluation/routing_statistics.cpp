// SPDX-License-Identifier: Apache-2.0
#include "evaluation/routing_statistics.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "base/error.h"
#include "base/log.h"
#include "data/prompt.h"
#include "evaluation/feature_correlation.h"
#include "evaluation/linkage.h"
#include "evaluation/routing_sums.h"
#include "routing/clusters.h"
#include "routing/route_table.h"

namespace polyad {
namespace {

/// Tasks whose mixtures are made at once: C-Poly's full table is tasks x tasks per site.
constexpr size_t tasks_at_once = 64;
constexpr size_t longest_example = 400;  // bytes of an example's input that are kept

/// A task of the statistics: its place in the skillset's table (-1 = none) and in the dataset.
struct Subject {
    std::string name, category;
    int table_index = -1, dataset_index = -1;
};

struct ExampleShare {
    size_t subject = 0;
    const Example* example = nullptr;
    std::vector<double> share;
    std::vector<float> intuition;  ///< scores against the clusters of instructions; empty = none
};

std::vector<Subject> subjects_of(const Skillset& skillset, const Dataset* dataset, bool from_tables,
                                 const std::vector<std::string>& wanted) {
    std::vector<Subject> out;
    const auto keep = [&](const std::string& name) {
        return wanted.empty() || std::find(wanted.begin(), wanted.end(), name) != wanted.end();
    };
    const std::vector<TaskEntry>& known = skillset.tasks();
    if (from_tables) {
        for (size_t t = 0; t < known.size(); ++t)
            if (keep(known[t].name))
                out.push_back({known[t].name, known[t].category, static_cast<int>(t), -1});
    } else {
        for (size_t d = 0; d < dataset->tasks().size(); ++d) {
            const Task& task = dataset->tasks()[d];
            if (!keep(task.name)) continue;
            const auto entry = std::find_if(known.begin(), known.end(),
                                            [&](const TaskEntry& e) { return e.name == task.name; });
            if (entry == known.end() && skillset.method().needs_task()) skillset.task_index(task.name);
            out.push_back({task.name, task.category,
                           entry == known.end() ? -1 : static_cast<int>(entry - known.begin()),
                           static_cast<int>(d)});
        }
    }
    for (const std::string& name : wanted)
        if (std::none_of(out.begin(), out.end(), [&](const Subject& s) { return s.name == name; }))
            fail(Code::unknown_task, "routing.tasks: there is no task '", name, "'");
    return out;
}

/// True when the mixtures of every task are known without a forward.
bool reads_tables(const Method& method) {
    return method.needs_task() && !method.reads_prompt();
}

/// The trace of one row per task, without a forward: empty when the method fills it only in one.
bool add_tables(const Skillset& skillset, const std::vector<Subject>& subjects, RoutingSums& sums) {
    // Inside autograd methods mix lazily; outside they would fill the cache that serving uses.
    const at::AutoGradMode lazily(true);
    for (size_t begin = 0; begin < subjects.size(); begin += tasks_at_once) {
        const size_t end = std::min(subjects.size(), begin + tasks_at_once);
        RouteInput route;
        RouteTrace trace;
        RowMap rows;
        route.row_begin = {0};
        for (size_t i = begin; i < end; ++i) {
            route.row_begin.push_back(static_cast<int32_t>(i - begin + 1));
            route.prompt_length.push_back(1);
            route.task_ids.push_back(subjects[i].table_index);
            rows.subject.push_back(i);
        }
        rows.begins = {route.row_begin};
        route.trace = &trace;
        const std::unique_ptr<Adaptation> adaptation = skillset.method().adapt(route);
        if (trace.empty()) return false;
        sums.add(trace, rows);
    }
    return true;
}

class RowRun {
  public:
    RowRun(const Skillset& skillset, const Dataset& dataset, const RoutingOptions& options)
        : skillset_(skillset), dataset_(dataset), options_(options) {}

    void add(const std::vector<Subject>& subjects, RoutingSums& sums) {
        const at::NoGradGuard no_gradients;
        for (size_t s = 0; s < subjects.size(); ++s) {
            const Task& task = dataset_.tasks()[static_cast<size_t>(subjects[s].dataset_index)];
            const auto& all = task.examples(options_.split);
            const size_t count =
                options_.max_examples_per_task > 0
                    ? std::min(all.size(), static_cast<size_t>(options_.max_examples_per_task))
                    : all.size();
            for (size_t i = 0; i < count; ++i) {
                EncodedExample row;
                try {
                    row = skillset_.prompts().encode(task, all[i].input, all[i].outputs.front());
                } catch (const Error& e) {
                    if (e.code() != Code::context_overflow) throw;
                    ++skipped;
                    continue;
                }
                encoded_.push_back(std::move(row));
                tables_.push_back(subjects[s].table_index);
                intuition_.push_back(skillset_.intuition_of(task.instruction, all[i].input));
                examples.push_back({s, &all[i], {}, {}});
                if (encoded_.size() == static_cast<size_t>(options_.batch_size)) run(sums);
            }
        }
        if (!encoded_.empty()) run(sums);
        if (examples.empty())
            fail(Code::bad_data, "the ", split_name(options_.split),
                 " split holds no row to read routes from");
    }

    std::vector<ExampleShare> examples;
    int64_t tokens = 0, skipped = 0;

  private:
    void run(RoutingSums& sums) {
        std::vector<const EncodedExample*> chunk;
        for (const EncodedExample& row : encoded_) chunk.push_back(&row);
        const Batch batch = pack(chunk, skillset_.backbone()->info().decoder_start);
        RouteInput route;
        RouteTrace trace;
        route.row_begin = batch.row_begin;
        route.prompt_length = batch.prompt_length;
        route.source_begin = batch.source_begin;
        route.task_ids.assign(tables_.begin(), tables_.end());
        std::vector<const std::vector<float>*> intuition;
        for (const std::vector<float>& row : intuition_) intuition.push_back(&row);
        route.intuition = intuition_rows(intuition);
        route.trace = &trace;
        const std::unique_ptr<Adaptation> adaptation = skillset_.method().adapt(route);
        ForwardOptions forward;
        forward.adaptation = adaptation.get();
        skillset_.backbone()->hidden(batch, forward);
        tokens += batch.size() + static_cast<int64_t>(batch.source.size());

        RowMap rows;
        const size_t first = examples.size() - encoded_.size();
        RowBegin with_prefix = {0}, source_with_prefix = {0};
        for (size_t b = 0; b < encoded_.size(); ++b) {
            rows.subject.push_back(examples[first + b].subject);
            const int prefix = skillset_.method().prefix_tokens(tables_[b]);
            with_prefix.push_back(with_prefix.back() + batch.row_length(static_cast<int>(b)) + prefix);
            if (!batch.source_begin.empty())
                source_with_prefix.push_back(source_with_prefix.back() +
                                             batch.source_length(static_cast<int>(b)) + prefix);
        }
        rows.begins = {batch.row_begin, batch.source_begin, with_prefix, source_with_prefix};
        const std::vector<std::vector<double>> shares = sums.add(trace, rows);
        for (size_t b = 0; b < encoded_.size(); ++b) {
            examples[first + b].share = shares[b];
            examples[first + b].intuition = std::move(intuition_[b]);
        }
        encoded_.clear();
        tables_.clear();
        intuition_.clear();
    }

    const Skillset& skillset_;
    const Dataset& dataset_;
    const RoutingOptions& options_;
    std::vector<EncodedExample> encoded_;
    std::vector<int> tables_;
    std::vector<std::vector<float>> intuition_;
};

/// The `count` rows with the largest `value`.
template <class Value>
Json best_rows(const std::vector<ExampleShare>& rows, const std::vector<Subject>& subjects, int count,
               const Value& value) {
    std::vector<const ExampleShare*> order;
    for (const ExampleShare& row : rows) order.push_back(&row);
    std::stable_sort(order.begin(), order.end(),
                     [&](const ExampleShare* a, const ExampleShare* b) { return value(*a) > value(*b); });
    order.resize(std::min(order.size(), static_cast<size_t>(count)));
    Json out = Json::array();
    for (const ExampleShare* row : order) {
        std::string input = row->example->input.substr(0, longest_example);
        while (!input.empty() && input.size() < row->example->input.size() &&
               (static_cast<unsigned char>(row->example->input[input.size()]) & 0xC0) == 0x80)
            input.pop_back();  // whole characters only
        out.push_back({{"task", subjects[row->subject].name},
                       {"id", row->example->id},
                       {"input", std::move(input)},
                       {"share", value(*row)}});
    }
    return out;
}

Json examples_of(const std::vector<ExampleShare>& rows, const std::vector<Subject>& subjects, int64_t skills,
                 int count) {
    Json out = Json::array();
    for (int64_t j = 0; j < skills; ++j)
        out.push_back(
            {{"skill", j}, {"examples", best_rows(rows, subjects, count, [j](const ExampleShare& row) {
                                return row.share[static_cast<size_t>(j)];
                            })}});
    return out;
}

/// The clusters of an intuition: which rows are nearest to each centre, of which tasks.
Json clusters_of(const std::vector<ExampleShare>& rows, const std::vector<Subject>& subjects, int count) {
    Json out = Json::array();
    const size_t clusters = rows.empty() ? 0 : rows[0].intuition.size();
    for (size_t k = 0; k < clusters; ++k) {
        std::vector<ExampleShare> members;
        std::map<std::string, int64_t> tasks;
        for (const ExampleShare& row : rows) {
            const auto nearest = std::max_element(row.intuition.begin(), row.intuition.end());
            if (static_cast<size_t>(nearest - row.intuition.begin()) != k) continue;
            members.push_back(row);
            ++tasks[subjects[row.subject].name];
        }
        Json examples = best_rows(members, subjects, count, [k](const ExampleShare& row) {
            return static_cast<double>(row.intuition[k]);
        });
        for (Json& example : examples) {
            example["score"] = example.at("share");
            example.erase("share");
        }
        out.push_back({{"rows", members.size()}, {"tasks", tasks}, {"examples", std::move(examples)}});
    }
    return out;
}

void add_tree(Json& out, const RoutingSums& sums, int tasks) {
    if (tasks < 2 || tasks > largest_task_tree) return;
    const std::vector<double> distance = sums.distances();
    const std::vector<Merge> merges = average_linkage(distance, tasks);
    for (int a = 0; a < tasks; ++a)
        out["distance"].push_back(
            std::vector<double>(distance.begin() + a * tasks, distance.begin() + (a + 1) * tasks));
    for (const Merge& merge : merges)
        out["linkage"].push_back(
            {{"left", merge.left}, {"right", merge.right}, {"height", merge.height}, {"size", merge.size}});
    out["order"] = leaf_order(merges, tasks);
}

/// Correlation of every column of the route table with each feature.
Json correlations(const Skillset& skillset, const std::vector<Subject>& subjects, const Json& features) {
    const RouteTable table =
        route_table(skillset.method(), skillset.sites(), static_cast<int>(skillset.tasks().size()));
    const at::Tensor weights = table.weights.to(at::kDouble).contiguous();
    const auto columns = static_cast<size_t>(weights.size(1));
    std::vector<double> routes, values;
    for (const Subject& subject : subjects) {
        const double* row =
            weights.const_data_ptr<double>() + static_cast<size_t>(subject.table_index) * columns;
        routes.insert(routes.end(), row, row + columns);
        for (const auto& [name, of_task] : features.items())
            values.push_back(of_task.value(subject.name, 0.0));
    }
    const std::vector<double> found =
        feature_correlation(routes, values, static_cast<int64_t>(subjects.size()));
    Json out = Json::array();
    for (const auto& [name, of_task] : features.items()) {
        Json layers = Json::array();
        for (size_t l = 0; l < table.layers.size(); ++l) {
            Json row = Json::array();
            for (int64_t j = 0; j < table.skills; ++j) {
                const size_t column = l * static_cast<size_t>(table.skills) + static_cast<size_t>(j);
                const double value = found[column * features.size() + out.size()];
                row.push_back(std::isfinite(value) ? Json(value) : Json());
            }
            layers.push_back({{"layer", table.layers[l]}, {"correlation", std::move(row)}});
        }
        out.push_back({{"name", name}, {"layers", std::move(layers)}});
    }
    return out;
}

void check_features(ConfigReader& read, const Json& features) {
    for (const auto& [name, of_task] : features.items()) {
        if (!of_task.is_object()) read.refuse("features", text("'", name, "' needs {task: number}"));
        for (const auto& [task, value] : of_task.items())
            if (!value.is_number())
                read.refuse("features", text("'", name, "' of task '", task, "' is no number"));
    }
}

Json collapse_reasons(const Json& overall, int64_t skills, double below) {
    Json out = Json::array();
    if (skills < 2) return out;
    if (2 * static_cast<int64_t>(overall.at("dead").size()) >= skills) out.push_back("dead_skills");
    if (overall.at("usage").get<double>() < below) out.push_back("low_usage");
    return out;
}

/// Statistics read from tables; null when the method has none to read.
Json statistics(const Skillset& skillset, const Dataset* dataset, const RoutingOptions& options,
                bool tables_only) {
    const Method& method = skillset.method();
    bool from_tables = reads_tables(method);
    if (tables_only && !from_tables) return {};
    std::vector<Subject> subjects;
    RoutingSums sums(skillset);
    if (from_tables) {
        subjects = subjects_of(skillset, nullptr, true, options.tasks);
        sums.start(subjects.size());
        from_tables = add_tables(skillset, subjects, sums);
        if (tables_only && !from_tables) return {};
    }
    const Json config = skillset.config();
    Json out = {{"method", config.at("method")}, {"source", from_tables ? "tables" : "rows"}};
    if (!from_tables) {
        if (!dataset)
            fail(Code::invalid_argument, "method '", config.at("method").get<std::string>(),
                 "' routes by what it reads: give a dataset whose rows are to be run");
        subjects = subjects_of(skillset, dataset, false, options.tasks);
        sums.start(subjects.size());
        RowRun run(skillset, *dataset, options);
        run.add(subjects, sums);
        out["split"] = split_name(options.split);
        out["rows"] = run.examples.size();
        out["skipped_rows"] = run.skipped;
        out["tokens"] = run.tokens;
        if (sums.skills() > 0)
            out["skill_examples"] = examples_of(run.examples, subjects, sums.skills(), options.examples);
        if (Json clusters = clusters_of(run.examples, subjects, options.examples); !clusters.empty())
            out["clusters"] = std::move(clusters);
    }
    out["skills"] = sums.skills();
    out["sites"] = sums.sites();
    out["active_parameters"] = sums.active_parameters();
    out["overall"] = sums.summary(0, std::numeric_limits<int>::max(), options.dead_below);
    out["groups"] = sums.groups(options.groups, options.dead_below);
    out["layers"] = Json::array();
    for (const int layer : sums.layers()) {
        Json entry = sums.summary(layer, layer, options.dead_below);
        entry["layer"] = layer;
        out["layers"].push_back(std::move(entry));
    }
    out["tasks"] = Json::array();
    for (size_t s = 0; s < subjects.size(); ++s) {
        Json entry = sums.task(s);
        entry["name"] = subjects[s].name;
        entry["category"] = subjects[s].category;
        out["tasks"].push_back(std::move(entry));
    }
    add_tree(out, sums, static_cast<int>(subjects.size()));
    if (!options.features.empty()) {
        if (!from_tables)
            fail(Code::unsupported, "routing.features: method '", config.at("method").get<std::string>(),
                 "' does not route by task, so there is no table to compare with them");
        for (const auto& [name, of_task] : options.features.items())
            for (const auto& [task, value] : of_task.items()) skillset.task_index(task);
        out["features"] = correlations(skillset, subjects, options.features);
    }
    out["collapsed"] = collapse_reasons(out["overall"], sums.skills(), options.collapsed_below);
    out["thresholds"] = {{"dead_below", options.dead_below}, {"collapsed_below", options.collapsed_below}};
    return out;
}

}  // namespace

RoutingOptions RoutingOptions::from_json(const Json& object) {
    ConfigReader read(object, "routing");
    RoutingOptions out;
    const std::string split = read.choice("split", "test", {"train", "validation", "test"});
    out.split = split == "train" ? Split::train : split == "test" ? Split::test : Split::validation;
    out.max_examples_per_task = read.integer("max_examples_per_task", 16, 0, INT64_MAX);
    out.batch_size = static_cast<int>(read.integer("batch_size", 8, 1, 4096));
    out.groups = static_cast<int>(read.integer("groups", 3, 1, 1024));
    out.examples = static_cast<int>(read.integer("examples", 3, 0, 1000));
    out.dead_below = read.number("dead_below", out.dead_below, 0.0, 1.0);
    out.collapsed_below = read.number("collapsed_below", out.collapsed_below, 0.0, 1.0);
    out.tasks = read.strings("tasks", {});
    out.features = read.object("features");
    check_features(read, out.features);
    read.finish();
    return out;
}

Json routing_statistics(const Skillset& skillset, const Dataset* dataset, const RoutingOptions& options) {
    Json out = statistics(skillset, dataset, options, false);
    if (const std::string warning = collapse_warning(out); !warning.empty()) log(LogLevel::warning, warning);
    return out;
}

std::string collapse_warning(const Json& statistics) {
    if (!statistics.is_object() || statistics.at("collapsed").empty()) return "";
    const Json& overall = statistics.at("overall");
    return text("routing has collapsed: ", overall.at("dead").size(), " of ",
                statistics.at("skills").get<int64_t>(), " skills are used by no task, usage is ",
                std::round(overall.at("usage").get<double>() * 100.0) / 100.0,
                " of 1; a lower router_learning_rate, fewer skills or a balance loss may help");
}

void warn_if_routing_collapsed(const Skillset& skillset) {
    const std::string warning = collapse_warning(statistics(skillset, nullptr, {}, true));
    if (!warning.empty()) log(LogLevel::warning, warning);
}

}  // namespace polyad
