// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <fstream>
#include <iostream>

#include "common.h"

namespace cli {
namespace {

using Clock = std::chrono::steady_clock;

double milliseconds(Clock::time_point from, Clock::time_point to) {
    return std::chrono::duration<double, std::milli>(to - from).count();
}

struct Row {
    std::string task, prompt;
    std::vector<float> weights;
    request_ptr request;
    std::string answer;
    int32_t state = POLYAD_REQUEST_WAITING;
};

struct Generate {
    Common common;
    std::string bundle, task, prompt, batch;
    std::vector<float> weights;
    std::vector<std::string> stop;
    int max_tokens = 64, top_k = 0;
    float temperature = 0, top_p = 1, repetition_penalty = 1;
    uint64_t seed = 0;

    std::vector<Row> rows() const;
    int run() const;
};

std::vector<Row> Generate::rows() const {
    std::vector<Row> out;
    if (batch.empty()) {
        out.push_back({task, prompt, weights, nullptr, "", 0});
        return out;
    }
    std::ifstream file(batch);
    if (batch != "-" && !file) throw Failure(POLYAD_NOT_FOUND, "cannot read '" + batch + "'", batch);
    std::istream& in = batch == "-" ? std::cin : file;
    std::string line;
    for (int number = 1; std::getline(in, line); ++number) {
        if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
        const Json row = Json::parse(line, nullptr, false);
        if (!row.is_object() || !row.contains("prompt") || !row["prompt"].is_string() ||
            (row.contains("task") && !row["task"].is_string()))
            throw Failure(POLYAD_BAD_DATA, "a row needs {\"task\": ..., \"prompt\": ...}",
                          batch + ":" + std::to_string(number));
        out.push_back({row.value("task", task), row["prompt"].get<std::string>(), {}, nullptr, "", 0});
    }
    if (out.empty()) throw Failure(POLYAD_BAD_DATA, "no rows in '" + batch + "'", batch);
    return out;
}

int Generate::run() const {
    std::vector<Row> all = rows();
    const context_ptr context = common.open_context();
    const auto t0 = Clock::now();
    const backbone_ptr model = common.open_model(context.get());
    const auto t1 = Clock::now();
    const engine_ptr engine = make<engine_ptr>(polyad_engine_create, model.get(), nullptr);
    auto t2 = Clock::now(), t3 = t2;
    if (!bundle.empty()) {
        const skillset_ptr skills = make<skillset_ptr>(polyad_skillset_load, model.get(), bundle.c_str());
        t3 = Clock::now();
        check(polyad_engine_publish(engine.get(), "skills", skills.get()));
    }
    const auto t4 = Clock::now();

    std::vector<const char*> stops;
    for (const std::string& s : stop) stops.push_back(s.c_str());
    const auto before_submit = Clock::now();
    for (Row& row : all) {
        polyad_request_options o;
        polyad_request_options_init(&o);
        o.skillset = bundle.empty() ? nullptr : "skills";
        o.task = row.task.empty() ? nullptr : row.task.c_str();
        o.prompt = row.prompt.c_str();
        o.weights = row.weights.empty() ? nullptr : row.weights.data();
        o.weight_count = row.weights.size();
        o.max_tokens = max_tokens;
        o.temperature = temperature;
        o.top_k = top_k;
        o.top_p = top_p;
        o.repetition_penalty = repetition_penalty;
        o.seed = seed;
        o.stop = stops.data();
        o.stop_count = stops.size();
        row.request = make<request_ptr>(polyad_engine_submit, engine.get(), &o);
    }
    const auto after_submit = Clock::now();
    const bool stream = all.size() == 1 && !common.json;
    int32_t busy = 1;
    int steps = 0;
    while (busy > 0) {
        if (stop_requested)
            for (Row& row : all) polyad_request_cancel(row.request.get());
        check(polyad_engine_step(engine.get(), &busy));
        ++steps;
        for (Row& row : all) {
            if (row.state >= POLYAD_REQUEST_FINISHED) continue;
            polyad_text* piece = nullptr;
            check(polyad_request_poll(row.request.get(), &piece, &row.state));
            const text_ptr owned(piece);
            row.answer.append(polyad_text_data(piece), polyad_text_size(piece));
            if (stream) std::cout << polyad_text_data(piece) << std::flush;
        }
    }
    const auto t5 = Clock::now();
    if (stream) std::cout << "\n";

    Json results = Json::array();
    int64_t tokens = 0;
    for (Row& row : all) {
        Json result = json_of(polyad_request_result, static_cast<const polyad_request*>(row.request.get()));
        tokens += static_cast<int64_t>(result.value("tokens", Json::array()).size());
        results.push_back({{"task", row.task},
                           {"prompt", row.prompt},
                           {"answer", row.answer},
                           {"finish_reason", result["finish_reason"]}});
    }
    const double generation_ms = milliseconds(after_submit, t5);
    const double switch_ms = milliseconds(before_submit, after_submit) / static_cast<double>(all.size());
    const Json timing{{"open_model_ms", milliseconds(t0, t1)},
                      {"load_bundle_ms", milliseconds(t2, t3)},
                      {"publish_ms", milliseconds(t3, t4)},
                      {"switch_ms", switch_ms},
                      {"generate_ms", generation_ms},
                      {"rows", all.size()},
                      {"steps", steps},
                      {"new_tokens", tokens}};
    if (common.json) {
        std::printf("%s\n", Json{{"rows", results}, {"timing", timing}}.dump(2).c_str());
    } else if (!stream) {
        size_t width = 4;
        for (const Row& row : all) width = std::max(width, row.task.size());
        for (const Row& row : all)
            std::printf("%-*s  %s\n%*s  -> %s\n", static_cast<int>(width), row.task.c_str(),
                        row.prompt.c_str(), static_cast<int>(width), "", row.answer.c_str());
    }
    if (!common.json && !common.quiet) {
        std::fprintf(stderr, "model opened in %.0f ms; bundle loaded in %.0f ms and published in %.0f ms\n",
                     timing["open_model_ms"].get<double>(), timing["load_bundle_ms"].get<double>(),
                     timing["publish_ms"].get<double>());
        std::fprintf(stderr,
                     "%zu rows in one batch: %lld tokens in %.0f ms; naming another task costs a request "
                     "%.2f ms, prompt encoding included\n",
                     all.size(), static_cast<long long>(tokens), generation_ms, switch_ms);
    }
    return stop_requested ? interrupted : success;
}

}  // namespace

void add_generate(CLI::App& app, int& exit) {
    auto generate = std::make_shared<Generate>();
    CLI::App* sub = app.add_subcommand(
        "generate", "Answer one prompt, or a mixed batch in which every row names its task");
    generate->common.add_to(*sub, true);
    sub->add_option("-b,--bundle", generate->bundle, "Bundle to answer with; without it the backbone alone");
    sub->add_option("--task", generate->task, "Task of the prompt, or of batch rows that name none");
    auto* prompt = sub->add_option("prompt", generate->prompt, "The input, as in the task's examples");
    auto* batch =
        sub->add_option("--batch", generate->batch,
                        "JSON Lines {\"task\", \"prompt\"}, answered as one batch; - = standard input");
    prompt->excludes(batch);
    sub->add_option("--skill-weights", generate->weights, "Explicit skill weights instead of the router's")
        ->delimiter(',');
    sub->add_option("--max-tokens", generate->max_tokens, "Longest answer")->capture_default_str();
    sub->add_option("--temperature", generate->temperature, "0 = greedy")->capture_default_str();
    sub->add_option("--top-k", generate->top_k, "0 = off")->capture_default_str();
    sub->add_option("--top-p", generate->top_p, "1 = off")->capture_default_str();
    sub->add_option("--repetition-penalty", generate->repetition_penalty, "1 = off")->capture_default_str();
    sub->add_option("--seed", generate->seed, "For sampling")->capture_default_str();
    sub->add_option("--stop", generate->stop, "End before this text; may be repeated");
    sub->callback([generate, prompt, batch, &exit] {
        if (!*prompt && !*batch) throw CLI::RequiredError("prompt or --batch");
        exit = generate->run();
    });
}

}  // namespace cli
