// SPDX-License-Identifier: Apache-2.0
#include "serving/engine.h"

#include "objects.h"

using namespace polyad;
using namespace polyad::capi;

namespace polyad::capi {

struct EngineObject {
    std::shared_ptr<BackboneObject> backbone;
    Occupancy use{0};  ///< held by step alone
    ComputeThread compute;
    ComputeThread publishing;  ///< one thread: steps go on beside it
    std::unique_ptr<Engine> engine;

    EngineObject(std::shared_ptr<BackboneObject> model, int threads)
        : backbone(std::move(model)),
          compute(threads > 0 ? threads : backbone->context->threads, backbone->context->enter),
          publishing(1, backbone->context->enter) {}
};

struct RequestObject {
    std::shared_ptr<EngineObject> engine;
    std::shared_ptr<Request> request;

    ~RequestObject() { request->cancel(); }  // nobody is left to read the answer
};

POLYAD_HANDLE(polyad_engine, engine, EngineObject);
POLYAD_HANDLE(polyad_request, request, RequestObject);

}  // namespace polyad::capi

namespace {

#define POLYAD_SAME_STATE(c_name, cpp_name) static_assert(c_name == static_cast<int>(RequestState::cpp_name))
POLYAD_SAME_STATE(POLYAD_REQUEST_WAITING, waiting);
POLYAD_SAME_STATE(POLYAD_REQUEST_RUNNING, running);
POLYAD_SAME_STATE(POLYAD_REQUEST_FINISHED, finished);
POLYAD_SAME_STATE(POLYAD_REQUEST_CANCELLED, cancelled);
POLYAD_SAME_STATE(POLYAD_REQUEST_FAILED, failed);
POLYAD_SAME_STATE(POLYAD_REQUEST_EXPIRED, expired);

RequestOptions from_c(const polyad_request_options& o) {
    RequestOptions out;
    if (o.skillset) out.skillset = required_string(o.skillset, "skillset");
    if (o.task) out.task = required_string(o.task, "task");
    if (o.prompt && o.tokens)
        fail(Code::invalid_argument, "both 'prompt' and 'tokens' are given: one of them is needed");
    if (o.prompt) out.prompt = o.prompt_size ? std::string(o.prompt, o.prompt_size) : std::string(o.prompt);
    if (o.token_count && !o.tokens)
        fail(Code::invalid_argument, "'tokens' is NULL but token_count is ", o.token_count);
    if (o.tokens) out.tokens.assign(o.tokens, o.tokens + o.token_count);
    if (!o.prompt && out.tokens.empty())
        fail(Code::invalid_argument, "a request needs a 'prompt' or 'tokens'");
    if (o.weight_count && !o.weights)
        fail(Code::invalid_argument, "'weights' is NULL but weight_count is ", o.weight_count);
    if (o.weights) out.weights.assign(o.weights, o.weights + o.weight_count);
    if (o.intuition_count && !o.intuition)
        fail(Code::invalid_argument, "'intuition' is NULL but intuition_count is ", o.intuition_count);
    if (o.intuition) out.intuition.assign(o.intuition, o.intuition + o.intuition_count);
    if (o.stop_count && !o.stop)
        fail(Code::invalid_argument, "'stop' is NULL but stop_count is ", o.stop_count);
    for (size_t i = 0; i < o.stop_count; ++i) out.sampling.stop.push_back(required_string(o.stop[i], "stop"));
    out.sampling.max_tokens = o.max_tokens;
    out.sampling.temperature = o.temperature;
    out.sampling.top_k = o.top_k;
    out.sampling.top_p = o.top_p;
    out.sampling.repetition_penalty = o.repetition_penalty;
    out.sampling.seed = o.seed;
    out.sampling.ignore_eos = o.ignore_eos != 0;
    out.sampling.check();
    out.timeout = o.timeout;
    out.priority = o.priority;
    return out;
}

}  // namespace

void polyad_engine_options_init_sized(polyad_engine_options* options, size_t struct_size) {
    const EngineOptions defaults;
    polyad_engine_options o{};
    o.max_batch = defaults.max_batch;
    o.max_queue = defaults.max_queue;
    o.max_context = defaults.max_context;
    o.memory_budget = defaults.memory_budget;
    o.prefix_cache = defaults.prefix_cache;
    o.merge_hot_task = defaults.merge_hot_task;
    init_struct(options, struct_size, o);
}

void polyad_request_options_init_sized(polyad_request_options* options, size_t struct_size) {
    const SamplingOptions defaults;
    polyad_request_options o{};
    o.max_tokens = defaults.max_tokens;
    o.temperature = defaults.temperature;
    o.top_k = defaults.top_k;
    o.top_p = defaults.top_p;
    o.repetition_penalty = defaults.repetition_penalty;
    init_struct(options, struct_size, o);
}

polyad_status* polyad_engine_create(polyad_backbone* backbone, const polyad_engine_options* options,
                                    polyad_engine** engine) {
    return guarded([&] {
        clear_out(engine, "engine");
        const auto o = read_struct(options, polyad_engine_options_init_sized, "polyad_engine_options");
        if (o.threads < 0 || o.threads > max_threads)
            fail(Code::invalid_argument, "threads: ", o.threads, " is out of range, allowed: 0 to ",
                 max_threads);
        EngineOptions wanted;
        wanted.max_batch = o.max_batch;
        wanted.max_queue = o.max_queue;
        wanted.max_context = o.max_context;
        wanted.memory_budget = o.memory_budget;
        wanted.prefix_cache = o.prefix_cache != 0;
        wanted.merge_hot_task = o.merge_hot_task != 0;
        auto object = std::make_shared<EngineObject>(get(backbone), o.threads);
        object->compute.run(
            [&] { object->engine = std::make_unique<Engine>(object->backbone->backbone, wanted); });
        *engine = wrap<polyad_engine>(std::move(object));
    });
}

polyad_engine* polyad_engine_retain(polyad_engine* engine) {
    return retain(engine);
}
void polyad_engine_release(polyad_engine* engine) {
    release(engine);
}

polyad_status* polyad_engine_publish(polyad_engine* engine, const char* name,
                                     const polyad_skillset* skillset) {
    return guarded([&] {
        const auto object = get(engine);
        const std::string key = required_string(name, "name");
        const auto skills = get(skillset);
        object->publishing.run([&] {
            work_in_background();
            std::shared_ptr<const Skillset> copy;
            {
                const Shared hold(skills->use,
                                  "skillset");  // a trainer may go on as soon as the copy is made
                copy = object->engine->snapshot(*skills->skillset);
            }
            object->engine->publish(key, std::move(copy));
        });
    });
}

polyad_status* polyad_engine_retire(polyad_engine* engine, const char* name) {
    return guarded([&] { get(engine)->engine->retire(required_string(name, "name")); });
}

polyad_status* polyad_engine_submit(polyad_engine* engine, const polyad_request_options* options,
                                    polyad_request** request) {
    return guarded([&] {
        clear_out(request, "request");
        const auto object = get(engine);
        if (!options) fail(Code::invalid_argument, "'options' is NULL");
        const auto o = read_struct(options, polyad_request_options_init_sized, "polyad_request_options");
        auto submitted = object->engine->submit(from_c(o));
        *request = wrap<polyad_request>(
            std::shared_ptr<RequestObject>(new RequestObject{object, std::move(submitted)}));
    });
}

polyad_status* polyad_engine_step(polyad_engine* engine, int32_t* busy) {
    return guarded([&] {
        if (busy) *busy = 0;
        const auto object = get(engine);
        const Exclusive hold(object->use, "engine");
        int left = 0;
        object->compute.run([&] { left = object->engine->step(); });
        if (busy) *busy = left;
    });
}

polyad_status* polyad_engine_stats(const polyad_engine* engine, polyad_text** json) {
    return guarded([&] {
        clear_out(json, "json");
        *json = make_text(get(engine)->engine->stats());
    });
}

polyad_request* polyad_request_retain(polyad_request* request) {
    return retain(request);
}
void polyad_request_release(polyad_request* request) {
    release(request);
}

polyad_status* polyad_request_poll(polyad_request* request, polyad_text** piece, int32_t* state) {
    return guarded([&] {
        if (piece) *piece = nullptr;
        if (state) *state = POLYAD_REQUEST_WAITING;
        const auto object = get(request);
        if (!piece) {  // without a place for the text nothing is taken
            if (state) *state = static_cast<int32_t>(object->request->state());
            return;
        }
        auto polled = object->request->poll();
        *piece = make_text(std::move(polled.text));
        if (state) *state = static_cast<int32_t>(polled.state);
    });
}

polyad_status* polyad_request_result(const polyad_request* request, polyad_text** json) {
    return guarded([&] {
        clear_out(json, "json");
        const RequestResult result = get(request)->request->result();
        *json = make_text(Json{{"text", result.text},
                               {"tokens", result.tokens},
                               {"finish_reason", finish_reason_name(result.reason)},
                               {"prompt_tokens", result.prompt_tokens},
                               {"cached_tokens", result.cached_tokens},
                               {"truncated", result.truncated},
                               {"seconds", result.seconds}});
    });
}

void polyad_request_cancel(polyad_request* request) {
    guarded_quietly([&] { get(request)->request->cancel(); });
}
