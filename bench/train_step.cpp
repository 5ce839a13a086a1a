// SPDX-License-Identifier: Apache-2.0
// train_bench: forward, backward and AdamW step on the rows the peers get, and in the same process the bound:
// the frozen weights' GEMMs alone (forward and input gradient of every linear, and the output head on answer
// rows). Prints one JSON line in the form of peers/peft_train.py.
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>
#include <malloc.h>
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <map>

#include "backbone/buffer_pool.h"
#include "backbone/compute_thread.h"
#include "backbone/frozen_gemm.h"
#include "base/bytes.h"
#include "base/error.h"
#include "data/prompt.h"
#include "data/sampler.h"
#include "routing/skillset.h"
#include "training/optimiser.h"
#include "training/packed_forward.h"

using namespace polyad;
using Clock = std::chrono::steady_clock;

namespace {

struct Options {
    std::string model, rows, write_rows, tasks, method = "lora", config = "{}", precision = "auto";
    int rank = 0, steps = 3, warmup = 1, threads = 0, count = 8, target_tokens = 900, drawn = -1,
        draw_tasks = 0;
    int64_t activation_mib = 0;
    bool share = true, profile = false, list_methods = false;
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
    const auto add = [&](const EncodedExample& example, size_t task) {
        std::vector<int32_t> tokens = example.prompt;
        tokens.insert(tokens.end(), example.answer.begin(), example.answer.end());
        rows.push_back({{"tokens", tokens}, {"prompt", example.prompt.size()}, {"task", task}});
    };
    if (o.drawn >= 0) {
        std::map<int, size_t> number;  // tasks in the batch, in order of appearance
        std::vector<Task> chosen = data.tasks();
        if (o.draw_tasks > 0) chosen.resize(std::min(chosen.size(), static_cast<size_t>(o.draw_tasks)));
        Sampler sampler(chosen, Split::train,
                        {SamplingStrategy::proportional, 2.0, static_cast<uint64_t>(o.drawn)});
        for (const Draw& draw : sampler.next(o.count)) {
            const Task& task = chosen[static_cast<size_t>(draw.task)];
            const Example& example = task.examples(Split::train)[static_cast<size_t>(draw.example)];
            add(encoder.encode(task, example.input, example.outputs[static_cast<size_t>(draw.output)]),
                number.try_emplace(draw.task, number.size()).first->second);
        }
        write_file_atomically(o.write_rows, Json{{"rows", rows}}.dump());
        return;
    }
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
        add(best, rows.size());
    }
    write_file_atomically(o.write_rows, Json{{"rows", rows}}.dump());
}

int64_t high_water_mark() {
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);)
        if (line.rfind("VmHWM", 0) == 0) return std::stoll(line.substr(6)) * 1024;
    return 0;
}

int64_t page_faults() {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_minflt;
}

/// The method's own defaults, --rank and --config over them; what a method cannot do without is made here.
std::shared_ptr<Skillset> make_skillset(const Options& o, const std::shared_ptr<const Backbone>& backbone,
                                        const std::vector<Task>& tasks) {
    Json config = parse_json(o.config, "--config");
    config["method"] = o.method;
    if (o.rank > 0) config["rank"] = o.rank;
    if (o.method == "pemt" && !config.contains("sources")) {
        const std::string path = o.rows + ".pemt_source.polyad";
        Skillset::create(backbone, tasks, {{"method", "pemt_source"}})->save(path);
        config["sources"] = Json::array({path});
    }
    return Skillset::create(backbone, tasks, config);
}

double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values.empty() ? 0.0 : values[values.size() / 2];
}

/// Seconds of the GEMMs nobody can avoid, by LibTorch's products and by our own.
struct Bound {
    double libtorch = 0, own = 0;
};

Bound gemm_bound(const Backbone& backbone, int64_t tokens, int64_t answers) {
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
    const auto best_of = [](auto&& both) {
        double best = 1e30;
        for (int i = 0; i < 4; ++i) {
            const auto begin = Clock::now();
            both();
            best = std::min(best, seconds_since(begin));
        }
        return best;
    };
    Bound bound;
    for (const Gemm& g : gemms) {
        bound.libtorch += g.times * best_of([&] {
                              at::mm(g.x, g.w.t());
                              at::mm(g.dy, g.w);
                          });
        bound.own += g.times * best_of([&] {
                         at::Tensor y = at::empty_like(g.dy), dx = at::empty_like(g.x);
                         multiply_rows(y, g.x, g.w, Way::forward, false);
                         multiply_rows(dx, g.dy, g.w, Way::backward, false);
                     });
    }
    return bound;
}

int run(const Options& o) {
    const Json file = parse_json(Bytes::map_file(o.rows).text(), o.rows);
    std::vector<TrainingRow> rows;
    int64_t tokens = 0, inputs = 0, answers = 0;
    int tasks = 0;
    for (const Json& row : file.at("rows")) {
        const auto ids = row.at("tokens").get<std::vector<int32_t>>();
        const auto prompt = row.at("prompt").get<std::ptrdiff_t>();
        TrainingRow& out = rows.emplace_back();
        out.example = std::make_shared<const EncodedExample>(
            EncodedExample{{ids.begin(), ids.begin() + prompt}, {ids.begin() + prompt, ids.end()}, 0});
        out.task = row.at("task").get<int>();
        tasks = std::max(tasks, out.task + 1);
        tokens += static_cast<int64_t>(ids.size());
        inputs += out.tokens();
        answers += static_cast<int64_t>(out.example->answer.size());
    }

    const auto backbone = open_backbone(o);
    std::vector<Task> names(static_cast<size_t>(tasks));
    for (int t = 0; t < tasks; ++t) {
        names[static_cast<size_t>(t)].name = text("task", t);
        names[static_cast<size_t>(t)].instruction = text("Do what task ", t, " asks for, in a few words.");
    }
    const auto skillset = make_skillset(o, backbone, names);
    Method& method = skillset->method();
    Optimiser optimiser(method.parameters(), {});
    Generator noise(1);

    malloc_trim(0);
    std::ofstream("/proc/self/clear_refs") << "5";
    std::vector<double> seconds, forward_seconds, backward_seconds, update_seconds;
    double loss = 0;
    int64_t faults = 0, taken = 0, computed = 0;
    for (int step = 0; step < o.warmup + o.steps; ++step) {
        if (step == o.warmup) {
            faults = page_faults();
            taken = buffer_use().taken_from_system;
        }
        const auto begin = Clock::now();
        double forward_time = 0, backward_time = 0;
        loss = 0;
        computed = 0;
        const ForwardPlan plan = plan_forwards(*backbone, method, rows, o.share, o.activation_mib << 20);
        for (const auto& part : plan.parts) {  // as the trainer
            const auto start = Clock::now();
            PackedForward forward(*backbone, method, part, Mode::train, &noise, o.share);
            forward.activation_bytes = plan.activation_bytes;
            const auto adaptation = method.adapt(forward.route);
            at::Tensor objective =
                forward.answer_nll(*backbone, *adaptation, 0.0).sum() / static_cast<double>(answers);
            loss += objective.item<double>();
            if (const at::Tensor extra = method.auxiliary_loss(*adaptation); extra.defined())
                objective =
                    objective + extra * (static_cast<double>(part.size()) / static_cast<double>(rows.size()));
            const auto middle = Clock::now();
            objective.backward();
            forward_time += std::chrono::duration<double>(middle - start).count();
            backward_time += seconds_since(middle);
            computed += forward.batch.size();
        }
        const auto end = Clock::now();
        optimiser.step(1.0, 1.0);
        optimiser.clear_gradients();
        method.parameters_changed();
        if (step < o.warmup) continue;
        seconds.push_back(seconds_since(begin));
        forward_seconds.push_back(forward_time);
        backward_seconds.push_back(backward_time);
        update_seconds.push_back(seconds_since(end));
    }
    faults = (page_faults() - faults) / std::max(1, o.steps);
    taken = (buffer_use().taken_from_system - taken) / std::max(1, o.steps);
    const int64_t peak = high_water_mark();
    int64_t parameters = 0;
    for (const Parameter& p : method.parameters()) parameters += p.trainable ? p.value.numel() : 0;
    const Bound bound = o.profile ? Bound{} : gemm_bound(*backbone, inputs, answers);
    std::printf("%s\n", Json{{"name", "polyad-" + o.method},
                             {"dtype", backbone->compute_dtype() == at::kFloat ? "float32" : "bfloat16"},
                             {"rows", rows.size()},
                             {"tokens", tokens},
                             {"computed_tokens", computed},
                             {"threads", at::get_num_threads()},
                             {"seconds", seconds},
                             {"forward_seconds", median(forward_seconds)},
                             {"backward_seconds", median(backward_seconds)},
                             {"update_seconds", median(update_seconds)},
                             {"page_faults_per_step", faults},
                             {"pool_bytes_taken_per_step", taken},
                             {"trained_parameters", parameters},
                             {"gemm_bound_seconds", bound.libtorch},
                             {"own_gemm_seconds", bound.own},
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
    app.add_option("--model", o.model);
    app.add_flag("--list-methods", o.list_methods, "Print the methods there are and stop");
    app.add_option("--rows", o.rows);
    app.add_option("--write-rows", o.write_rows, "Write rows made from --tasks and stop");
    app.add_option("--tasks", o.tasks);
    app.add_option("--drawn", o.drawn, "With --write-rows: a batch as the trainer draws it with this seed");
    app.add_option("--draw-tasks", o.draw_tasks, "With --drawn: only the first so many tasks");
    app.add_option("--count", o.count, "With --write-rows: how many rows");
    app.add_option("--target-tokens", o.target_tokens, "With --write-rows: their tokens together, about");
    app.add_option("--method", o.method);
    app.add_option("--config", o.config, "Method options beyond the defaults, as JSON");
    app.add_option("--activation-memory-mib", o.activation_mib);
    app.add_flag("!--no-share", o.share, "Lay out every row whole");
    app.add_flag("--profile", o.profile, "Steps only, no bound: for a profiler");
    app.add_option("--precision", o.precision);
    app.add_option("--rank", o.rank);
    app.add_option("--steps", o.steps);
    app.add_option("--warmup", o.warmup);
    app.add_option("--threads", o.threads);
    CLI11_PARSE(app, argc, argv);
    if (o.list_methods) {
        for (const std::string& name : method_names()) std::printf("%s\n", name.c_str());
        return 0;
    }
    if (o.model.empty()) fail(Code::invalid_argument, "--model is missing");
    if (!o.write_rows.empty()) return write_rows(o), 0;
    int result = 0;
    ComputeThread(o.threads).run([&] { result = run(o); });  // as behind the C API
    return result;
} catch (const Error& e) {
    std::fprintf(stderr, "train_bench: %s\n", e.what());
    return 1;
}
