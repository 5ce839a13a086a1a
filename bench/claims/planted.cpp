// SPDX-License-Identifier: Apache-2.0
// Does training find the skills that are there? A random backbone gets planted skills; every task is answered
// by it with a known subset of them; fresh skillsets learn the answers. The learned table of tasks and skills
// has to be the planted one (up to the names of the skills), and the tree over the learned routes has to fall
// into the planted families.
//
//     planted [--method NAME] [--steps N] [--starts N] [--seed N] [--json FILE] [--check]
//
// Written on the public interface only. Of several starts the one with the best validation loss counts:
// nothing of the planted table is looked at before the choice.
#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <functional>
#include <map>
#include <numeric>
#include <polyad/polyad.hpp>
#include <sstream>

#include "random_model.h"

namespace planted {
namespace {

constexpr int skills = 4, tasks_per_family = 2, rows_per_task = 300, validation_rows = 24, test_rows = 40;
constexpr int words_per_row = 5;

/// Skills of each family: every single one and every pair.
const std::vector<std::vector<int>>& families() {
    static const std::vector<std::vector<int>> list = {{0},    {1},    {2},    {3},    {0, 1},
                                                       {0, 2}, {0, 3}, {1, 2}, {1, 3}, {2, 3}};
    return list;
}

int tasks() {
    return static_cast<int>(families().size()) * tasks_per_family;
}

std::string task_name(int task) {
    return "family" + std::to_string(task / tasks_per_family + 1) + "_" +
           std::string(1, static_cast<char>('a' + task % tasks_per_family));
}

/// Parameters of a skillset by name, in the flat buffer of the public interface.
class Parameters {
  public:
    Parameters(const polyad::Context& context, const polyad::Skillset& skillset,
               const std::filesystem::path& scratch)
        : skillset_(skillset) {
        skillset.save(scratch.string());
        polyad_text* text;
        polyad::check(polyad_bundle_inspect(context.get(), scratch.string().c_str(), &text));
        size_t offset = 0;
        const Json info = Json::parse(polyad::take(text));
        for (const Json& tensor : info.at("tensors")) {
            size_t count = 1;
            for (const Json& d : tensor.at("shape")) count *= d.get<size_t>();
            place_[tensor.at("name")] = {offset, count};
            offset += count;
        }
        values_.resize(offset);
        polyad::check(polyad_skillset_get_parameters(skillset.get(), values_.data(), values_.size()));
    }
    /// Every parameter whose name ends so.
    void fill(const std::string& ending, const std::function<float(size_t)>& value) {
        for (const auto& [name, place] : place_)
            if (name.size() >= ending.size() &&
                name.compare(name.size() - ending.size(), ending.size(), ending) == 0)
                for (size_t i = 0; i < place.second; ++i) values_[place.first + i] = value(i);
    }
    std::vector<float> get(const std::string& name) const {
        const auto found = place_.find(name);
        if (found == place_.end()) return {};
        return {values_.begin() + static_cast<std::ptrdiff_t>(found->second.first),
                values_.begin() + static_cast<std::ptrdiff_t>(found->second.first + found->second.second)};
    }
    void store() {
        polyad::check(polyad_skillset_set_parameters(skillset_.get(), values_.data(), values_.size()));
    }

  private:
    const polyad::Skillset& skillset_;
    std::map<std::string, std::pair<size_t, size_t>> place_;
    std::vector<float> values_;
};

/// A kind of planted world and the method that has to find it.
struct World {
    const char* name;
    const char* teacher;  ///< configuration whose values are planted
    const char* student;
    double least;  ///< matched accuracy that --check asks for
    double router_rate = 1e-1;
};

const World worlds[] = {
    {"poly", R"({"method": "poly", "n_skills": 4, "rank": 2})",
     R"({"method": "poly", "n_skills": 4, "rank": 2})", 0.85},
    {"mhr", R"({"method": "mhr", "n_skills": 4, "n_splits": 2, "rank": 2})",
     R"({"method": "mhr", "n_skills": 4, "n_splits": 2, "rank": 2})", 0.75},
    {"cpoly", R"({"method": "cpoly", "common_skills": 4, "rank": 2, "specific_routing": "one_hot"})",
     R"({"method": "cpoly", "common_skills": 4, "rank": 2, "specific_routing": "one_hot"})", 0.7},
    {"moelora_task", R"({"method": "poly", "n_skills": 4, "rank": 2, "combine": "products"})",
     R"({"method": "moelora_task", "n_experts": 4, "rank": 8, "alpha": 8})", 0.85, 1e-2},
};

Json configuration(const char* text, uint64_t seed) {
    Json config = Json::parse(text);
    config["target_modules"] = {"down_proj"};
    config["router_granularity"] = "coarsegrained";
    config["seed"] = seed;
    config["prompt"] = {{"style", "{input}"}, {"max_tokens", 32}, {"max_answer_tokens", 4}};
    return config;
}

std::string rows_text(const std::vector<std::vector<std::pair<std::string, std::string>>>& rows) {
    std::ostringstream out;
    for (size_t t = 0; t < rows.size(); ++t)
        for (size_t i = 0; i < rows[t].size(); ++i) {
            const char* split = i < rows_per_task                     ? "train"
                                : i < rows_per_task + validation_rows ? "validation"
                                                                      : "test";
            out << Json{{"task", task_name(static_cast<int>(t))},
                        {"input", rows[t][i].first},
                        {"output", rows[t][i].second},
                        {"split", split}}
                       .dump()
                << '\n';
        }
    return out.str();
}

/// Every task's rows, answered by the planted skills.
polyad::Dataset answered_rows(const polyad::Context& context, const polyad::Backbone& model,
                              const ModelShape& shape, const World& world, uint64_t seed,
                              const std::filesystem::path& scratch) {
    std::mt19937_64 random(seed);
    std::normal_distribution<float> normal;
    std::vector<std::vector<std::pair<std::string, std::string>>> rows(static_cast<size_t>(tasks()));
    std::uniform_int_distribution<int> word(0, shape.input_words - 1);
    for (auto& of_task : rows)
        for (int i = 0; i < rows_per_task + validation_rows + test_rows; ++i) {
            std::string input;
            for (int w = 0; w < words_per_row; ++w) input += (w ? " " : "") + shape.input_word(word(random));
            of_task.emplace_back(input, shape.label_word(0));
        }
    const auto unanswered = polyad::Dataset::from_jsonl(context, rows_text(rows));
    const polyad::Skillset teacher(model, unanswered, configuration(world.teacher, seed).dump());
    Parameters values(context, teacher, scratch);
    const float a = 1.0f / std::sqrt(static_cast<float>(shape.inner));
    values.fill("lora_a", [&](size_t) { return 2.0f * a * normal(random); });
    values.fill("lora_b", [&](size_t) { return 2.5f * normal(random); });
    values.fill("lora_a_specific", [&](size_t) { return 2.0f * a * normal(random); });
    values.fill("lora_b_specific", [&](size_t) { return 1.25f * normal(random); });
    const size_t columns = values.get("router.logits").size() / static_cast<size_t>(tasks());
    values.fill("router.logits", [&](size_t i) {
        const auto& used = families()[i / columns / tasks_per_family];
        return std::count(used.begin(), used.end(), static_cast<int>(i % columns % skills)) ? 20.0f : -20.0f;
    });
    values.store();

    std::vector<float> logits(static_cast<size_t>(shape.vocab()));
    for (size_t t = 0; t < rows.size(); ++t)
        for (auto& [input, output] : rows[t]) {
            const std::vector<int32_t> ids = model.tokenize(input);
            polyad::check(polyad_backbone_logits(model.get(), teacher.get(),
                                                 task_name(static_cast<int>(t)).c_str(), ids.data(),
                                                 ids.size(), logits.data(), logits.size()));
            const auto first = logits.begin() + shape.label_id(0);
            output = shape.label_word(static_cast<int>(std::max_element(first, logits.end()) - first));
        }
    return polyad::Dataset::from_jsonl(context, rows_text(rows));
}

/// [splits][tasks][skills] weights in use, of the common skills.
std::vector<std::vector<std::vector<double>>> learned_tables(const Parameters& values, const Json& routing) {
    const auto count = static_cast<size_t>(tasks());
    const std::vector<float> logits = values.get("router.logits");
    std::vector<std::vector<std::vector<double>>> out;
    if (logits.empty()) {
        out.emplace_back();
        for (const Json& task : routing.at("tasks"))
            out[0].push_back(task.at("weights").get<std::vector<double>>());
        return out;
    }
    const size_t splits = logits.size() / count / skills;
    for (size_t h = 0; h < splits; ++h) {
        out.emplace_back();
        for (size_t t = 0; t < count; ++t) {
            std::vector<double> row(skills);
            for (size_t j = 0; j < skills; ++j)
                row[j] = 1.0 / (1.0 + std::exp(-static_cast<double>(logits[(t * splits + h) * skills + j])));
            const double total = std::accumulate(row.begin(), row.end(), 1e-12);
            for (double& w : row) w /= total;
            out.back().push_back(std::move(row));
        }
    }
    return out;
}

/// Share of cells (task, skill) on which learned and planted agree under the best renaming of the skills. A
/// skill counts as used when its weight is at least half of the task's largest.
double matched(const std::vector<std::vector<double>>& table) {
    std::vector<int> name(skills);
    std::iota(name.begin(), name.end(), 0);
    double best = 0.0;
    do {
        int right = 0;
        for (size_t t = 0; t < table.size(); ++t) {
            const auto& used = families()[t / tasks_per_family];
            const double most = *std::max_element(table[t].begin(), table[t].end());
            for (size_t j = 0; j < skills; ++j)
                right += (table[t][j] >= 0.5 * most) == (std::count(used.begin(), used.end(), name[j]) > 0);
        }
        best = std::max(best, static_cast<double>(right) / static_cast<double>(table.size() * skills));
    } while (std::next_permutation(name.begin(), name.end()));
    return best;
}

/// Share of tasks in the right family when the tree over the routes is cut into as many parts, parts named at
/// best.
double clustered(const Json& routing) {
    const int n = tasks(), wanted = static_cast<int>(families().size());
    std::vector<int> part(static_cast<size_t>(n));
    std::iota(part.begin(), part.end(), 0);
    std::vector<std::vector<int>> members;
    for (int t = 0; t < n; ++t) members.push_back({t});
    for (int i = 0; i < n - wanted; ++i) {
        const Json& merge = routing.at("linkage").at(static_cast<size_t>(i));
        std::vector<int> both = members[merge.at("left").get<size_t>()];
        const std::vector<int>& right = members[merge.at("right").get<size_t>()];
        both.insert(both.end(), right.begin(), right.end());
        for (const int t : both) part[static_cast<size_t>(t)] = n + i;
        members.push_back(std::move(both));
    }
    std::vector<int> names(part);
    std::sort(names.begin(), names.end());
    names.erase(std::unique(names.begin(), names.end()), names.end());
    // Best assignment of parts to families: by subsets of parts already given away.
    std::vector<int> best(size_t{1} << wanted, 0);
    for (int family = 0; family < wanted; ++family) {
        std::vector<int> next(best.size(), -1);
        for (size_t used = 0; used < best.size(); ++used) {
            if (best[used] < 0 || std::popcount(used) != family) continue;
            for (int p = 0; p < wanted; ++p) {
                if (used >> p & 1) continue;
                int right = best[used];
                for (int t = family * tasks_per_family; t < (family + 1) * tasks_per_family; ++t)
                    right += part[static_cast<size_t>(t)] == names[static_cast<size_t>(p)];
                int& reached = next[used | size_t{1} << p];
                reached = std::max(reached, right);
            }
        }
        best = std::move(next);
    }
    return static_cast<double>(best.back()) / n;
}

struct Options {
    std::string method, json;
    int steps = 800, starts = 4;
    uint64_t seed = 1;
    bool check = false;
};

Json learn(const polyad::Context& context, const polyad::Backbone& model, const ModelShape& shape,
           const World& world, const Options& options, const std::filesystem::path& scratch) {
    const auto began = std::chrono::steady_clock::now();
    const polyad::Dataset data = answered_rows(context, model, shape, world, options.seed, scratch);
    Json best, starts = Json::array();
    for (int start = 0; start < options.starts; ++start) {
        const uint64_t seed = options.seed * 100 + static_cast<uint64_t>(start);
        polyad::Skillset student(model, data, configuration(world.student, seed).dump());
        polyad::Trainer trainer(student, data,
                                Json{{"max_steps", options.steps},
                                     {"batch_size", 60},
                                     {"sampling", "uniform"},
                                     {"learning_rate", 2e-2},
                                     {"router_learning_rate", world.router_rate},
                                     {"task_vector_learning_rate", world.router_rate},
                                     {"weight_decay", 0.0},
                                     {"schedule", "cosine"},
                                     {"validation_examples", validation_rows * tasks()},
                                     {"validation_every", options.steps},
                                     {"seed", seed}}
                                    .dump());
        polyad_progress progress;
        do progress = trainer.step();
        while (!progress.done);
        const Json routing = Json::parse(student.routing(&data));
        const Parameters values(context, student, scratch);
        double sum = 0.0;
        const auto tables = learned_tables(values, routing);
        for (const auto& table : tables) sum += matched(table);
        const double accuracy = sum / static_cast<double>(tables.size());
        starts.push_back({{"validation_loss", progress.validation_loss}, {"matched_accuracy", accuracy}});
        if (!best.is_null() && best.at("validation_loss").get<double>() <= progress.validation_loss) continue;
        polyad::Evaluator evaluator(model, &student, data,
                                    R"({"split": "test", "max_tokens": 2, "batch_size": 64})");
        while (!evaluator.step().done) {
        }
        best = {{"world", world.name},
                {"seed", seed},
                {"validation_loss", progress.validation_loss},
                {"matched_accuracy", accuracy},
                {"families_found", clustered(routing)},
                {"answers_right", Json::parse(evaluator.result()).at("overall").at("exact_match")},
                {"table", tables}};
    }
    best["least"] = world.least;
    best["starts"] = std::move(starts);
    best["seconds"] = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
    return best;
}

/// What the best renaming makes of tables that know nothing but how many skills a task uses.
double by_chance(uint64_t seed) {
    std::mt19937_64 random(seed);
    double sum = 0.0;
    constexpr int draws = 300;
    for (int d = 0; d < draws; ++d) {
        std::vector<std::vector<double>> table;
        for (int t = 0; t < tasks(); ++t) {
            std::vector<double> row(skills, 0.0);
            std::fill_n(row.begin(), families()[static_cast<size_t>(t / tasks_per_family)].size(), 1.0);
            std::shuffle(row.begin(), row.end(), random);
            table.push_back(std::move(row));
        }
        sum += matched(table);
    }
    return sum / draws;
}

int run(const Options& options) {
    const std::filesystem::path folder =
        std::filesystem::temp_directory_path() / ("polyad-planted-" + std::to_string(std::random_device{}()));
    const struct Cleaner {
        const std::filesystem::path& path;
        ~Cleaner() {
            std::error_code ignored;
            std::filesystem::remove_all(path, ignored);
        }
    } cleaner{folder};
    const ModelShape shape;
    write_model(folder / "model", shape, options.seed);
    const polyad::Context context;
    const polyad::Backbone model(context, (folder / "model").string(), R"({"precision": "fp32"})");
    const double chance = by_chance(options.seed);
    std::printf("%d tasks in %zu families, %d planted skills; best of %d starts by validation loss\n",
                tasks(), families().size(), skills, options.starts);
    std::printf("%-14s  %14s  %14s  %14s  %7s\n", "method", "table matched", "families found",
                "answers right", "seconds");
    Json results = Json::array();
    bool good = true, known = options.method.empty();
    for (const World& world : worlds) {
        if (!options.method.empty() && options.method != world.name) continue;
        known = true;
        Json result = learn(context, model, shape, world, options, folder / "scratch.polyad");
        const double accuracy = result.at("matched_accuracy"), found = result.at("families_found");
        std::printf("%-14s  %13.1f%%  %13.1f%%  %13.1f%%  %7.1f\n", world.name, 100 * accuracy, 100 * found,
                    result.at("answers_right").get<double>(), result.at("seconds").get<double>());
        std::fflush(stdout);
        good = good && accuracy >= world.least;
        results.push_back(std::move(result));
    }
    if (!known) {
        std::fprintf(stderr, "there is no planted world for '%s'\n", options.method.c_str());
        return 2;
    }
    std::printf("%-14s  %13.1f%%\n", "by chance", 100 * chance);
    if (!options.json.empty()) {
        std::ofstream file(options.json);
        file << Json{{"by_chance", chance}, {"results", results}}.dump(1) << '\n';
        if (!file) {
            std::fprintf(stderr, "cannot write %s\n", options.json.c_str());
            return 3;
        }
    }
    if (options.check && !good) {
        std::fprintf(stderr, "a planted table was not found\n");
        return 1;
    }
    return 0;
}

}  // namespace
}  // namespace planted

int main(int argc, char** argv) {
    planted::Options options;
    try {
        for (int i = 1; i < argc; ++i) {
            const std::string key = argv[i];
            if (key == "--check") {
                options.check = true;
                continue;
            }
            if (i + 1 == argc) throw std::runtime_error(key + " needs a value");
            const std::string value = argv[++i];
            if (key == "--method")
                options.method = value;
            else if (key == "--steps")
                options.steps = std::stoi(value);
            else if (key == "--starts")
                options.starts = std::stoi(value);
            else if (key == "--seed")
                options.seed = std::stoull(value);
            else if (key == "--json")
                options.json = value;
            else
                throw std::runtime_error("unknown option " + key);
        }
        return planted::run(options);
    } catch (const std::exception& e) {
        std::fprintf(stderr, "planted: %s\n", e.what());
        return 2;
    }
}
