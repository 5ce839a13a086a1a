// SPDX-License-Identifier: Apache-2.0
// Every method at equal budgets on the same rows: see docs/claims.md. Finished cells are kept in RUN/cells
// and not computed again; a cell of other settings is. Several processes may work on one RUN: a cell is
// locked while it is computed.
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <set>
#include <thread>

#include "table.h"

namespace claims {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

struct Options {
    Places places;
    std::string run = "claims-run", docs, planted, precision;
    std::vector<std::string> only;
    double budget = 0;
    int seeds = 1, eval_batch = 16;
    Json asked = Json::object();  ///< settings given by name
    bool list = false, tables = false, rates = false;
};

/// A file of RUN that one process computes while others go on to the next.
class Claim {
  public:
    explicit Claim(const fs::path& file)
        : handle_(open((file.string() + ".lock").c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0666)) {
        if (handle_ < 0) throw std::runtime_error("cannot lock " + file.string());
        mine_ = flock(handle_, LOCK_EX | LOCK_NB) == 0;
    }
    ~Claim() { close(handle_); }
    Claim(const Claim&) = delete;
    Claim& operator=(const Claim&) = delete;
    explicit operator bool() const { return mine_; }

  private:
    int handle_;
    bool mine_ = false;
};

Json read_json(const fs::path& path) {
    std::ifstream file(path);
    if (!file) return nullptr;
    return Json::parse(file, nullptr, false);
}

void write_json(const fs::path& path, const Json& value) {
    const fs::path part = path.string() + ".part";
    std::ofstream file(part);
    file << value.dump(1) << '\n';
    file.close();
    if (!file) throw std::runtime_error("cannot write " + part.string());
    fs::rename(part, path);
}

/// Why a configuration cannot be run here; empty = it can.
std::string obstacle(const Configuration& configuration, const Places& places) {
    for (const char* text : {configuration.method, configuration.transfer}) {
        if (!*text) continue;
        const std::string method = Json::parse(text).at("method");
        if (!polyad_has_feature(("method:" + method).c_str())) return "this build has no such method";
        if (std::string(text).find("$ENCODER") != std::string::npos && places.encoder.empty())
            return "needs --encoder, a folder with a sentence encoder";
    }
    return "";
}

std::string cpu_name() {
    std::ifstream file("/proc/cpuinfo");
    for (std::string line; std::getline(file, line);)
        if (line.rfind("model name", 0) == 0) return line.substr(std::min(line.find(':') + 2, line.size()));
    return "unknown CPU";
}

/// What the cells ran on, as the tables say it.
std::string machine_name(const Places& places) {
    if (places.device == "cpu") {
        const int threads =
            places.threads > 0 ? places.threads : static_cast<int>(std::thread::hardware_concurrency());
        return cpu_name() + ", " + std::to_string(threads) + (threads == 1 ? " thread" : " threads");
    }
    polyad_text* text = nullptr;
    polyad::check(polyad_devices(&text));
    const Json devices = Json::parse(polyad::take(text)).at("devices");
    for (const Json& device : devices)
        if (device.at("name") == (places.device == "cuda" ? "cuda:0" : places.device))
            return device.value("description", places.device);
    return places.device;
}

/// Seconds of one cell. A method costs about half more than LoRA, on the average of the table.
double cost(const Settings& s, const Speed& speed, size_t train_tasks, size_t transfer_tasks) {
    constexpr double dearer = 1.5;
    const double train = s.steps * speed.seconds_per_step * dearer;
    const double few = static_cast<double>(transfer_tasks) * s.few_shot_steps * speed.seconds_per_step *
                       s.few_shot_batch / s.batch_size * dearer;
    const double answers =
        s.test_rows * (static_cast<double>(train_tasks) + 2.0 * static_cast<double>(transfer_tasks));
    return train + few + answers * speed.seconds_per_answer * dearer;
}

/// The full settings shrunk, steps and rows alike, until all cells fit.
Settings fitted(const Settings& full, double seconds, size_t cells, const Speed& speed, size_t train_tasks,
                size_t transfer_tasks) {
    const auto scaled = [&](double part) {
        Settings s = full;
        s.steps = std::max(20, static_cast<int>(std::lround(full.steps * part)));
        s.few_shot_steps = std::max(8, static_cast<int>(std::lround(full.few_shot_steps * std::sqrt(part))));
        s.test_rows = std::max(5, static_cast<int>(std::lround(full.test_rows * std::sqrt(part))));
        return s;
    };
    double low = 0, high = 1;
    for (int i = 0; i < 40; ++i) {
        const double middle = (low + high) / 2;
        const double all =
            static_cast<double>(cells) * cost(scaled(middle), speed, train_tasks, transfer_tasks);
        (all <= seconds ? low : high) = middle;
    }
    return scaled(low);
}

struct Plan {
    const Configuration* configuration;
    int seed;
    fs::path file(const fs::path& run) const {
        return run / "cells" / (std::string(configuration->name) + "-" + std::to_string(seed) + ".json");
    }
};

/// What a kept cell must agree with to be kept.
Json identity(const Configuration& c, const Settings& settings, const Json& world) {
    return {{"settings", settings.to_json()},
            {"method", c.method},
            {"transfer", c.transfer},
            {"training", c.training},
            {"world", world}};
}

Results gather(const Options& options, const std::vector<Plan>& plans, const Settings& settings,
               const Json& world, const std::string& model) {
    const fs::path run = options.run;
    Results results;
    results.settings = settings.to_json();
    results.model = model;
    for (const Plan& plan : plans) {
        const Json cell = read_json(plan.file(run));
        if (!cell.is_object() ||
            cell.value("identity", Json()) != identity(*plan.configuration, settings, world))
            continue;
        if (cell.contains("error"))
            results.missing.push_back(std::string(plan.configuration->name) + ", seed " +
                                      std::to_string(plan.seed) + ": " + cell.at("error").get<std::string>());
        results.cells.push_back(cell);
    }
    const Json base = read_json(run / "base.json");
    if (base.is_object() &&
        base.value("identity", Json()) == Json{{"settings", settings.to_json()}, {"world", world}})
        results.base = base;
    for (const Configuration& c : configurations)
        if (const std::string why = obstacle(c, options.places); !why.empty())
            results.missing.push_back(std::string(c.name) + ": " + why);
    if (!options.planted.empty()) results.planted = read_json(options.planted);
    return results;
}

/// Settings of this run: those kept in RUN, those asked for, or what the budget allows.
Settings settle(const Options& options, const World& world, size_t cells, double elapsed) {
    const fs::path file = fs::path(options.run) / "settings.json";
    const Json kept = read_json(file);
    Settings settings;
    if (!options.asked.empty()) {
        Json all = (kept.is_object() ? Settings::from_json(kept) : settings).to_json();
        all.update(options.asked);
        settings = Settings::from_json(all);
    } else if (kept.is_object()) {
        settings = Settings::from_json(kept);
        std::printf("going on with the settings of %s\n", file.c_str());
    } else if (options.budget > 0) {
        const Speed speed = measure_speed(world, settings, 0);
        settings = fitted(settings, options.budget * 60 - elapsed, cells, speed, world.train_names.size(),
                          world.transfer_names.size());
        const Settings full;
        std::printf(
            "%.2f s a step, %.3f s an answer: %.0f minutes for %zu cells allow %d steps (of %d at "
            "full size), %d test rows per task (of %d), %d few-shot steps (of %d)\n",
            speed.seconds_per_step, speed.seconds_per_answer, options.budget, cells - 1, settings.steps,
            full.steps, settings.test_rows, full.test_rows, settings.few_shot_steps, full.few_shot_steps);
    }
    write_json(file, settings.to_json());
    return settings;
}

/// One cell, with what it ran on.
Json computed(const World& world, const Settings& settings, const Plan& plan, const Options& options) {
    std::printf("%-18s seed %d  ", plan.configuration->name, plan.seed);
    std::fflush(stdout);
    Json cell;
    try {
        cell = run_cell(world, settings, *plan.configuration, plan.seed, options.run);
        std::printf("ROUGE-L %.1f  few-shot %.1f  %.0f tokens/s  %.0f s\n",
                    cell["train"]["overall"]["rouge_l"].get<double>(),
                    cell["few_shot"]["overall"]["rouge_l"].get<double>(),
                    cell["tokens_per_second"].get<double>(), cell["seconds"].get<double>());
    } catch (const polyad::Error& e) {
        if (e.code() == POLYAD_OUT_OF_MEMORY) throw;
        cell = {{"name", plan.configuration->name}, {"seed", plan.seed}, {"error", e.what()}};
        std::printf("failed: %s\n", e.what());
    }
    std::fflush(stdout);
    cell["machine"] = machine_name(options.places);
    return cell;
}

int run(const Options& options) {
    if (options.list) {
        for (const Configuration& c : configurations) {
            const std::string why = obstacle(c, options.places);
            std::printf("%-18s %-10s %s%s\n", c.name, c.group, c.method,
                        why.empty() ? "" : ("  (" + why + ")").c_str());
        }
        return 0;
    }
    for (const std::string& name : options.only)
        if (std::none_of(std::begin(configurations), std::end(configurations),
                         [&](const Configuration& c) { return name == c.name; }))
            throw std::runtime_error("there is no configuration '" + name + "'; --list shows them");
    const auto began = Clock::now();
    const auto elapsed = [&] { return std::chrono::duration<double>(Clock::now() - began).count(); };
    const fs::path folder = options.run;
    fs::create_directories(folder / "cells");

    World world(options.places);
    world.eval_batch = options.eval_batch;
    const Json info = Json::parse(world.model.info());
    const Json about = {{"fingerprint", info.at("fingerprint")},
                        {"precision", info.at("precision")},
                        {"train", world.train_names},
                        {"transfer", world.transfer_names}};
    std::vector<Plan> plans, wanted;
    for (int seed = 0; seed < options.seeds; ++seed)
        for (const Configuration& c : configurations) {
            if (!obstacle(c, options.places).empty()) continue;
            plans.push_back({&c, seed});
            if (options.only.empty() ||
                std::find(options.only.begin(), options.only.end(), c.name) != options.only.end())
                wanted.push_back(plans.back());
        }
    const Settings settings = settle(options, world, wanted.size() + 1, elapsed());
    const std::string shown =
        info.at("name").get<std::string>() + " (" + info.at("precision").get<std::string>() + ")";
    const auto save = [&] {
        const Results results = gather(options, plans, settings, about, shown);
        const std::string text = tables(results);
        if (!options.docs.empty()) {
            write_between_markers(fs::path(options.docs) / "claims.md", text);
            Json cells = Json::array();
            for (Json cell : results.cells) {
                cell.erase("identity");
                if (const Json::json_pointer at("/config/intuition/encoder"); cell.contains(at))
                    cell[at] = fs::path(cell[at].get<std::string>()).parent_path().filename().string();
                cells.push_back(std::move(cell));
            }
            write_json(fs::path(options.docs) / "claims.json", {{"settings", results.settings},
                                                                {"model", results.model},
                                                                {"base", results.base},
                                                                {"cells", std::move(cells)},
                                                                {"planted", results.planted}});
        }
        return text;
    };
    if (options.tables) {
        std::printf("%s\n", save().c_str());
        return 0;
    }

    if (options.rates) {
        for (const Plan& plan : wanted) {
            Json cell = read_json(plan.file(folder));
            if (!cell.is_object() || cell.contains("error") ||
                cell.value("identity", Json()) != identity(*plan.configuration, settings, about))
                continue;
            cell["tokens_per_second"] = training_rate(world, settings, *plan.configuration, plan.seed);
            std::printf("%-18s seed %d  %.0f tokens/s\n", plan.configuration->name, plan.seed,
                        cell["tokens_per_second"].get<double>());
            std::fflush(stdout);
            cell["machine"] = machine_name(options.places);
            write_json(plan.file(folder), cell);
        }
        save();
        return 0;
    }

    const Json base_identity = {{"settings", settings.to_json()}, {"world", about}};
    const fs::path base_file = folder / "base.json";
    const auto has_base = [&] {
        const Json base = read_json(base_file);
        return base.is_object() && base.value("identity", Json()) == base_identity;
    };
    if (const Claim claim(base_file); claim && !has_base()) {
        std::printf("the backbone alone\n");
        std::fflush(stdout);
        Json fresh = run_base(world, settings);
        fresh["identity"] = base_identity;
        write_json(base_file, fresh);
    }
    double longest = 0;
    int left = 0, failed = 0;
    for (const Plan& plan : wanted) {
        const Claim claim(plan.file(folder));
        if (!claim) continue;
        const Json identified = identity(*plan.configuration, settings, about);
        const Json done = read_json(plan.file(folder));
        if (done.is_object() && done.value("identity", Json()) == identified && !done.contains("error"))
            continue;
        if (options.budget > 0 && elapsed() + longest > options.budget * 60) {
            ++left;
            continue;
        }
        Json cell = computed(world, settings, plan, options);
        longest = std::max(longest, cell.value("seconds", 0.0));
        failed += cell.contains("error");
        cell["identity"] = identified;
        write_json(plan.file(folder), cell);
        save();
    }
    std::printf("\n%s\n", save().c_str());
    if (left > 0)
        std::printf("%d cells are left for another run: the same command goes on where this one stopped\n",
                    left);
    return failed ? 1 : 0;
}

}  // namespace
}  // namespace claims

int main(int argc, char** argv) {
    claims::Options o;
    claims::Json& asked = o.asked;
    CLI::App app{"Trains every method at equal budgets and tells who wins where (docs/claims.md)"};
    app.add_option("-m,--model", o.places.model, "The backbone");
    app.add_option("-t,--tasks", o.places.tasks,
                   "Folder of tasks with tasks.json (roles train and transfer)");
    app.add_option("--encoder", o.places.encoder, "Folder of a sentence encoder (MoR1E's intuition)");
    app.add_option("--device", o.places.device, "Where the model runs: cpu, cuda or cuda:N")
        ->capture_default_str();
    app.add_option("--precision", o.precision, "auto, fp32 or bf16");
    app.add_option("--run", o.run, "Folder of finished cells")->capture_default_str();
    app.add_option("--docs", o.docs, "Folder whose claims.md and claims.json are written");
    app.add_option("--planted", o.planted, "JSON of the planted test, for its table");
    app.add_option("--only", o.only, "These configurations (--list)");
    app.add_option(
        "--budget", o.budget,
        "Minutes; steps and rows are scaled to fit, 0 = full size. With settings given or kept: no "
        "cell begins that would not fit");
    app.add_option("--seeds", o.seeds, "Seeds per configuration")->capture_default_str();
    app.add_option("--eval-batch", o.eval_batch, "Rows answered together")->capture_default_str();
    app.add_option("-j,--threads", o.places.threads, "Worker threads; 0 = all cores");
    const claims::Json full = claims::Settings().to_json();
    for (const auto& [name, what] : full.items()) {
        std::string option = "--" + name;
        std::replace(option.begin(), option.end(), '_', '-');
        const bool whole = what.is_number_integer();
        app.add_option_function<double>(
            option,
            [&asked, key = name, whole](const double& value) {
                asked[key] = whole ? claims::Json(static_cast<int>(value)) : claims::Json(value);
            },
            "A setting (full size: " + what.dump() + ")");
    }
    app.add_flag("--tables", o.tables, "Only write the tables of the cells that are there");
    app.add_flag("--rates", o.rates,
                 "Measure the tokens/s of finished cells again, alone: after several processes shared a RUN");
    app.add_flag("--list", o.list, "Say what is compared");
    CLI11_PARSE(app, argc, argv);
    if (!o.precision.empty()) o.places.backbone["precision"] = o.precision;
    try {
        if (!o.list && (o.places.model.empty() || o.places.tasks.empty()))
            throw std::runtime_error("--model and --tasks are needed");
        return claims::run(o);
    } catch (const std::exception& e) {
        std::fprintf(stderr, "claims: %s\n", e.what());
        return 2;
    }
}
