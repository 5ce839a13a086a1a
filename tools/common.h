// SPDX-License-Identifier: Apache-2.0
// What the commands share: owned handles, errors as exit codes, progress lines.
#pragma once

#include <polyad/polyad.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

namespace cli {

using Json = nlohmann::json;

/// Exit codes, as `polyad --help` documents them.
enum Exit : int {
    success = 0,
    unexpected = 1,    ///< a bug, or an error with no better name
    wrong_usage = 2,   ///< options or configuration
    missing_file = 3,  ///< not found or not readable
    bad_input = 4,     ///< damaged file, unusable data, unknown task
    wrong_match = 5,   ///< unsupported model or type, bundle of another backbone
    numeric = 6,       ///< NaN while training or scoring
    no_memory = 7,
    interrupted = 130,  ///< Ctrl-C; what to do next is printed
};

/// A failed call; main() prints it and exits with the code's number.
class Failure : public std::exception {
  public:
    Failure(int32_t code, std::string message, std::string detail);
    const char* what() const noexcept override { return message_.c_str(); }
    int32_t code() const { return code_; }
    const std::string& detail() const { return detail_; }

  private:
    int32_t code_;
    std::string message_, detail_;
};

/// Throws Failure for anything but NULL.
void check(polyad_status* status);
int exit_code(int32_t code);

#define CLI_HANDLE(name)                                                                  \
    struct name##_deleter {                                                               \
        void operator()(polyad_##name* handle) const { polyad_##name##_release(handle); } \
    };                                                                                    \
    using name##_ptr = std::unique_ptr<polyad_##name, name##_deleter>
CLI_HANDLE(text);
CLI_HANDLE(context);
CLI_HANDLE(backbone);
CLI_HANDLE(dataset);
CLI_HANDLE(skillset);
CLI_HANDLE(trainer);
CLI_HANDLE(evaluator);
CLI_HANDLE(engine);
CLI_HANDLE(request);
#undef CLI_HANDLE

/// make<trainer_ptr>(polyad_trainer_create, skills, data, json): the call's last argument is the new handle.
template <class Pointer, class Call, class... Args>
Pointer make(Call call, Args... args) {
    typename Pointer::pointer raw = nullptr;
    check(call(args..., &raw));
    return Pointer(raw);
}

template <class Call, class... Args>
std::string text_of(Call call, Args... args) {
    const text_ptr text = make<text_ptr>(call, args...);
    return {polyad_text_data(text.get()), polyad_text_size(text.get())};
}

template <class Call, class... Args>
Json json_of(Call call, Args... args) {
    return Json::parse(text_of(call, args...));
}

/// Few-shot: tasks of the data that the bundle does not know get a row of their own. start: fresh, uniform.
void add_new_tasks(polyad_skillset* skills, const polyad_dataset* data, const std::string& start);

/// Options every command has.
struct Common {
    std::string model, device = "cpu", precision = "auto", weights = "auto";
    int threads = 0;
    bool json = false, quiet = false;

    void add_to(CLI::App& app, bool needs_model);
    context_ptr open_context() const;
    backbone_ptr open_model(polyad_context* context) const;
};

/// One line that repaints itself on a terminal and comes every few seconds in a pipe; nothing with --quiet or
/// --json.
class ProgressLine {
  public:
    ProgressLine(bool enabled, std::string title);
    ~ProgressLine();
    void show(const polyad_progress& p, const char* unit, bool with_loss);
    void finish();

  private:
    bool enabled_, terminal_, open_ = false;
    std::string title_;
    std::chrono::steady_clock::time_point last_{};
};

std::string duration(double seconds);
/// The text itself when it starts with '{', otherwise the contents of the file it names.
Json json_argument(const std::string& argument, const char* what);

/// Set by Ctrl-C; a second Ctrl-C ends the process at once.
extern std::atomic<bool> stop_requested;
void watch_interrupt();

void add_train(CLI::App& app, int& exit);
void add_eval(CLI::App& app, int& exit);
void add_generate(CLI::App& app, int& exit);
void add_inspect(CLI::App& app, int& exit);
void add_tasks(CLI::App& app, int& exit);
void add_import(CLI::App& app, int& exit);
void add_export(CLI::App& app, int& exit);
void add_derive(CLI::App& app, int& exit);
void add_report(CLI::App& app, int& exit);
void add_devices(CLI::App& app, int& exit);

}  // namespace cli
