// SPDX-License-Identifier: Apache-2.0
// One cell of the comparison: a configuration with a seed, trained, scored, adapted to new tasks.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <polyad/polyad.hpp>
#include <string>
#include <vector>

#include "configurations.h"

namespace claims {

using Json = nlohmann::json;

/// The same for every configuration: that is the point. Kept with the results.
struct Settings {
    int steps = 900, batch_size = 16;
    int shots = 16, few_shot_steps = 40, few_shot_batch = 8;
    int test_rows = 50;                        ///< per task; 0 = all
    int max_answer = 32, prompt_tokens = 512;  ///< tokens of an answer; of prompt and answer in training
    double learning_rate = 1e-3;
    Json to_json() const;
    static Settings from_json(const Json& json);
};

/// What a world is opened from.
struct Places {
    std::string model, tasks, encoder, device = "cpu";
    Json backbone = Json::object();  ///< options of the backbone: precision
    int threads = 0;                 ///< 0 = all cores
};

/// Model and tasks, opened once.
struct World {
    polyad::Context context;
    polyad::Backbone model;
    std::vector<std::string> train_names, transfer_names;
    polyad::Dataset train, transfer;
    Places places;
    int eval_batch = 16;

    explicit World(const Places& places);
    /// One task of the transfer set.
    polyad::Dataset transfer_task(const std::string& name, int shots) const;
};

/// Where the seconds go, for the plan.
struct Speed {
    double seconds_per_step = 0, seconds_per_answer = 0;
};
Speed measure_speed(const World& world, const Settings& settings, int seed);

/// {"name", "seed", "train": {scores}, "few_shot", "zero_shot" (null where the method needs to know the
/// task), "parameters": {"trainable", "stored", "active"}, "tokens_per_second", "seconds", "routing":
/// summary}.
Json run_cell(const World& world, const Settings& settings, const Configuration& configuration, int seed,
              const std::filesystem::path& scratch);
/// Tokens a second of training alone, over a few steps after a first one: for cells whose processes shared
/// the machine.
double training_rate(const World& world, const Settings& settings, const Configuration& configuration,
                     int seed);
/// The backbone alone, same prompts.
Json run_base(const World& world, const Settings& settings);

/// Mean over tasks of (score - base) / base; tasks with a base of 0 have none and are counted in `left_out`.
double relative_gain(const Json& base, const Json& scores, int* left_out);

}  // namespace claims
