// SPDX-License-Identifier: Apache-2.0
// C++17 sugar over polyad.h: handles that release themselves, statuses that throw. Nothing here is part of
// the ABI.
//
//     polyad::Context context;
//     polyad::Backbone model(context, "smollm2-135m.gguf");
//     polyad::Dataset tasks(context, "tasks/");
//     polyad::Skillset skills(model, tasks, R"({"method": "cpoly", "rank": 8})");
//     polyad::Trainer trainer(skills, tasks, R"({"epochs": 3})");
//     while (!trainer.step().done) {}
//     skills.save("words.polyad");
#ifndef POLYAD_POLYAD_HPP
#define POLYAD_POLYAD_HPP

#include <polyad/polyad.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace polyad {

/// A failed call: code() is one of polyad_code, detail() says where.
class Error : public std::runtime_error {
  public:
    Error(int32_t code, const char* message, const char* detail)
        : std::runtime_error(message), code_(code), detail_(detail) {}
    int32_t code() const noexcept { return code_; }
    const std::string& detail() const noexcept { return detail_; }

  private:
    int32_t code_;
    std::string detail_;
};

/// Throws Error for anything but NULL, and releases the status.
inline void check(polyad_status* status) {
    if (!status) return;
    Error error(polyad_status_code(status), polyad_status_message(status), polyad_status_detail(status));
    polyad_status_release(status);
    throw error;
}

/// Takes a text the library returned.
inline std::string take(polyad_text* text) {
    std::string out(polyad_text_data(text), polyad_text_size(text));
    polyad_text_release(text);
    return out;
}

/// A name, path or JSON text for the C interface, where NUL ends it: Error if it holds one.
inline const char* c_string(const std::string& text) {
    const size_t nul = text.find('\0');
    if (nul != std::string::npos)
        throw Error(POLYAD_INVALID_ARGUMENT, "a name, path or JSON text holds the character NUL",
                    ("byte " + std::to_string(nul)).c_str());
    return text.c_str();
}

/// A counted reference; copying retains.
template <class T, T* (*Retain)(T*), void (*Release)(T*)>
class Handle {
  public:
    Handle() = default;
    explicit Handle(T* owned) : handle_(owned) {}
    Handle(const Handle& other) : handle_(other.handle_ ? Retain(other.handle_) : nullptr) {}
    Handle(Handle&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
    Handle& operator=(Handle other) noexcept {
        std::swap(handle_, other.handle_);
        return *this;
    }
    ~Handle() { Release(handle_); }
    T* get() const noexcept { return handle_; }
    explicit operator bool() const noexcept { return handle_ != nullptr; }

  protected:
    T* handle_ = nullptr;
};

class Context : public Handle<polyad_context, polyad_context_retain, polyad_context_release> {
  public:
    /// threads: 0 = all cores. device: "cpu", "cuda" or "cuda:N"; memory_budget in bytes, 0 = everything.
    explicit Context(int32_t threads = 0, const std::string& device = "cpu", uint64_t memory_budget = 0) {
        polyad_context_options options;
        polyad_context_options_init(&options);
        options.threads = threads;
        options.device = device.c_str();
        options.memory_budget = memory_budget;
        check(polyad_context_create(&options, &handle_));
    }
};

class Backbone : public Handle<polyad_backbone, polyad_backbone_retain, polyad_backbone_release> {
  public:
    Backbone(const Context& context, const std::string& path, const std::string& options_json = {}) {
        check(polyad_backbone_open(context.get(), c_string(path), c_string(options_json), &handle_));
    }
    std::string info() const {
        polyad_text* json;
        check(polyad_backbone_info(handle_, &json));
        return take(json);
    }
    std::vector<int32_t> tokenize(const std::string& text) const {
        size_t count = 0;
        check(polyad_backbone_tokenize(handle_, text.c_str(), text.size(), nullptr, 0, &count));
        std::vector<int32_t> ids(count);
        check(polyad_backbone_tokenize(handle_, text.c_str(), text.size(), ids.data(), ids.size(), &count));
        return ids;
    }
    std::string detokenize(const std::vector<int32_t>& ids, bool skip_special = true) const {
        polyad_text* text;
        check(polyad_backbone_detokenize(handle_, ids.data(), ids.size(), skip_special, &text));
        return take(text);
    }
};

class Dataset : public Handle<polyad_dataset, polyad_dataset_retain, polyad_dataset_release> {
  public:
    Dataset(const Context& context, const std::string& path, const std::string& options_json = {}) {
        check(polyad_dataset_open(context.get(), c_string(path), c_string(options_json), &handle_));
    }
    static Dataset from_jsonl(const Context& context, std::string_view lines,
                              const std::string& options_json = {}) {
        Dataset out;
        check(polyad_dataset_open_memory(context.get(), lines.data(), lines.size(), c_string(options_json),
                                         &out.handle_));
        return out;
    }
    std::string info() const {
        polyad_text* json;
        check(polyad_dataset_info(handle_, &json));
        return take(json);
    }

  private:
    Dataset() = default;
};

class Skillset : public Handle<polyad_skillset, polyad_skillset_retain, polyad_skillset_release> {
  public:
    Skillset(const Backbone& backbone, const Dataset& tasks, const std::string& config_json) {
        check(polyad_skillset_create(backbone.get(), tasks.get(), c_string(config_json), &handle_));
    }
    static Skillset load(const Backbone& backbone, const std::string& path) {
        Skillset out;
        check(polyad_skillset_load(backbone.get(), c_string(path), &out.handle_));
        return out;
    }
    /// A Hugging Face PEFT folder.
    static Skillset import_peft(const Backbone& backbone, const std::string& path,
                                const std::string& options_json = {}) {
        Skillset out;
        check(polyad_skillset_import_peft(backbone.get(), c_string(path), c_string(options_json),
                                          &out.handle_));
        return out;
    }
    /// Several of them, side by side or merged ("combination" in the options).
    static Skillset import_peft_set(const Backbone& backbone, const std::vector<std::string>& paths,
                                    const std::string& options_json = {}) {
        Skillset out;
        std::vector<const char*> names;
        for (const std::string& path : paths) names.push_back(c_string(path));
        check(polyad_skillset_import_peft_set(backbone.get(), names.data(), names.size(),
                                              c_string(options_json), &out.handle_));
        return out;
    }
    /// A new skillset from parts of this one (polyad_skillset_derive).
    Skillset derive(const std::string& options_json) const {
        Skillset out;
        check(polyad_skillset_derive(handle_, c_string(options_json), &out.handle_));
        return out;
    }
    void save(const std::string& path) const { check(polyad_skillset_save(handle_, c_string(path))); }
    /// `task` null: the whole skillset.
    void export_peft(const char* task, const std::string& path, const std::string& options_json = {}) const {
        check(polyad_skillset_export_peft(handle_, task, c_string(path), c_string(options_json)));
    }
    void export_gguf(const char* task, const std::string& path, const std::string& options_json = {}) const {
        check(polyad_skillset_export_gguf(handle_, task, c_string(path), c_string(options_json)));
    }
    std::string info() const {
        polyad_text* json;
        check(polyad_skillset_info(handle_, &json));
        return take(json);
    }
    /// Routing statistics as JSON; methods that route by prompt or token need `tasks`.
    std::string routing(const Dataset* tasks = nullptr, const std::string& options_json = {}) const {
        polyad_text* json;
        check(
            polyad_skillset_routing(handle_, tasks ? tasks->get() : nullptr, c_string(options_json), &json));
        return take(json);
    }
    /// The sentence encoder of a MoR1E intuition, instead of opening the one its configuration names.
    void set_encoder(const Backbone& encoder) { check(polyad_skillset_set_encoder(handle_, encoder.get())); }
    /// Scores of a prompt's text against the clusters; empty without an intuition.
    std::vector<float> intuition(const std::string& instruction, const std::string& input) const {
        size_t count = 0;
        check(polyad_skillset_intuition(handle_, c_string(instruction), c_string(input), nullptr, 0, &count));
        std::vector<float> scores(count);
        check(polyad_skillset_intuition(handle_, c_string(instruction), c_string(input), scores.data(), count,
                                        &count));
        return scores;
    }
    std::vector<float> task_weights(const std::string& task) const {
        size_t count = 0;
        check(polyad_skillset_task_weights(handle_, c_string(task), nullptr, 0, &count));
        std::vector<float> weights(count);
        check(polyad_skillset_task_weights(handle_, c_string(task), weights.data(), count, &count));
        return weights;
    }

  private:
    Skillset() = default;
};

class Trainer : public Handle<polyad_trainer, polyad_trainer_retain, polyad_trainer_release> {
  public:
    Trainer(const Skillset& skills, const Dataset& tasks, const std::string& config_json = {}) {
        check(polyad_trainer_create(skills.get(), tasks.get(), c_string(config_json), &handle_));
    }
    polyad_progress step() {
        polyad_progress progress;
        polyad_progress_init(&progress);
        check(polyad_trainer_step(handle_, &progress));
        return progress;
    }
    void cancel() { polyad_trainer_cancel(handle_); }
    void save_checkpoint(const std::string& path) {
        check(polyad_trainer_save_checkpoint(handle_, c_string(path)));
    }
    void resume(const std::string& path) { check(polyad_trainer_resume(handle_, c_string(path))); }
};

class Evaluator : public Handle<polyad_evaluator, polyad_evaluator_retain, polyad_evaluator_release> {
  public:
    /// `skills` may be empty: the backbone alone.
    Evaluator(const Backbone& backbone, const Skillset* skills, const Dataset& tasks,
              const std::string& config_json = {}) {
        check(polyad_evaluator_create(backbone.get(), skills ? skills->get() : nullptr, tasks.get(),
                                      c_string(config_json), &handle_));
    }
    polyad_progress step() {
        polyad_progress progress;
        polyad_progress_init(&progress);
        check(polyad_evaluator_step(handle_, &progress));
        return progress;
    }
    std::string result() const {
        polyad_text* json;
        check(polyad_evaluator_result(handle_, &json));
        return take(json);
    }
    std::string table() const {
        polyad_text* text;
        check(polyad_evaluator_table(handle_, &text));
        return take(text);
    }
};

class Request : public Handle<polyad_request, polyad_request_retain, polyad_request_release> {
  public:
    using Handle::Handle;
    /// New text since the last poll.
    std::string poll() {
        polyad_text* piece;
        check(polyad_request_poll(handle_, &piece, &state_));
        return take(piece);
    }
    /// As of the last poll.
    bool finished() const { return state_ >= POLYAD_REQUEST_FINISHED; }
    std::string result() const {
        polyad_text* json;
        check(polyad_request_result(handle_, &json));
        return take(json);
    }
    void cancel() { polyad_request_cancel(handle_); }

  private:
    int32_t state_ = POLYAD_REQUEST_WAITING;
};

class Engine : public Handle<polyad_engine, polyad_engine_retain, polyad_engine_release> {
  public:
    /// `options`: null = all defaults (polyad_engine_options_init, then what should differ).
    explicit Engine(const Backbone& backbone, const polyad_engine_options* options = nullptr) {
        check(polyad_engine_create(backbone.get(), options, &handle_));
    }
    Engine& publish(const std::string& name, const Skillset& skills) {
        check(polyad_engine_publish(handle_, c_string(name), skills.get()));
        return *this;
    }
    void retire(const std::string& name) { check(polyad_engine_retire(handle_, c_string(name))); }
    Request submit(const polyad_request_options& options) {
        polyad_request* request;
        check(polyad_engine_submit(handle_, &options, &request));
        return Request(request);
    }
    /// The common case: one task, one prompt.
    Request submit(const std::string& skillset, const std::string& task, std::string_view prompt) {
        polyad_request_options options;
        polyad_request_options_init(&options);
        options.skillset = c_string(skillset);
        options.task = c_string(task);
        options.prompt = prompt.empty() ? "" : prompt.data();  // a size of 0 means NUL-terminated
        options.prompt_size = prompt.size();
        return submit(options);
    }
    /// One step; false when nothing is waiting or running any more.
    bool step() {
        int32_t busy = 0;
        check(polyad_engine_step(handle_, &busy));
        return busy > 0;
    }
};

}  // namespace polyad

#endif  // POLYAD_POLYAD_HPP
