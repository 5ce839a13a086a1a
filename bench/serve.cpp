// SPDX-License-Identifier: Apache-2.0
// serve_bench: what serving skills costs beside serving the backbone alone, in one process. The settings take
// turns, so that a machine that slows down slows all of them. Prints a table, and with --json FILE the same
// as JSON.
//
// Each batch setting answers `rows` requests of `prompt` + `tokens` tokens, all submitted at once; its figure
// is new tokens per second, prompts included. Ratios are medians of the rounds' own ratios.
#include <ATen/Parallel.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <functional>
#include <map>
#include <thread>

#include "backbone/compute_thread.h"
#include "base/bytes.h"
#include "base/error.h"
#include "serving/engine.h"
#include "training/trainer.h"

using namespace polyad;

namespace {

/// Wall time, or with --cpu-time the process' own: what is left to compare by on a machine that is not quiet.
struct Clock {
    using time_point = double;
    static inline clockid_t id = CLOCK_MONOTONIC;
    static time_point now() {
        timespec t{};
        clock_gettime(id, &t);
        return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
    }
};

struct Options {
    std::string model, precision = "auto", weights = "auto", json;
    int rank = 8, threads = 0, rows = 8, prompt = 64, tokens = 32, rounds = 5, skillsets = 1000;
    bool publishing = true, training = true, cpu_time = false;
};

double since(Clock::time_point begin) {
    return Clock::now() - begin;
}

struct Summary {
    double median = 0, low = 0, high = 0;
};

Summary summary(std::vector<double> values) {
    if (values.empty()) return {};
    std::sort(values.begin(), values.end());
    const size_t n = values.size();
    return {n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2, values.front(), values.back()};
}

Json to_json(const Summary& s) {
    return {{"median", s.median}, {"low", s.low}, {"high", s.high}};
}

std::vector<Task> named_tasks(int count) {
    std::vector<Task> tasks(static_cast<size_t>(count));
    for (int t = 0; t < count; ++t) tasks[static_cast<size_t>(t)].name = text("task", t);
    return tasks;
}

/// Skills that do something: fresh ones are zero on one side, and the base would do as well.
void shake(Skillset& skillset, uint64_t seed, int64_t stride) {
    Generator random(seed);
    for (const Parameter& p : skillset.method().parameters()) {
        auto* data = static_cast<float*>(p.value.data_ptr());
        for (int64_t i = 0; i < p.value.numel(); i += stride)
            data[i] += static_cast<float>(0.02 * random.normal());
    }
    skillset.method().parameters_changed();
}

class Bench {
  public:
    explicit Bench(const Options& o) : o_(o), compute_(o.threads) {
        const auto options = BackboneOptions::from_json({{"precision", o.precision}, {"weights", o.weights}});
        compute_.run([&] { backbone_ = Backbone::open(std::filesystem::path(o.model), options); });
    }

    int run();

  private:
    struct Setting {
        std::string name;
        std::function<RequestOptions(int)> request;
        Engine* engine;
    };

    EngineOptions engine_options() const {
        EngineOptions out;
        out.max_batch = o_.rows;
        out.max_queue = 1 << 20;
        out.max_context = 1024;
        out.prefix_cache = false;  // prompts repeat here: what is measured is computing them
        return out;
    }
    RequestOptions request(int i, const std::string& skillset = {}, const std::string& task = {}) const {
        RequestOptions out;
        Generator random(static_cast<uint64_t>(i) + 1);
        for (int t = 0; t < o_.prompt; ++t)
            out.tokens.push_back(
                static_cast<int32_t>(random.next_u32() % static_cast<uint32_t>(backbone_->info().vocab)));
        out.sampling.max_tokens = o_.tokens;
        out.sampling.ignore_eos = true;
        out.skillset = skillset;
        out.task = task;
        return out;
    }
    std::shared_ptr<Skillset> skillset(const Json& config, int tasks, uint64_t seed,
                                       int64_t stride = 1) const {
        auto out = Skillset::create(backbone_, named_tasks(tasks), config);
        shake(*out, seed, stride);
        return out;
    }
    /// New tokens per second of `count` requests; `steps` gets the seconds of each step that only decoded.
    double tokens_per_second(Engine& engine, int count, const std::function<RequestOptions(int)>& make,
                             std::vector<double>* steps = nullptr) const {
        for (int i = 0; i < count; ++i) engine.submit(make(i));
        const auto begin = Clock::now();
        for (bool first = true;; first = false) {
            const auto at = Clock::now();
            const int left = engine.step();
            if (steps && !first) steps->push_back(since(at));
            if (left == 0) break;
        }
        return static_cast<double>(count) * o_.tokens / since(begin);
    }
    int threads() {
        int count = 0;
        compute_.run([&] { count = at::get_num_threads(); });
        return count;
    }
    void batches();
    void rotation();
    void switching();
    void publishing();
    void training();
    void line(const char* name, const Summary& s, const char* unit, const char* note = "") {
        std::printf("%-44s %10.2f  (%.2f to %.2f) %s %s\n", name, s.median, s.low, s.high, unit, note);
        std::fflush(stdout);
    }
    void ratio(const char* name, const std::vector<double>& ratios, double bar) {
        const Summary s = summary(ratios);
        std::printf("%-44s %10.3f  (%.3f to %.3f), bar %.2f: %s\n", name, s.median, s.low, s.high, bar,
                    s.median >= bar ? "met" : "missed");
        std::fflush(stdout);
        result_["ratios"][name] = {{"value", to_json(s)}, {"bar", bar}, {"met", s.median >= bar}};
    }

    const Options o_;
    ComputeThread compute_;
    std::shared_ptr<const Backbone> backbone_;
    Json result_ = Json::object();
};

void Bench::batches() {
    Engine plain(backbone_, engine_options()), engine(backbone_, engine_options());
    const auto poly = skillset({{"method", "poly"}, {"rank", o_.rank}}, o_.rows, 1);
    const auto tokens = skillset({{"method", "molora"}, {"rank", o_.rank}}, o_.rows, 2);
    engine.publish("poly", *poly);
    engine.publish("molora", *tokens);
    for (int i = 0; i < o_.rows; ++i)
        engine.publish(text("lora", i),
                       *skillset({{"method", "lora"}, {"rank", o_.rank}}, 1, 10 + static_cast<uint64_t>(i)));
    const Setting settings[] = {
        {"base", [&](int i) { return request(i); }, &plain},
        {"attached, none used", [&](int i) { return request(i); }, &engine},
        {"one task", [&](int i) { return request(i, "poly", "task0"); }, &engine},
        {"a task per row", [&](int i) { return request(i, "poly", text("task", i)); }, &engine},
        {"a LoRA skillset per row", [&](int i) { return request(i, text("lora", i)); }, &engine},
        {"half base, half tasks",
         [&](int i) { return i % 2 ? request(i) : request(i, "poly", text("task", i)); }, &engine},
        {"token-routed (MoLoRA)", [&](int i) { return request(i, "molora", "task0"); }, &engine},
    };
    std::map<std::string, std::vector<double>> speed, decode;
    for (const Setting& s : settings) tokens_per_second(*s.engine, o_.rows, s.request);  // warm
    for (int round = 0; round < o_.rounds; ++round)
        for (const Setting& s : settings) {
            std::vector<double> steps;
            speed[s.name].push_back(tokens_per_second(*s.engine, o_.rows, s.request, &steps));
            decode[s.name].push_back(static_cast<double>(o_.rows) / summary(steps).median);
        }
    const auto ratios = [&](const std::map<std::string, std::vector<double>>& of, const char* name) {
        std::vector<double> out;
        for (int r = 0; r < o_.rounds; ++r)
            out.push_back(of.at(name)[static_cast<size_t>(r)] / of.at("base")[static_cast<size_t>(r)]);
        return out;
    };
    std::printf("%d rows of %d + %d tokens\n", o_.rows, o_.prompt, o_.tokens);
    for (const Setting& s : settings) {
        line(s.name.c_str(), summary(speed[s.name]), "new tokens/s",
             text("decoding ", static_cast<int>(summary(decode[s.name]).median), ", of base ",
                  summary(ratios(speed, s.name.c_str())).median, " and ",
                  summary(ratios(decode, s.name.c_str())).median)
                 .c_str());
        result_["batches"][s.name] = {{"tokens_per_second", to_json(summary(speed[s.name]))},
                                      {"decode_tokens_per_second", to_json(summary(decode[s.name]))}};
    }
    ratio("attached but unused / base", ratios(speed, "attached, none used"), 0.99);
    ratio("a task per row / base", ratios(speed, "a task per row"), 0.85);
    ratio("a LoRA skillset per row / base", ratios(speed, "a LoRA skillset per row"), 0.85);
}

void Bench::rotation() {
    Engine engine(backbone_, engine_options());
    const Json config = {{"method", "lora"}, {"rank", o_.rank}, {"target_modules", {"q_proj", "v_proj"}}};
    const auto one = skillset(config, 1, 3);
    const auto begin = Clock::now();
    for (int i = 0; i < o_.skillsets; ++i) {
        shake(*one, static_cast<uint64_t>(i), 997);
        engine.publish(text("s", i), *one);
    }
    const double each = since(begin) / o_.skillsets;
    const int count = 4 * o_.rows;
    int next = 0;
    const auto few = [&](int i) { return request(i, text("s", i % 5)); };
    const auto many = [&](int i) { return request(i, text("s", next++ * 389 % o_.skillsets)); };
    std::vector<double> five, all, ratios;
    tokens_per_second(engine, count, few);
    for (int round = 0; round < o_.rounds; ++round) {
        five.push_back(tokens_per_second(engine, count, few));
        all.push_back(tokens_per_second(engine, count, many));
        ratios.push_back(all.back() / five.back());
    }
    const auto bytes = engine.stats()["memory"]["skills"].get<int64_t>();
    std::printf("%d LoRA skillsets resident (q_proj, v_proj, rank %d): %.2f GiB, %.1f ms to publish one\n",
                o_.skillsets, o_.rank, static_cast<double>(bytes) / (1 << 30), 1e3 * each);
    line("5 in rotation", summary(five), "new tokens/s");
    line("all in rotation", summary(all), "new tokens/s");
    result_["rotation"] = {{"skillsets", o_.skillsets},
                           {"bytes", bytes},
                           {"five", to_json(summary(five))},
                           {"all", to_json(summary(all))}};
    ratio("all / 5 in rotation", ratios, 0.95);
}

/// What it costs a request that another skillset than the last one's answers it.
void Bench::switching() {
    Engine engine(backbone_, engine_options());
    const Json config = {{"method", "poly"}, {"rank", o_.rank}};
    for (int i = 0; i < 16; ++i)
        engine.publish(text("s", i), *skillset(config, 8, 40 + static_cast<uint64_t>(i)));
    std::vector<double> same, other, submits;
    for (int i = 0; i < 40 * o_.rounds; ++i)
        for (const bool switched : {false, true}) {
            // Right after a request for the same pairs, or for those asked for longest ago.
            if (!switched) {
                RequestOptions warm = request(0, text("s", i % 16), text("task", i % 8));
                warm.sampling.max_tokens = 1;
                engine.submit(warm);
                while (engine.step() > 0) {
                }
            }
            RequestOptions one = request(0, text("s", (i + (switched ? 8 : 0)) % 16), text("task", i % 8));
            one.sampling.max_tokens = 1;
            auto begin = Clock::now();
            engine.submit(one);
            submits.push_back(1e3 * since(begin));
            begin = Clock::now();
            while (engine.step() > 0) {
            }
            (switched ? other : same).push_back(1e3 * since(begin));
        }
    const double cost = summary(other).median - summary(same).median;
    std::printf(
        "switching: one prompt of %d tokens takes %.3f ms for the skillset and task just used, %.3f ms for "
        "others: "
        "%.3f ms for a switch, bar 1: %s; submit %.3f ms\n",
        o_.prompt, summary(same).median, summary(other).median, cost, cost < 1 ? "met" : "missed",
        summary(submits).median);
    result_["switch"] = {{"same_ms", to_json(summary(same))},
                         {"other_ms", to_json(summary(other))},
                         {"cost_ms", cost},
                         {"met", cost < 1}};
}

/// The longest time for which the system keeps one of `threads` from running that do nothing but read the
/// clock.
double longest_gap(int threads, double seconds) {
    std::vector<double> longest(static_cast<size_t>(threads), 0.0);
    std::vector<std::thread> all;
    const auto begin = Clock::now();
    for (double& gap : longest)
        all.emplace_back([&gap, begin, seconds] {
            for (double last = Clock::now(); last - begin < seconds;) {
                const double now = Clock::now();
                gap = std::max(gap, now - last);
                last = now;
            }
        });
    for (std::thread& one : all) one.join();
    return *std::max_element(longest.begin(), longest.end());
}

/// Steps of a full batch while another thread publishes new versions of a large skillset, and in turn
/// without.
void Bench::publishing() {
    Engine engine(backbone_, engine_options());
    const auto poly = skillset({{"method", "poly"}, {"rank", o_.rank}, {"n_skills", 8}}, 8, 5);
    engine.publish("poly", *poly);
    std::vector<double> quiet, busy, publishes;
    std::atomic<bool> inside{false};
    const auto batch = [&](std::vector<double>* steps, const std::function<void()>& after_prompts = {}) {
        for (int r = 0; r < o_.rows; ++r) engine.submit(request(r, "poly", text("task", r % 8)));
        engine.step();
        if (after_prompts) after_prompts();
        for (int left = 1; left > 0;) {
            const bool before = inside;
            const auto at = Clock::now();
            left = engine.step();
            if (steps && (steps == &quiet || before || inside)) steps->push_back(since(at));
        }
    };
    batch(nullptr);
    for (int round = 0; round < 2 * o_.rounds; ++round) {
        for (int i = 0; i < 3; ++i) batch(&quiet);
        std::thread beside;
        const auto publish = [&] {
            inside = true;
            beside = std::thread([&] {
                work_in_background();
                const auto begin = Clock::now();
                engine.publish("poly", *poly);
                publishes.push_back(since(begin));
                inside = false;
            });
        };
        batch(&busy, publish);
        while (inside) batch(&busy);
        beside.join();
    }
    const Summary alone = summary(quiet), during = summary(busy);
    const double gap = o_.cpu_time ? 0 : longest_gap(threads(), 10) / alone.median;
    const auto longer = [&](const std::vector<double>& steps) {
        return std::count_if(steps.begin(), steps.end(), [&](double one) { return one > 2 * alone.median; });
    };
    const double with = during.high / alone.median - 1, without = alone.high / alone.median - 1;
    std::printf(
        "publishing: %zu steps take %.2f ms, the longest %.2f steps longer, %td more than one; "
        "the %zu while a version is published (%.0f ms each, %zu of them) %.2f ms, "
        "the longest %.2f steps longer, %td more than one, bar 1: %s\n",
        quiet.size(), 1e3 * alone.median, without, longer(quiet), busy.size(),
        1e3 * summary(publishes).median, publishes.size(), 1e3 * during.median, with, longer(busy),
        with <= 1 ? "met" : "missed");
    if (!o_.cpu_time)
        std::printf(
            "the system keeps threads that only read the clock from running for up to %.2f steps in 10 s\n",
            gap);
    result_["publish"] = {{"step_seconds", to_json(alone)},
                          {"step_seconds_while_publishing", to_json(during)},
                          {"publish_seconds", to_json(summary(publishes))},
                          {"steps", quiet.size()},
                          {"steps_while_publishing", busy.size()},
                          {"longer_by_one", longer(quiet)},
                          {"longer_by_one_while_publishing", longer(busy)},
                          {"longest_gap_of_the_system", gap},
                          {"steps_longer_without", without},
                          {"steps_longer", with}};
}

/// Decoding beside a trainer, with each share of the cores.
void Bench::training() {
    std::string lines;
    for (int i = 0; i < 64; ++i)
        lines += Json{{"task", text("task", i % 8)},
                      {"instruction", "Say which"},
                      {"input", text("number ", i)},
                      {"output", text("it is ", i)},
                      {"split", "train"}}
                     .dump() +
                 "\n";
    const auto data = std::make_shared<const Dataset>(Dataset::from_jsonl(Bytes::copy_of(lines, "rows")));
    const int all = threads();
    struct Share {
        int engine, trainer;
    };
    std::vector<Share> shares{{all, 0}, {0, all}};
    if (all > 1) shares.push_back({all - all / 2, all / 2});
    shares.push_back({all, all});
    std::printf("an engine beside a trainer (threads each)\n");
    for (const Share share : shares) {
        ComputeThread serving(share.engine), training(share.trainer);
        Engine engine(backbone_, engine_options());
        const auto poly = skillset({{"method", "poly"}, {"rank", o_.rank}}, 8, 6);
        engine.publish("poly", *poly);
        const auto trained =
            Skillset::create(backbone_, data->tasks(), {{"method", "poly"}, {"rank", o_.rank}});
        Trainer trainer(trained, data,
                        Json{{"max_steps", 1 << 20}, {"batch_size", 8}, {"validation_examples", 0}});
        std::atomic<bool> stop{false};
        int steps = 0;
        double tokens = 0, train_seconds = 0;
        std::thread beside;
        if (share.trainer)
            beside = std::thread([&] {
                training.run([&] { trainer.step(); });
                const auto begin = Clock::now();
                while (!stop) {
                    training.run([&] { trainer.step(); });
                    ++steps;
                }
                train_seconds = since(begin);
            });
        if (share.engine) {
            std::vector<double> speed;
            for (int i = 0; i < 2; ++i)
                serving.run([&] {
                    speed.push_back(tokens_per_second(
                        engine, o_.rows, [&](int r) { return request(r, "poly", text("task", r % 8)); }));
                });
            tokens = speed.back();
        } else {
            std::this_thread::sleep_for(std::chrono::seconds(4));
        }
        stop = true;
        if (beside.joinable()) beside.join();
        const double rate = train_seconds > 0 ? steps / train_seconds : 0;
        std::printf("  engine %d, trainer %d: %8.1f new tokens/s, %6.2f training steps/s\n", share.engine,
                    share.trainer, tokens, rate);
        std::fflush(stdout);
        result_["training"].push_back({{"engine_threads", share.engine},
                                       {"trainer_threads", share.trainer},
                                       {"tokens_per_second", tokens},
                                       {"training_steps_per_second", rate}});
    }
}

int Bench::run() {
    const BackboneInfo& info = backbone_->info();
    result_["setting"] = {{"model", info.name},
                          {"dtype", backbone_->compute_dtype() == at::kFloat ? "float32" : "bfloat16"},
                          {"weights", o_.weights},
                          {"rank", o_.rank},
                          {"rows", o_.rows},
                          {"prompt", o_.prompt},
                          {"tokens", o_.tokens},
                          {"rounds", o_.rounds},
                          {"threads", threads()},
                          {"clock", o_.cpu_time ? "cpu" : "wall"},
                          {"isa", kernels::ops().isa}};
    std::printf("%s\n", result_["setting"].dump().c_str());
    compute_.run([&] {  // as behind the C API
        batches();
        if (o_.skillsets > 0) rotation();
        switching();
        if (o_.publishing) publishing();
    });
    if (o_.training) {
        const OneCore caller;
        training();
    }
    if (!o_.json.empty()) write_file_atomically(o_.json, result_.dump(1) + "\n");
    return 0;
}

}  // namespace

int main(int argc, char** argv) try {
    Options o;
    CLI::App app{"Serving, timed"};
    app.add_option("--model", o.model)->required();
    app.add_option("--precision", o.precision);
    app.add_option("--weights", o.weights);
    app.add_option("--rank", o.rank);
    app.add_option("--rows", o.rows);
    app.add_option("--prompt", o.prompt, "Tokens of each prompt");
    app.add_option("--tokens", o.tokens, "New tokens of each answer");
    app.add_option("--threads", o.threads);
    app.add_option("--rounds", o.rounds);
    app.add_option("--skillsets", o.skillsets, "Resident skillsets of the rotation; 0 leaves it out");
    app.add_option("--publishing", o.publishing);
    app.add_option("--training", o.training);
    app.add_flag("--cpu-time", o.cpu_time, "Measure the process' CPU time (with --threads 1)");
    app.add_option("--json", o.json, "File for the result");
    CLI11_PARSE(app, argc, argv);
    if (o.cpu_time) Clock::id = CLOCK_PROCESS_CPUTIME_ID;
    std::setvbuf(stdout, nullptr, _IOLBF, 0);
    return Bench(o).run();
} catch (const std::exception& e) {
    std::fprintf(stderr, "serve_bench: %s\n", e.what());
    return 1;
}
