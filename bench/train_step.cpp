// SPDX-License-Identifier: Apache-2.0
// train_bench: forward, backward and AdamW step on the rows the peers get, and in the same process the bound:
// the frozen weights' GEMMs alone (forward and input gradient of every linear, and the output head on answer
// rows). Prints one JSON line in the form of peers/peft_train.py.
#include <ATen/Parallel.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>
#include <malloc.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <map>

#include "base/bytes.h"
#include "base/error.h"
#include "data/prompt.h"
#include "routing/skillset.h"
#include "training/optimiser.h"

using namespace polyad;
using Clock = std::chrono::steady_clock;

namespace {

struct Options {
    std::string model, rows, write_rows, tasks, method = "lora", precision = "auto";
    int rank = 8, steps = 3, warmup = 1, threads = 0, count = 8, target_tokens = 900;
};

double seconds_since(Clock::time_point begin) {
    return std::chrono::duration<double>(Clock::now() - begin).count();
}

std::shared_ptr<const Backbone> open_backbone(const Options& o) {
    return Backbone::open(std::filesystem::path(o.model),
                          BackboneOptions::from_json({{"precision", o.precision}}));
}

/// One training row of each of the `count` tasks with the shortest definitions, near the wished total.
void write_rows(const Options& o) {
    const auto backbone = open_backbone(o);
    const PromptEncoder encoder(backbone->tokenizer(), PromptFormat{});
    const Dataset data = Dataset::open(o.tasks);
    std::vector<Task> tasks = data.tasks();
    std::stable_sort(tasks.begin(), tasks.end(), [](const Task& a, const Task& b) {
        return a.instruction.size() < b.instruction.size();
    });
    Json rows = Json::array();
    const int mean = o.target_tokens / o.count;
    for (const Task& task : tasks) {
        if (static_cast<int>(rows.size()) == o.count) break;
        const auto& examples = task.examples(Split::train);
        EncodedExample best;
        int distance = INT32_MAX;
        // Lengths from half to one and a half times the mean, so that the batch is truly ragged.
        const int wish = mean / 2 + mean * static_cast<int>(rows.size()) / (o.count - 1);
        for (size_t i = 0; i < examples.size() && i < 60; ++i) {
            EncodedExample row = encoder.encode(task, examples[i].input, examples[i].outputs.front());
            const int length = static_cast<int>(row.prompt.size() + row.answer.size());
            if (std::abs(length - wish) >= distance) continue;
            distance = std::abs(length - wish);
            best = std::move(row);
        }
        if (distance == INT32_MAX) continue;
        std::vector<int32_t> tokens = best.prompt;
        tokens.insert(tokens.end(), best.answer.begin(), best.answer.end());
        rows.push_back({{"tokens", tokens}, {"prompt", best.prompt.size()}, {"task", rows.size()}});
    }
    write_file_atomically(o.write_rows, Json{{"rows", rows}}.dump());
}

int64_t high_water_mark() {
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);)
        if (line.rfind("VmHWM", 0) == 0) return std::stoll(line.substr(6)) * 1024;
    return 0;
}

/// Seconds of the GEMMs nobody can avoid.
double gemm_bound(const Backbone& backbone, int64_t tokens, int64_t answers) {
    const auto options = at::TensorOptions().dtype(backbone.compute_dtype());
    struct Gemm {
        at::Tensor w, x, dy;
        int times;
    };
    std::map<std::pair<int64_t, int64_t>, int> shapes;
    for (const Site& site : backbone.sites()) ++shapes[{site.d_out, site.d_in}];
    std::vector<Gemm> gemms;
    for (const auto& [shape, times] : shapes)
        gemms.push_back({at::randn({shape.first, shape.second}, options),
                         at::randn({tokens, shape.second}, options),
                         at::randn({tokens, shape.first}, options), times});
    const BackboneInfo& info = backbone.info();
    gemms.push_back({at::randn({info.vocab, info.width}, options), at::randn({answers, info.width}, options),
                     at::randn({answers, info.vocab}, options), 1});
    double total = 0;
    for (const Gemm& g : gemms) {
        double best = 1e30;
        for (int i = 0; i < 4; ++i) {
            const auto begin = Clock::now();
            at::mm(g.x, g.w.t());
            at::mm(g.dy, g.w);
            best = std::min(best, seconds_since(begin));
        }
        total += best * g.times;
    }
    return total;
}

int run(const Options& o) {
    const Json file = parse_json(Bytes::map_file(o.rows).text(), o.rows);
    std::vector<EncodedExample> examples;
    std::vector<const EncodedExample*> pointers;
    RouteInput route;
    int64_t tokens = 0;
    int tasks = 0;
    for (const Json& row : file.at("rows")) {
        const auto ids = row.at("tokens").get<std::vector<int32_t>>();
        const auto prompt = row.at("prompt").get<std::ptrdiff_t>();
        examples.push_back({{ids.begin(), ids.begin() + prompt}, {ids.begin() + prompt, ids.end()}, 0});
        route.task_ids.push_back(row.at("task").get<int>());
        tasks = std::max(tasks, route.task_ids.back() + 1);
        tokens += static_cast<int64_t>(ids.size());
    }
    for (const EncodedExample& e : examples) pointers.push_back(&e);
    const Batch batch = pack(pointers);
    route.row_begin = batch.row_begin;
    route.prompt_length = batch.prompt_length;
    route.mode = Mode::train;
    Generator noise(1);
    route.noise = &noise;

    const auto backbone = open_backbone(o);
    std::vector<Task> names(static_cast<size_t>(tasks));
    for (int t = 0; t < tasks; ++t) names[static_cast<size_t>(t)].name = text("task", t);
    const auto skillset = Skillset::create(backbone, names, {{"method", o.method}, {"rank", o.rank}});
    Optimiser optimiser(skillset->method().parameters(), {});
    std::vector<int64_t> positions;
    std::vector<int32_t> targets;
    for (int i = 0; i < batch.size(); ++i)
        if (batch.targets[static_cast<size_t>(i)] >= 0) {
            positions.push_back(i);
            targets.push_back(batch.targets[static_cast<size_t>(i)]);
        }
    const at::Tensor index =
        at::from_blob(positions.data(), {static_cast<int64_t>(positions.size())}, at::kLong).clone();

    malloc_trim(0);
    std::ofstream("/proc/self/clear_refs") << "5";
    std::vector<double> seconds;
    double loss = 0;
    for (int step = 0; step < o.warmup + o.steps; ++step) {
        const auto begin = Clock::now();
        const auto adaptation = skillset->method().adapt(route);
        ForwardOptions forward;
        forward.adaptation = adaptation.get();
        const at::Tensor hidden = backbone->hidden(batch, forward).index_select(0, index);
        const at::Tensor mean = backbone->token_nll(hidden, targets).mean();
        mean.backward();
        optimiser.step(1.0, 1.0);
        optimiser.clear_gradients();
        skillset->method().parameters_changed();
        loss = mean.item<double>();
        if (step >= o.warmup) seconds.push_back(seconds_since(begin));
    }
    const int64_t peak = high_water_mark();
    const double bound = gemm_bound(*backbone, batch.size(), static_cast<int64_t>(targets.size()));
    std::printf("%s\n", Json{{"name", "polyad-" + o.method},
                             {"dtype", backbone->compute_dtype() == at::kFloat ? "float32" : "bfloat16"},
                             {"rows", batch.rows()},
                             {"tokens", tokens},
                             {"threads", at::get_num_threads()},
                             {"seconds", seconds},
                             {"gemm_bound_seconds", bound},
                             {"peak_rss", peak},
                             {"loss", loss}}
                            .dump()
                            .c_str());
    return 0;
}

}  // namespace

int main(int argc, char** argv) try {
    Options o;
    CLI::App app{"One training setting, timed"};
    app.add_option("--model", o.model)->required();
    app.add_option("--rows", o.rows);
    app.add_option("--write-rows", o.write_rows, "Write rows made from --tasks and stop");
    app.add_option("--tasks", o.tasks);
    app.add_option("--method", o.method);
    app.add_option("--precision", o.precision);
    app.add_option("--rank", o.rank);
    app.add_option("--steps", o.steps);
    app.add_option("--warmup", o.warmup);
    app.add_option("--threads", o.threads);
    CLI11_PARSE(app, argc, argv);
    if (o.threads > 0) at::set_num_threads(o.threads);
    if (!o.write_rows.empty()) return write_rows(o), 0;
    return run(o);
} catch (const Error& e) {
    std::fprintf(stderr, "train_bench: %s\n", e.what());
    return 1;
}
