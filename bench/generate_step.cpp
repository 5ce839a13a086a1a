// SPDX-License-Identifier: Apache-2.0
// generate_bench: rows of equal prompts read in one step, then one token a step for all of them; prompt and
// decoding timed apart. Sampling (greedy) and everything else a step does is inside the times. Prints one
// JSON line in the form of peers/*_generate.py.
#include <ATen/Parallel.h>
#include <malloc.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iterator>

#include "backbone/compute_thread.h"
#include "base/error.h"
#include "serving/generate.h"

using namespace polyad;
using Clock = std::chrono::steady_clock;

namespace {

struct Options {
    std::string model, rows, skills = "none", config = "{}", precision = "auto", weights = "auto";
    int count = 1, prompt = 512, answer = 64, rank = 8, repeats = 3, threads = 0;
};

double seconds_since(Clock::time_point begin) {
    return std::chrono::duration<double>(Clock::now() - begin).count();
}

int64_t status_bytes(const std::string& key) {
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);)
        if (line.rfind(key, 0) == 0) return std::stoll(line.substr(key.size() + 1)) * 1024;
    return 0;
}

/// The rows' tokens one after the other, cut into prompts; from the start again when they are used up.
std::vector<std::vector<int32_t>> prompts_of(const Options& o) {
    std::ifstream in(o.rows);
    if (!in) fail(Code::io_error, "cannot read '", o.rows, "'");
    const Json rows = Json::parse(in).at("rows");
    std::vector<int32_t> all;
    for (const Json& row : rows)
        for (const Json& token : row.at("tokens")) all.push_back(token.get<int32_t>());
    std::vector<std::vector<int32_t>> prompts(static_cast<size_t>(o.count));
    size_t at = 0;
    for (auto& prompt : prompts)
        for (int i = 0; i < o.prompt; ++i) prompt.push_back(all[at++ % all.size()]);
    return prompts;
}

/// Skills that change something, as trained ones do.
void shake(const Skillset& skillset, uint64_t seed) {
    Generator random(seed);
    for (Parameter& parameter : skillset.method().parameters()) {
        std::vector<float> noise(static_cast<size_t>(parameter.value.numel()));
        random.fill_uniform(noise.data(), noise.size(), -0.01, 0.01);
        float* value = parameter.value.data_ptr<float>();
        for (size_t i = 0; i < noise.size(); ++i) value[i] += noise[i];
    }
    skillset.method().parameters_changed();
}

using Route = std::pair<std::shared_ptr<const ServedSkillset>, int>;

/// A published skillset and a task for each row.
std::vector<Route> routes_of(const Options& o, const std::shared_ptr<const Backbone>& backbone) {
    std::vector<Route> routes(static_cast<size_t>(o.count), {nullptr, -1});
    if (o.skills == "none") return routes;
    const auto made = [&](const std::string& method, int tasks, int seed) {
        Json config = Json::parse(o.config);
        config["method"] = method;
        config["rank"] = o.rank;
        std::vector<Task> names(static_cast<size_t>(tasks));
        for (int t = 0; t < tasks; ++t) names[static_cast<size_t>(t)].name = text("task", t);
        const auto skillset = Skillset::create(backbone, names, config);
        shake(*skillset, static_cast<uint64_t>(seed));
        return std::make_shared<const ServedSkillset>(skillset, int64_t{1} << 30);
    };
    if (o.skills == "lora-each") {
        for (int row = 0; row < o.count; ++row) routes[static_cast<size_t>(row)] = {made("lora", 1, row), 0};
        return routes;
    }
    const auto skillset = made(o.skills, o.count, 1);
    for (int row = 0; row < o.count; ++row) routes[static_cast<size_t>(row)] = {skillset, row};
    return routes;
}

int run(const Options& o) {
    const auto backbone =
        Backbone::open(std::filesystem::path(o.model),
                       BackboneOptions::from_json({{"precision", o.precision}, {"weights", o.weights}}));
    const auto prompts = prompts_of(o);
    const auto routes = routes_of(o, backbone);
    malloc_trim(0);
    std::ofstream("/proc/self/clear_refs") << "5";
    std::vector<double> prompt_seconds, decode_seconds;
    std::vector<int32_t> tokens;
    for (int repeat = 0; repeat <= o.repeats; ++repeat) {  // the first one warms up
        GenerationBatch batch(backbone, o.count, o.prompt + o.answer);
        std::vector<std::shared_ptr<GenerationRow>> rows;
        for (int row = 0; row < o.count; ++row) {
            GenerationInput input;
            input.prompt = prompts[static_cast<size_t>(row)];
            std::tie(input.served, input.task) = routes[static_cast<size_t>(row)];
            if (input.served) input.skillset = input.served->shared();
            input.sampling.max_tokens = o.answer + 1;
            input.sampling.ignore_eos = true;
            rows.push_back(std::make_shared<GenerationRow>(*backbone, std::move(input)));
        }
        for (const auto& row : rows) batch.add(row);
        const auto begin = Clock::now();
        batch.step();
        const double read = seconds_since(begin);
        while (!batch.empty()) batch.step();
        const double all = seconds_since(begin);
        for (const auto& row : rows)
            if (row->error) std::rethrow_exception(row->error);
        if (repeat == 0) continue;
        prompt_seconds.push_back(read);
        decode_seconds.push_back(all - read);
        tokens = rows.front()->tokens;
    }
    std::printf("%s\n", Json{{"name", "polyad"},
                             {"skills", o.skills},
                             {"dtype", backbone->compute_dtype() == at::kFloat ? "float32" : "bfloat16"},
                             {"rows", o.count},
                             {"prompt", o.prompt},
                             {"answer", o.answer},
                             {"threads", at::get_num_threads()},
                             {"prompt_seconds", prompt_seconds},
                             {"decode_seconds", decode_seconds},
                             {"peak_rss", status_bytes("VmHWM")},
                             {"tokens", tokens}}
                            .dump()
                            .c_str());
    return 0;
}

}  // namespace

int main(int argc, char** argv) try {
    Options o;
    CLI::App app{"Prompt reading and decoding, timed"};
    app.add_option("--model", o.model)->required();
    app.add_option("--rows", o.rows, "What train_bench --write-rows wrote")->required();
    app.add_option(
        "--skills", o.skills,
        "none; lora-each (every row its own LoRA skillset); or a method: one skillset, a task per row");
    app.add_option("--config", o.config, "More of the method's configuration, JSON");
    app.add_option("--precision", o.precision);
    app.add_option("--weights", o.weights);
    app.add_option("--count", o.count, "Rows");
    app.add_option("--prompt", o.prompt, "Tokens of each prompt");
    app.add_option("--answer", o.answer, "Tokens decoded after the prompt's own");
    app.add_option("--rank", o.rank);
    app.add_option("--repeats", o.repeats);
    app.add_option("--threads", o.threads);
    CLI11_PARSE(app, argc, argv);
    int result = 0;
    ComputeThread(o.threads).run([&] { result = run(o); });  // as behind the C API
    return result;
} catch (const Error& e) {
    std::fprintf(stderr, "generate_bench: %s\n", e.what());
    return 1;
}
