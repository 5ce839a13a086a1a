// SPDX-License-Identifier: Apache-2.0
#include "common.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <sstream>

namespace cli {

std::atomic<bool> stop_requested{false};

Failure::Failure(int32_t code, std::string message, std::string detail)
    : code_(code), message_(std::move(message)), detail_(std::move(detail)) {}

void check(polyad_status* status) {
    if (!status) return;
    Failure failure(polyad_status_code(status), polyad_status_message(status), polyad_status_detail(status));
    polyad_status_release(status);
    throw failure;
}

int exit_code(int32_t code) {
    switch (code) {
        case POLYAD_OK:
            return success;
        case POLYAD_INVALID_ARGUMENT:
        case POLYAD_INVALID_CONFIG:
        case POLYAD_WRONG_STATE:
            return wrong_usage;
        case POLYAD_NOT_FOUND:
        case POLYAD_IO_ERROR:
            return missing_file;
        case POLYAD_BAD_FORMAT:
        case POLYAD_BAD_DATA:
        case POLYAD_UNKNOWN_TASK:
        case POLYAD_CONTEXT_OVERFLOW:
            return bad_input;
        case POLYAD_UNSUPPORTED:
        case POLYAD_BACKBONE_MISMATCH:
            return wrong_match;
        case POLYAD_NUMERIC_ERROR:
            return numeric;
        case POLYAD_OUT_OF_MEMORY:
            return no_memory;
        case POLYAD_CANCELLED:
            return interrupted;
        default:
            return unexpected;
    }
}

void add_new_tasks(polyad_skillset* skills, const polyad_dataset* data, const std::string& start) {
    const Json known = json_of(polyad_skillset_info, static_cast<const polyad_skillset*>(skills))["tasks"];
    const Json wanted = json_of(polyad_dataset_info, data)["tasks"];
    for (const Json& task : wanted) {
        const auto same = [&](const Json& k) { return k["name"] == task["name"]; };
        if (std::any_of(known.begin(), known.end(), same)) continue;
        check(polyad_skillset_add_task(skills, data, task["name"].get<std::string>().c_str(), start.c_str()));
    }
}

void Common::add_to(CLI::App& app, bool needs_model) {
    auto* option = app.add_option("-m,--model", model, "The backbone: a GGUF file or a Hugging Face folder");
    if (needs_model) option->required();
    app.add_option("--device", device, "Where to compute: cpu, cuda or cuda:N");
    app.add_option("--precision", precision,
                   "Arithmetic: auto, fp32 or bf16 (auto: bf16 where the device is fast at it)");
    app.add_option("--weights", weights, "Quantised weights: auto, packed (small) or expanded (fast)");
    app.add_option("-j,--threads", threads, "Worker threads; 0 = all cores");
    app.add_flag("--json", json, "Print one JSON document instead of text");
    app.add_flag("-q,--quiet", quiet, "No progress lines");
}

context_ptr Common::open_context() const {
    polyad_context_options options;
    polyad_context_options_init(&options);
    options.threads = threads;
    options.device = device.c_str();
    return make<context_ptr>(polyad_context_create, &options);
}

backbone_ptr Common::open_model(polyad_context* context) const {
    const std::string options = Json{{"precision", precision}, {"weights", weights}}.dump();
    return make<backbone_ptr>(polyad_backbone_open, context, model.c_str(), options.c_str());
}

std::string duration(double seconds) {
    if (!std::isfinite(seconds) || seconds < 0) return "?";
    char out[32];
    const long s = std::lround(seconds);
    if (s >= 3600)
        std::snprintf(out, sizeof out, "%ldh%02ldm", s / 3600, s / 60 % 60);
    else if (s >= 60)
        std::snprintf(out, sizeof out, "%ldm%02lds", s / 60, s % 60);
    else
        std::snprintf(out, sizeof out, "%lds", s);
    return out;
}

ProgressLine::ProgressLine(bool enabled, std::string title)
    : enabled_(enabled), terminal_(isatty(fileno(stderr)) != 0), title_(std::move(title)) {}

ProgressLine::~ProgressLine() {
    finish();
}

void ProgressLine::show(const polyad_progress& p, const char* unit, bool with_loss) {
    if (!enabled_) return;
    const auto now = std::chrono::steady_clock::now();
    const double gap = terminal_ ? 0.1 : 5.0;
    if (last_.time_since_epoch().count() && !p.done &&
        std::chrono::duration<double>(now - last_).count() < gap)
        return;
    last_ = now;
    char line[256];
    int n = std::snprintf(line, sizeof line, "%s  %lld/%lld %s", title_.c_str(),
                          static_cast<long long>(p.step), static_cast<long long>(p.total_steps), unit);
    if (with_loss) n += std::snprintf(line + n, sizeof line - n, "  loss %.3f", p.loss);
    if (with_loss && std::isfinite(p.validation_loss))
        n += std::snprintf(line + n, sizeof line - n, "  validation %.3f", p.validation_loss);
    if (with_loss) n += std::snprintf(line + n, sizeof line - n, "  lr %.1e", p.learning_rate);
    if (p.tokens_per_second > 0)
        n += std::snprintf(line + n, sizeof line - n, "  %.0f tokens/s", p.tokens_per_second);
    std::snprintf(line + n, sizeof line - n, "  %s left", duration(p.seconds_left).c_str());
    if (terminal_) {
        constexpr int width = 24;
        std::string bar(width, '.');
        const double part =
            p.total_steps ? static_cast<double>(p.step) / static_cast<double>(p.total_steps) : 0;
        for (int i = 0; i < width && i < part * width; ++i) bar[i] = '#';
        std::fprintf(stderr, "\r\033[K[%s] %s", bar.c_str(), line);
        open_ = true;
    } else {
        std::fprintf(stderr, "%s\n", line);
    }
    std::fflush(stderr);
}

void ProgressLine::finish() {
    if (open_) std::fputc('\n', stderr);
    open_ = false;
}

Json json_argument(const std::string& argument, const char* what) {
    if (argument.empty()) return Json::object();
    std::string source = argument;
    if (argument[0] != '{') {
        std::ifstream file(argument);
        if (!file)
            throw Failure(POLYAD_NOT_FOUND, std::string("cannot read ") + what + " file '" + argument + "'",
                          argument);
        std::stringstream all;
        all << file.rdbuf();
        source = all.str();
    }
    Json value = Json::parse(source, nullptr, false);
    if (!value.is_object())
        throw Failure(POLYAD_INVALID_CONFIG, std::string(what) + " is not a JSON object", argument);
    return value;
}

void watch_interrupt() {
    std::signal(SIGINT, [](int) {
        if (stop_requested.exchange(true)) _exit(interrupted);
    });
}

}  // namespace cli
