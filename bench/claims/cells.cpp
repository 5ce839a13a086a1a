// SPDX-License-Identifier: Apache-2.0
#include "cells.h"

#include <chrono>
#include <cmath>
#include <fstream>
#include <stdexcept>

namespace claims {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
    return std::chrono::duration<double>(Clock::now() - begin).count();
}

std::vector<std::string> names_of(const std::string& tasks_path, const std::string& role) {
    std::ifstream file(std::filesystem::path(tasks_path) / "tasks.json");
    if (!file)
        throw std::runtime_error(tasks_path + " has no tasks.json that says which tasks are for training");
    std::vector<std::string> out;
    const Json index = Json::parse(file);
    for (const Json& task : index.at("tasks"))
        if (task.at("role") == role) out.push_back(task.at("task"));
    if (out.empty())
        throw std::runtime_error(tasks_path + "/tasks.json names no task of role '" + role + "'");
    return out;
}

std::string replaced(std::string text, const std::string& what, const std::string& with) {
    for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + with.size()))
        text.replace(at, what.size(), with);
    return text;
}

/// A path as it stands inside a JSON string.
std::string quoted(const std::string& path) {
    const std::string text = Json(path).dump();
    return text.substr(1, text.size() - 2);
}

struct Trained {
    double seconds = 0, tokens = 0, loss = 0;
};

Trained train(const polyad::Skillset& skills, const polyad::Dataset& data, const Json& config) {
    polyad::Trainer trainer(skills, data, config.dump());
    const auto begin = Clock::now();
    polyad_progress p;
    do p = trainer.step();
    while (!p.done);
    return {seconds_since(begin), static_cast<double>(p.tokens), p.loss};
}

/// `differences`: Configuration::training.
Json training_config(const Settings& settings, const char* differences, int seed, int steps, int batch_size) {
    Json config = {{"learning_rate", settings.learning_rate},
                   {"validation_examples", 0},  // the last weights count: nobody gets to pick
                   {"seed", seed}};
    config.update(Json::parse(differences));
    config["max_steps"] = steps;
    config["batch_size"] = batch_size;
    return config;
}

Json prompt_format(const Settings& settings) {
    return {{"max_tokens", settings.prompt_tokens}};
}

/// {"overall", "tasks": {name: {"count", "exact_match", "rouge_l"}}}, predictions left out.
Json scores(const World& world, const polyad::Skillset* skills, const polyad::Dataset& data,
            const Settings& settings) {
    Json options = {{"split", "test"}, {"max_tokens", settings.max_answer}, {"batch_size", world.eval_batch}};
    if (settings.test_rows > 0) options["max_examples_per_task"] = settings.test_rows;
    if (!skills) options["prompt"] = prompt_format(settings);
    polyad::Evaluator evaluator(world.model, skills, data, options.dump());
    while (!evaluator.step().done) {
    }
    const Json result = Json::parse(evaluator.result());
    return {{"overall", result.at("overall")}, {"tasks", result.at("tasks")}};
}

void add_mean(Json& out) {
    double exact = 0, rouge = 0, count = 0;
    for (const auto& [name, task] : out.at("tasks").items()) {
        exact += task.at("exact_match").get<double>();
        rouge += task.at("rouge_l").get<double>();
        ++count;
    }
    out["overall"] = {{"exact_match", exact / count}, {"rouge_l", rouge / count}, {"tasks", count}};
}

Json method_config(const World& world, const Settings& settings, std::string text, int seed,
                   const std::string& bundle) {
    text = replaced(std::move(text), "$TASKS", std::to_string(world.train_names.size()));
    text = replaced(std::move(text), "$ENCODER", quoted(world.places.encoder));
    Json config = Json::parse(replaced(std::move(text), "$BUNDLE", quoted(bundle)));
    config["seed"] = seed;
    config["prompt"] = prompt_format(settings);
    return config;
}

/// The trained skillset with one more task of `data`, as the method starts it.
void grow(const polyad::Skillset& skills, const polyad::Dataset& data, const std::string& name) {
    polyad::check(polyad_skillset_add_task(skills.get(), data.get(), name.c_str(), "fresh"));
}

/// What a target takes from each source task (PEMT); empty for methods without sources.
Json source_weights(const polyad::Skillset& skills, const std::string& task) {
    const Json config = Json::parse(skills.info()).at("config");
    Json out = Json::object();
    if (!config.contains("sources")) return out;
    const std::vector<float> weights = skills.task_weights(task);
    for (size_t i = 0; i < weights.size(); ++i)
        out[config.at("sources").at(i).at("name").get<std::string>()] = weights[i];
    return out;
}

Json few_shot(const World& world, const Settings& settings, const Configuration& configuration, int seed,
              const std::string& bundle) {
    Json out = {{"tasks", Json::object()}};
    const Json config = training_config(settings, configuration.training, seed, settings.few_shot_steps,
                                        settings.few_shot_batch);
    for (const std::string& name : world.transfer_names) {
        const polyad::Dataset task = world.transfer_task(name, settings.shots);
        const auto fresh = [&] {
            return polyad::Skillset(
                world.model, task,
                method_config(world, settings, configuration.transfer, seed, bundle).dump());
        };
        const auto grown = [&] {
            polyad::Skillset skills = polyad::Skillset::load(world.model, bundle);
            grow(skills, task, name);
            return skills;
        };
        const polyad::Skillset skills = *configuration.transfer ? fresh() : grown();
        train(skills, task, config);
        out["tasks"][name] = scores(world, &skills, task, settings).at("overall");
        if (Json weights = source_weights(skills, name); !weights.empty())
            out["sources"][name] = std::move(weights);
    }
    add_mean(out);
    return out;
}

/// Null when the method has to be told the task. A router over text vectors is told what the new task looks
/// like, and nothing is trained.
Json zero_shot(const World& world, const Settings& settings, const Configuration& configuration,
               const std::string& bundle) {
    if (*configuration.transfer) return nullptr;
    const polyad::Skillset skills = polyad::Skillset::load(world.model, bundle);
    const Json method = Json::parse(skills.info()).at("config");
    if (method.value("task_vectors", Json()) == "text")
        for (const std::string& name : world.transfer_names)
            grow(skills, world.transfer_task(name, settings.shots), name);
    try {
        Json out = scores(world, &skills, world.transfer, settings);
        add_mean(out);
        return out;
    } catch (const polyad::Error& e) {
        if (e.code() == POLYAD_UNKNOWN_TASK) return nullptr;
        throw;
    }
}

}  // namespace

Json Settings::to_json() const {
    return {{"steps", steps},
            {"batch_size", batch_size},
            {"shots", shots},
            {"few_shot_steps", few_shot_steps},
            {"few_shot_batch", few_shot_batch},
            {"test_rows", test_rows},
            {"max_answer", max_answer},
            {"prompt_tokens", prompt_tokens},
            {"learning_rate", learning_rate}};
}

Settings Settings::from_json(const Json& json) {
    Settings out;
    out.steps = json.at("steps");
    out.batch_size = json.at("batch_size");
    out.shots = json.at("shots");
    out.few_shot_steps = json.at("few_shot_steps");
    out.few_shot_batch = json.at("few_shot_batch");
    out.test_rows = json.at("test_rows");
    out.max_answer = json.at("max_answer");
    out.prompt_tokens = json.at("prompt_tokens");
    out.learning_rate = json.at("learning_rate");
    return out;
}

World::World(const Places& from)
    : context(from.threads, from.device),
      model(context, from.model, from.backbone.dump()),
      train_names(names_of(from.tasks, "train")),
      transfer_names(names_of(from.tasks, "transfer")),
      train(context, from.tasks, Json{{"tasks", train_names}}.dump()),
      transfer(context, from.tasks, Json{{"tasks", transfer_names}}.dump()),
      places(from) {}

polyad::Dataset World::transfer_task(const std::string& name, int shots) const {
    return polyad::Dataset(context, places.tasks,
                           Json{{"tasks", {name}}, {"max_examples_per_task", shots}}.dump());
}

Speed measure_speed(const World& world, const Settings& settings, int seed) {
    const polyad::Skillset skills(
        world.model, world.train,
        Json{{"method", "lora"}, {"rank", 8}, {"prompt", prompt_format(settings)}, {"seed", seed}}.dump());
    constexpr int steps = 3;
    const auto seconds_of = [&](int count) {
        return train(skills, world.train, training_config(settings, "{}", seed, count, settings.batch_size))
            .seconds;
    };
    seconds_of(1);  // first calls build caches
    Speed out;
    out.seconds_per_step = seconds_of(steps) / steps;
    Settings few = settings;
    few.test_rows = 1;
    const auto begin = Clock::now();
    scores(world, &skills, world.train, few);
    out.seconds_per_answer = seconds_since(begin) / static_cast<double>(world.train_names.size());
    return out;
}

Json run_cell(const World& world, const Settings& settings, const Configuration& configuration, int seed,
              const std::filesystem::path& scratch) {
    const auto begin = Clock::now();
    const std::string bundle =
        (scratch / (std::string(configuration.name) + "-" + std::to_string(seed) + ".polyad")).string();
    const polyad::Skillset skills(world.model, world.train,
                                  method_config(world, settings, configuration.method, seed, "").dump());
    const Json info = Json::parse(skills.info());
    // Counted before training: what a mixture is made to use, not what noise left in an off-diagonal cell.
    const Json fresh = Json::parse(skills.routing(&world.train, R"({"max_examples_per_task": 1})"));
    const Trained trained =
        train(skills, world.train,
              training_config(settings, configuration.training, seed, settings.steps, settings.batch_size));
    skills.save(bundle);

    Json out = {{"name", configuration.name},
                {"seed", seed},
                {"config", info.at("config")},
                {"loss", trained.loss},
                {"tokens_per_second", trained.tokens / trained.seconds},
                {"parameters",
                 {{"trainable", info.at("parameters").at("trainable")},
                  {"stored", info.at("parameters").at("stored")},
                  {"active", fresh.at("active_parameters")}}}};
    const Json routing = Json::parse(skills.routing(&world.train, R"({"max_examples_per_task": 2})"));
    out["routing"] = {{"overall", routing.at("overall")}, {"collapsed", routing.at("collapsed")}};
    out["train"] = scores(world, &skills, world.train, settings);
    add_mean(out["train"]);
    out["zero_shot"] = zero_shot(world, settings, configuration, bundle);
    out["few_shot"] = few_shot(world, settings, configuration, seed, bundle);
    out["seconds"] = seconds_since(begin);
    std::error_code ignored;
    std::filesystem::remove(bundle, ignored);
    return out;
}

double training_rate(const World& world, const Settings& settings, const Configuration& configuration,
                     int seed) {
    const polyad::Skillset skills(world.model, world.train,
                                  method_config(world, settings, configuration.method, seed, "").dump());
    constexpr int steps = 6;
    const Json config =
        training_config(settings, configuration.training, seed, 1 + steps, settings.batch_size);
    polyad::Trainer trainer(skills, world.train, config.dump());
    const int64_t first = trainer.step().tokens;  // first calls build caches
    const auto begin = Clock::now();
    polyad_progress p;
    do p = trainer.step();
    while (!p.done);
    return static_cast<double>(p.tokens - first) / seconds_since(begin);
}

Json run_base(const World& world, const Settings& settings) {
    const auto begin = Clock::now();
    Json train = scores(world, nullptr, world.train, settings),
         transfer = scores(world, nullptr, world.transfer, settings);
    add_mean(train);
    add_mean(transfer);
    return {{"name", "base"}, {"train", train}, {"zero_shot", transfer}, {"seconds", seconds_since(begin)}};
}

double relative_gain(const Json& base, const Json& scores, int* left_out) {
    double sum = 0, count = 0;
    *left_out = 0;
    for (const auto& [name, task] : base.at("tasks").items()) {
        if (!scores.at("tasks").contains(name)) continue;
        const double before = task.at("rouge_l"), after = scores.at("tasks").at(name).at("rouge_l");
        if (before == 0) {
            ++*left_out;
            continue;
        }
        sum += (after - before) / before;
        ++count;
    }
    return count > 0 ? sum / count : std::nan("");
}

}  // namespace claims
