// SPDX-License-Identifier: Apache-2.0
// device_bench: training steps and decoding on one device, on the rows the peers get (bench/peers/cuda.py).
// Prints one JSON line per setting. Times end when the host has the step's loss or the step's tokens.
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>

#include "backbone/cuda.h"
#include "backbone/device.h"
#include "base/bytes.h"
#include "base/error.h"
#include "data/prompt.h"
#include "routing/skillset.h"
#include "serving/engine.h"
#include "training/optimiser.h"

using namespace polyad;
using Clock = std::chrono::steady_clock;

namespace {

struct Options {
    std::string model, rows, device = "cpu", precision = "bf16";
    std::vector<std::string> train, decode;
    int rank = 8, steps = 20, warmup = 5, prompt = 64, tokens = 128, batch = 8;
};

double seconds_since(Clock::time_point begin) {
    return std::chrono::duration<double>(Clock::now() - begin).count();
}

double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
}

void print(const Json& line) {
    std::printf("%s\n", line.dump().c_str());
    std::fflush(stdout);
}

std::vector<Task> named_tasks(int count) {
    std::vector<Task> tasks(static_cast<size_t>(count));
    for (int t = 0; t < count; ++t) tasks[static_cast<size_t>(t)].name = text("task", t);
    return tasks;
}

/// The frozen weights' products alone, forward and input gradient of every linear, all tokens at once.
double gemm_bound(const Backbone& backbone, int64_t tokens, int64_t answers) {
    const auto options = at::TensorOptions().dtype(backbone.compute_dtype()).device(backbone.device());
    std::vector<std::pair<int64_t, int64_t>> shapes;
    for (const Site& site : backbone.sites()) shapes.emplace_back(site.d_out, site.d_in);
    std::vector<at::Tensor> w, x, dy;
    for (const auto& [out, in] : shapes) {
        w.push_back(at::randn({out, in}, options));
        x.push_back(at::randn({tokens, in}, options));
        dy.push_back(at::randn({tokens, out}, options));
    }
    w.push_back(at::randn({backbone.info().vocab, backbone.info().width}, options));
    x.push_back(at::randn({answers, backbone.info().width}, options));
    dy.push_back(at::randn({answers, backbone.info().vocab}, options));
    double best = 1e30;
    for (int i = 0; i < 6; ++i) {
        wait_for(backbone.device());
        const auto begin = Clock::now();
        for (size_t k = 0; k < w.size(); ++k) {
            at::mm(x[k], w[k].t());
            at::mm(dy[k], w[k]);
        }
        wait_for(backbone.device());
        best = std::min(best, seconds_since(begin));
    }
    return best;
}

struct TrainingBatch {
    std::vector<EncodedExample> examples;
    Batch batch;
    RouteInput route;
    std::vector<int64_t> positions;
    std::vector<int32_t> targets;
    int tasks = 0;

    explicit TrainingBatch(const std::string& file) {
        const Json json = parse_json(Bytes::map_file(file).text(), file);
        for (const Json& row : json.at("rows")) {
            const auto ids = row.at("tokens").get<std::vector<int32_t>>();
            const auto prompt = row.at("prompt").get<std::ptrdiff_t>();
            examples.push_back({{ids.begin(), ids.begin() + prompt}, {ids.begin() + prompt, ids.end()}, 0});
            route.task_ids.push_back(row.at("task").get<int>());
            tasks = std::max(tasks, route.task_ids.back() + 1);
        }
        std::vector<const EncodedExample*> pointers;
        for (const EncodedExample& e : examples) pointers.push_back(&e);
        batch = pack(pointers);
        route.row_begin = batch.row_begin;
        route.prompt_length = batch.prompt_length;
        route.mode = Mode::train;
        for (int i = 0; i < batch.size(); ++i)
            if (const int32_t target = batch.targets[static_cast<size_t>(i)]; target >= 0) {
                positions.push_back(i);
                targets.push_back(target);
            }
    }
};

void train(const std::shared_ptr<const Backbone>& backbone, const Options& o, const std::string& method) {
    TrainingBatch data(o.rows);
    Generator noise(1);
    data.route.noise = &noise;
    const auto skills =
        Skillset::create(backbone, named_tasks(data.tasks), {{"method", method}, {"rank", o.rank}});
    Optimiser optimiser(skills->method().parameters(), {});
    const at::Tensor index = device_list(data.positions, backbone->device());
    std::vector<double> seconds, forward_seconds;
    double first = 0, loss = 0;
    for (int step = 0; step < o.warmup + o.steps; ++step) {
        const auto begin = Clock::now();
        const auto adaptation = skills->method().adapt(data.route);
        ForwardOptions forward;
        forward.adaptation = adaptation.get();
        const at::Tensor hidden = backbone->hidden(data.batch, forward).index_select(0, index);
        const at::Tensor mean = backbone->token_nll(hidden, data.targets).mean();
        run_backward(mean);
        optimiser.gradient_norm();  // as the trainer does, for clipping
        optimiser.step(1.0, 1.0);
        optimiser.clear_gradients();
        skills->method().parameters_changed();
        loss = mean.item<double>();
        wait_for(backbone->device());
        if (step == 0) first = loss;
        if (step >= o.warmup) seconds.push_back(seconds_since(begin));
    }
    const double step_seconds = median(seconds);
    const double bound = gemm_bound(*backbone, data.batch.size(), static_cast<int64_t>(data.targets.size()));
    print({{"what", "train"},
           {"method", method},
           {"tokens", data.batch.size()},
           {"seconds", step_seconds},
           {"tokens_per_second", data.batch.size() / step_seconds},
           {"gemm_bound_seconds", bound},
           {"of_gemm_bound", bound / step_seconds},
           {"loss_first", first},
           {"loss_last", loss}});
}

/// base, one (one adapter for all rows), mixed (a task per row) over `batch` rows; base1 and one1 with one
/// row.
void decode(const std::shared_ptr<const Backbone>& backbone, const Options& o, const std::string& setting) {
    const bool alone = setting.ends_with("1");
    const int rows = alone ? 1 : o.batch;
    std::shared_ptr<Skillset> skills;
    if (!setting.starts_with("base")) {
        skills = Skillset::create(backbone, named_tasks(o.batch), {{"method", "poly"}, {"rank", o.rank}});
        Generator random(5);
        for (const Parameter& p : skills->method().parameters()) {
            at::Tensor value = at::empty(p.value.sizes(), at::TensorOptions().dtype(at::kFloat));
            random.fill_normal(value.mutable_data_ptr<float>(), static_cast<size_t>(value.numel()), 0.0,
                               0.02);
            p.value.detach().copy_(value);
        }
        skills->method().parameters_changed();
    }
    EngineOptions limits;
    limits.max_batch = rows;
    limits.max_context = o.prompt + o.tokens + 32;
    limits.prefix_cache = false;
    Engine engine(backbone, limits);
    if (skills) engine.publish("skills", *skills);
    Generator random(3);
    std::vector<RequestOptions> requests;
    for (int row = 0; row < rows; ++row) {
        RequestOptions request;
        if (skills) {
            request.skillset = "skills";
            request.task = skills->tasks()[static_cast<size_t>(setting.starts_with("mixed") ? row : 0)].name;
        }
        for (int i = 0; i < o.prompt; ++i)
            request.tokens.push_back(
                static_cast<int32_t>(random.below(static_cast<uint64_t>(backbone->info().vocab))));
        request.sampling.ignore_eos = true;
        requests.push_back(std::move(request));
    }
    const auto answer = [&](int tokens) {
        std::vector<std::shared_ptr<Request>> running;
        for (RequestOptions& request : requests) {
            request.sampling.max_tokens = tokens;
            running.push_back(engine.submit(request));
        }
        while (engine.step() > 0) {
        }
        return running.front()->result().tokens;
    };
    answer(o.tokens);  // warm
    std::vector<double> seconds, prompt_seconds;
    std::vector<int32_t> tokens;
    for (int i = 0; i < 3; ++i) {
        auto begin = Clock::now();
        answer(1);
        prompt_seconds.push_back(seconds_since(begin));
        begin = Clock::now();
        tokens = answer(o.tokens);
        seconds.push_back(seconds_since(begin));
    }
    const double all = median(seconds), prompt = median(prompt_seconds);
    print({{"what", "decode"},
           {"setting", setting},
           {"rows", rows},
           {"prompt", o.prompt},
           {"new_tokens", o.tokens},
           {"seconds", all},
           {"prompt_seconds", prompt},
           {"tokens_per_second", rows * o.tokens / all},
           {"graph_steps", engine.stats().at("graph_steps").get<double>() /
                               std::max(1.0, engine.stats().at("steps").get<double>())},
           {"milliseconds_per_step", 1e3 * (all - prompt) / std::max(1, o.tokens - 1)},
           {"first_tokens",
            std::vector<int32_t>(tokens.begin(),
                                 tokens.begin() + std::min<std::ptrdiff_t>(8, std::ssize(tokens)))}});
}

}  // namespace

int main(int argc, char** argv) try {
    Options o;
    CLI::App app{"Training steps and decoding on one device"};
    app.add_option("--model", o.model, "Hugging Face folder or GGUF file")->required();
    app.add_option("--rows", o.rows, "{\"rows\": [{\"tokens\": [...], \"prompt\": n, \"task\": i}]}");
    app.add_option("--device", o.device, "cpu, cuda or cuda:N");
    app.add_option("--precision", o.precision);
    app.add_option("--train", o.train, "Methods to train")->delimiter(',');
    app.add_option("--decode", o.decode, "base1, one1, base, one, mixed")->delimiter(',');
    app.add_option("--rank", o.rank);
    app.add_option("--steps", o.steps);
    app.add_option("--warmup", o.warmup);
    app.add_option("--prompt", o.prompt);
    app.add_option("--tokens", o.tokens);
    app.add_option("--batch", o.batch);
    CLI11_PARSE(app, argc, argv);
    BackboneOptions options = BackboneOptions::from_json({{"precision", o.precision}});
    options.device = open_device(o.device);
    const auto backbone = Backbone::open(std::filesystem::path(o.model), options);
    int failed = 0;
    const auto each = [&](const std::vector<std::string>& list, const auto& run) {
        for (const std::string& name : list) try {
                run(backbone, o, name);
            } catch (const std::exception& e) {
                print(
                    {{"what", "error"}, {"setting", name}, {"error", std::string(e.what()).substr(0, 400)}});
                failed = 1;
            }
    };
    each(o.train, train);
    each(o.decode, decode);
    return failed;
} catch (const std::exception& e) {
    std::fprintf(stderr, "device_bench: %s\n", e.what());
    return 1;
}
