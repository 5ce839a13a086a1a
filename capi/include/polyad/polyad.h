/* SPDX-License-Identifier: Apache-2.0
 *
 * Polyad: train, mix, save, reload and switch many small skills of one frozen transformer, in your own process.
 *
 *     #include <polyad/polyad.h>
 *     #include <stdio.h>
 *     #include <stdlib.h>
 *
 *     static void check(polyad_status *s) {
 *         if (!s) return;
 *         fprintf(stderr, "%s: %s\n", polyad_code_name(polyad_status_code(s)), polyad_status_message(s));
 *         exit(1);
 *     }
 *     int main(void) {
 *         polyad_context *ctx; polyad_backbone *model; polyad_dataset *tasks; polyad_skillset *skills; polyad_trainer *trainer;
 *         check(polyad_context_create(NULL, &ctx));
 *         check(polyad_backbone_open(ctx, "smollm2-135m.gguf", NULL, &model));
 *         check(polyad_dataset_open(ctx, "tasks/", NULL, &tasks));
 *         check(polyad_skillset_create(model, tasks, "{\"method\": \"cpoly\", \"rank\": 8, \"common_skills\": 3}", &skills));
 *         check(polyad_trainer_create(skills, tasks, "{\"epochs\": 3, \"learning_rate\": 1e-3}", &trainer));
 *         polyad_progress p; polyad_progress_init(&p);
 *         do check(polyad_trainer_step(trainer, &p)); while (!p.done);
 *         check(polyad_skillset_save(skills, "words.polyad"));
 *     }                                             (serving the result: see "Engine" below)
 *
 * Conventions
 *  1. Names are polyad_<noun>_<verb>. Every fallible call returns a polyad_status the caller owns; NULL means it worked.
 *     There is no "last error" anywhere: a status may travel between threads.
 *  2. Out parameters come last. On failure they are set to NULL or 0. Passing NULL for a required pointer is
 *     POLYAD_INVALID_ARGUMENT.
 *  3. Handles are opaque and reference counted. `create`/`open`/`load` give one reference, `retain` adds one, `release` drops
 *     one and accepts NULL. A child keeps its parents alive (request -> engine -> backbone -> context), so any order of
 *     release is legal.
 *  4. A `const` handle argument may be used by many threads at once. A non-const one allows one caller at a time. The
 *     exceptions are said at the function (submit, poll and every cancel may come from any thread at any time).
 *  5. Strings are UTF-8. Names, paths and JSON are NUL-terminated and copied. Prompts carry a size. Texts the library
 *     returns come as polyad_text, owned by the caller.
 *  6. Method, training and evaluation options are JSON, checked against a schema: an unknown key, a wrong type or a value out
 *     of range is POLYAD_INVALID_CONFIG naming the key and what is allowed. NULL or "" means all defaults. docs/configuration.md
 *     lists every key. Hot-path options are structs that begin with struct_size and have an _init macro, which tells the library
 *     how much of the struct the caller knows; a caller compiled against an older, smaller struct keeps working.
 *  7. Token ids are int32_t. Float buffers are float32 and belong to the host. Whatever loads from a path also loads from memory.
 *  8. The library never aborts, prints, installs signal handlers or lets an exception out. It reads the environment variables
 *     OMP_NUM_THREADS (by OpenMP), POLYAD_ISA (kernel set: portable, avx2, avx512, amx) and, once a CUDA device is asked for,
 *     POLYAD_CUDA_LIBRARY (the file of the CUDA kernels, otherwise libpolyad_cuda.so beside this library), and no others.
 *  9. Work is done in steps the host drives; nothing calls back into the host but the log sink.
 * 10. Symbols are never removed or changed within a major version; new ones say "since".
 */
/* Laid out by hand, since the header is the manual. */
/* clang-format off */
#ifndef POLYAD_POLYAD_H
#define POLYAD_POLYAD_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#if defined(POLYAD_BUILD)
#define POLYAD_API __declspec(dllexport)
#else
#define POLYAD_API __declspec(dllimport)
#endif
#define POLYAD_MUST_USE
#elif defined(__GNUC__)
#define POLYAD_API __attribute__((visibility("default")))
#define POLYAD_MUST_USE __attribute__((warn_unused_result))
#else
#define POLYAD_API
#define POLYAD_MUST_USE
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ====== Version ========================================================================================================== */

#define POLYAD_VERSION_MAJOR 0
#define POLYAD_VERSION_MINOR 1
#define POLYAD_VERSION_PATCH 0
/* major * 1000000 + minor * 1000 + patch of the header you compile with. */
#define POLYAD_VERSION_NUMBER (POLYAD_VERSION_MAJOR * 1000000 + POLYAD_VERSION_MINOR * 1000 + POLYAD_VERSION_PATCH)

/* The library's own version number and text ("0.1.0"). Any thread. Since 0.1. */
POLYAD_API int32_t polyad_version(void);
POLYAD_API const char *polyad_version_string(void);
/* JSON: version, LibTorch, compiler, CPU features in use, CUDA. Static storage. Any thread. Since 0.1. */
POLYAD_API const char *polyad_build_info(void);
/* 1 when this build has the named feature ("bf16", "cuda", "method:cpoly", "family:llama", ...), else 0. Any thread. Since 0.1. */
POLYAD_API int32_t polyad_has_feature(const char *name);

/* ====== Status ===========================================================================================================
 * NULL is success. Anything else is owned by the caller and dropped with polyad_status_release. Immutable: any thread.     */

typedef struct polyad_status polyad_status;

typedef enum polyad_code { /* append-only */
    POLYAD_OK = 0,
    POLYAD_INVALID_ARGUMENT = 1,  /* an argument, option or id out of its allowed range */
    POLYAD_INVALID_CONFIG = 2,    /* JSON: unknown key, wrong type, bad range */
    POLYAD_NOT_FOUND = 3,         /* a file, site, skillset or tensor that does not exist */
    POLYAD_IO_ERROR = 4,          /* the operating system refused to read or write */
    POLYAD_BAD_FORMAT = 5,        /* a damaged or hostile file */
    POLYAD_UNSUPPORTED = 6,       /* well-formed, but not something this build can do */
    POLYAD_BACKBONE_MISMATCH = 7, /* a bundle made for another base model */
    POLYAD_UNKNOWN_TASK = 8,      /* a task outside the task table */
    POLYAD_BAD_DATA = 9,          /* a dataset row or text that cannot be used */
    POLYAD_CONTEXT_OVERFLOW = 10, /* text longer than the model or the cache can hold */
    POLYAD_NUMERIC_ERROR = 11,    /* NaN or infinity where training or scoring needs a number */
    POLYAD_CANCELLED = 12,        /* stopped by a cancel call */
    POLYAD_WRONG_STATE = 13,      /* not allowed now: finished, retired, used by another call at this moment */
    POLYAD_OUT_OF_MEMORY = 14,    /* the machine's memory, or an engine's memory_budget */
    POLYAD_QUEUE_FULL = 15,       /* the engine's queue is full: try again after some steps */
    POLYAD_INTERNAL = 99          /* a bug in Polyad: please report it */
} polyad_code;

/* POLYAD_OK for NULL. */
POLYAD_API int32_t polyad_status_code(const polyad_status *status);
/* What was wrong and what is allowed. Valid until release; "" for NULL. */
POLYAD_API const char *polyad_status_message(const polyad_status *status);
/* Where: file and offset, configuration key, tensor, task, row. May be "". */
POLYAD_API const char *polyad_status_detail(const polyad_status *status);
POLYAD_API void polyad_status_release(polyad_status *status);
/* "unknown_task" for POLYAD_UNKNOWN_TASK; "unknown" for a number this library does not know. */
POLYAD_API const char *polyad_code_name(int32_t code);

/* ====== Text =============================================================================================================
 * A text or byte string the library returns: UTF-8, JSON, or the bytes of a bundle. Immutable: any thread.                  */

typedef struct polyad_text polyad_text;
/* NUL-terminated for convenience; may hold NUL bytes when it is a bundle. "" for NULL. */
POLYAD_API const char *polyad_text_data(const polyad_text *text);
POLYAD_API size_t polyad_text_size(const polyad_text *text);
POLYAD_API void polyad_text_release(polyad_text *text);

/* ====== Log ============================================================================================================== */

typedef enum polyad_log_level { POLYAD_LOG_DEBUG = 0, POLYAD_LOG_INFO = 1, POLYAD_LOG_WARNING = 2, POLYAD_LOG_ERROR = 3 } polyad_log_level;
/* `message` is valid during the call only. May be called from any thread that is inside a Polyad call; must not call Polyad. */
typedef void (*polyad_log_sink)(int32_t level, const char *message, void *user);
/* One sink for the process; NULL silences (the default). Any thread. Since 0.1. */
POLYAD_API void polyad_log_set_sink(polyad_log_sink sink, void *user);

/* ====== Context ==========================================================================================================
 * Threads and device settings shared by what is opened through it.                                                         */

typedef struct polyad_context polyad_context;

typedef struct polyad_context_options {
    size_t struct_size;
    int32_t threads; /* worker threads of one call; 0 = what OpenMP would use */
    /* Where what is opened through the context lives and computes: "cpu" (also NULL), "cuda" (= "cuda:0") or "cuda:N". Copied. Since 0.1. */
    const char *device;
    /* CUDA: most bytes of each device's memory that LibTorch's allocator may take (weights, skills, caches, activations); 0 = all there is. The
     * driver's own memory, the kernels' scratch memory (8 MiB a stream at first, and more where an operator needs it) and the host's come on
     * top. The first context on a CUDA device sets it for the process. */
    uint64_t memory_budget;
    void *stream; /* CUDA: a cudaStream_t of the host's that all work is queued on, in order; NULL = the default stream. Outlives the context. */
} polyad_context_options;
POLYAD_API void polyad_context_options_init_sized(polyad_context_options *options, size_t struct_size);
#define polyad_context_options_init(options) polyad_context_options_init_sized((options), sizeof *(options))

/* `options` may be NULL. A CUDA device loads libpolyad_cuda.so and LibTorch's libtorch_cuda.so; nothing else ever does. Ask for it before this
 * process trains anything on the CPU. Errors: INVALID_CONFIG (device is no such name), INVALID_ARGUMENT (no such index), UNSUPPORTED (no driver or
 * one too old, no CUDA part of LibTorch beside libtorch_cpu.so, a CUDA library of another version: the message says which), WRONG_STATE (trained
 * on the CPU already, another memory_budget is in force). Since 0.1. */
POLYAD_API POLYAD_MUST_USE polyad_status *polyad_context_create(const polyad_context_options *options, polyad_context **context);
/* JSON: {"devices": [{"name": "cpu", "usable": true}, {"name": "cuda:0", "usable", "description", "memory", "free", "compute_capability", "bf16", ...}],
 * "cuda": why there is no CUDA device, or null}. Bytes. Any thread. Since 0.1. */
POLYAD_API POLYAD_MUST_USE polyad_status *polyad_devices(polyad_text **json);
POLYAD_API polyad_context *polyad_context_retain(polyad_context *context);
POLYAD_API void polyad_context_release(polyad_context *context);

/* ====== Backbone =========================================================================================================
 * The frozen base model. Immutable after opening: every function here may be called by many threads at once.               */

typedef struct polyad_backbone polyad_backbone;

/* A GGUF file or a Hugging Face folder (config.json, *.safetensors, tokenizer.json).
 * options: {"precision": "auto" | "fp32" | "bf16", "weights": "auto" | "packed" | "expanded"}.
 * Errors: NOT_FOUND, IO_ERROR, BAD_FORMAT (with tensor or offset), UNSUPPORTED (family or type by name), INVALID_CONFIG. Since 0.1. */
POLYAD_API POLYAD_MUST_USE polyad_status *polyad_backbone_open(polyad_context *context, const char *path, const char *options_json,
                                                               polyad_backbone **backbone);
/* A GGUF file in memory; the bytes are copied. Since 0.1. */
POLYAD_API POLYAD_MUST_USE polyad_status *polyad_backbone_open_memory(polyad_context *context, const void *data, size_t size,
                                                                      const char *options_json, polyad_backbone **backbone);
POLYAD_API polyad_backbone *polyad_backbone_retain(polyad_backbone *backbone);
POLYAD_API void polyad_backbone_release(polyad_backbone *backbone);

/* JSON: name, family, fingerprint, layers, width, vocab, context, parameters, device, precision, weights, tokenizer,
 * sites: [{"path", "layer", "d_in", "d_out"}]. Since 0.1. */
POLYAD_API POLYAD_MUST_USE polyad_status *polyad_backbone_info(const polyad_backbone *backbone, polyad_text **json);
/* Writes up to `capacity` ids and sets *count to how many there are; call with capacity 0 to ask. text_size 0 = NUL-terminated.
 * No BOS or EOS is added. Errors: BAD_DATA (invalid UTF-8, with the offset), UNSUPPORTED (no tokenizer). Since 0.1. */
POLYAD_API POLYAD_MUST_USE polyad_status *polyad_backbone_tokenize(const polyad_backbone *backbone, const char *text, size_t text_size,
                                                                   int32_t *ids, size_t capacity, size_t *count);
/* Special tokens are left out when skip_special is not 0. Errors: INVALID_ARGUMENT (id outside the vocabulary). Since 0.1. */
POLYAD_API POLYAD_MUST_USE polyad_status *polyad_backbone_detokenize(const polyad_backbone *backbone, const int32_t *ids, size_t count,
                                                                     int32_t skip_special, polyad_text **text);
/* Renders the model's chat template. messages: [{"role": "user", "content": "..."}]. Since 0.1. */
POLYAD_API POLYAD_MUST_USE polyad_status *polyad_backbone_chat(const polyad_backbone *backbone, const char *messages_json,
                                                               int32_t add_generation_prompt, polyad_text **text);

/* ====== Dataset ==========================================================================================================
 * Named tasks with examples. Immutable after opening: any thread.                                                          */

typedef struct polyad_dataset polyad_dataset;

typedef enum polyad_split { POLYAD_TRAIN = 0, POLYAD_VALIDATION = 1, POLYAD_TEST = 2 } polyad_split;

/* A Super-NaturalInstructions task file, a JSON Lines file {"task", "instruction", "input", "output" | "outputs", "split"?},
 * or a folder of either. options: {"on_bad_row": "error" | "skip", "validation_fraction", "test_fraction", "seed",
 * "max_examples_per_task", "tasks": [names]}. Errors: NOT_FOUND, BAD_DATA (file and line), INVALID_CONFIG. Since 0.1. */
POLYAD_API POLYAD_MUST_USE polyad_status *polyad_dataset_open(polyad_context *context, const char *path, const char *options_json,
                                                              polyad_dataset **dataset);
/* JSON Lines in memory. Since 0.1. */
POLYAD_API POLYAD_MUST_USE polyad_status *polyad_dataset_open_memory(polyad_context *context, const void *data, size_t size,
                                                                     const char *options_json, polyad_dataset **dataset);
POLYAD_API polyad_dataset *polyad_dataset_retain(polyad_dataset *dataset);
POLYAD_API void polyad_dataset_release(polyad_dataset *dataset);
/* JSON: tasks: [{"name", "category", "instruction", "labels", "train", "validation", "test"}], bad_rows. Since 0.1. */
POLYAD_API POLYAD_MUST_USE polyad_status *polyad_dataset_info(const polyad_dataset *dataset, polyad_text **json);
/* One example as JSON {"id", "input", "outputs"}. Errors: UNKNOWN_TASK, INVALID_ARGUMENT (index, with the count). Since 0.1. */
POLYAD_API POLYAD_MUST_USE polyad_status *polyad_dataset_example(const polyad_dataset *dataset, const char *task, int32_t split,
                                                                 int64_t index, polyad_text **json);

/* ====== Skillset =========================================================================================================
 * Skills, their router, the task table and the method's configuration: what is trained, saved and published.
 * Reading calls take it const; a trainer that is stepping holds it exclusively (POLYAD_WRONG_STATE otherwise).              */

typedef struct polyad_skillset polyad_skillset;

/* Fresh skills for the dataset's tasks. config: {"method": "lora" | "poly" | "mhr" | "cpoly" | ..., "rank", "target_modules", "seed",
 * "prompt": {...}, and the method's own keys; docs/configuration.md}. Errors: INVALID_CONFIG. Since 0.1. */
POLYAD_API POLYAD_MUST_USE polyad_status *polyad_skillset_create(polyad_backbone *backbone, const polyad_dataset *dataset,
                                                                 const char *config_json, polyad_skillset **skillset);
/* From a bundle. Errors: BACKBONE_MISMATCH (both names), BAD_FORMAT (field and offset), UNSUPPORTED (newer version). Since 0.1. */
POLYAD_API POLYAD_MUST_USE polyad_status *polyad_skillset_load(polyad_backbone *backbone, const char *path, polyad_skillset **skillset);
POLYAD_API POLYAD_MUST_USE polyad_status *polyad_skillset_load_memory(polyad_backbone *backbone, const void *data, size_t size,
                                                                      polyad_skillset **skillset);
POLYAD_API polyad_skillset *polyad_skillset_retain(polyad_skillset *skillset);
POLYAD_API void polyad_skillset_release(polyad_skillset *skillset);
/* Written atomically: readers see the old file or the new one. Since 0.1. */
POLYAD_API POLYAD_MUST_USE polyad_status *polyad_skillset_save(const polyad_skillset *skillset, const char *path);
POLYAD_API POLYAD_MUST_USE polyad_status *polyad_skillset_save_memory(const polyad_skillset *skillset, polyad_text **bytes);
/* JSON: config (all defaults filled in), tasks, parameters {"trainable", "stored"}, skills, sites, metadata. Since 0.1. */
POLYAD_API POLYAD_MUST_USE polyad_status *polyad_skillset_info(const polyad_skillset *skillset, polyad_text **json);
/* Adds `task` of `dataset` for few-shot training. start: "fresh" (as initialised) | "uniform" (the even mix). Since 0.1. */
POLYAD_API POLYAD_MUST_USE polyad_status *polyad_skillset_add_task(polyad_skillset *skillset, const polyad_dataset *dataset,
                                                                   const char *task, const char *start);
/* A new skillset from parts of a trained one, which stays as it is. options: {"form", "task", "changes"}. form:
 * "copy": the same tensors under a changed configuration ("changes": {"disabled_experts": [[0, 2]], "eval_route": ...});
 * "squeeze": one "task" as plain weights, a LoRA or (layer copies) the chosen copy of every layer; further training starts from it;
 * of Task-level MoE also "second_stage" (router and task vectors stay and freeze, experts start again; "changes" go over that),
 * "keep_moe_route" (the router freezes, experts go on) and "avg" (all experts at equal weight, no router).
 * Errors: INVALID_CONFIG (key, form, or the tensor a change would reshape), UNKNOWN_TASK, UNSUPPORTED (a method that has no such form). Since 0.1. */
POLYAD_API POLYAD_MUST_USE polyad_status *polyad_skillset_derive(const polyad_skillset *skillset, const char *options_json,
                                                                 polyad_skillset **derived);
/* Skill weights of a task in use, averaged over sites. Writes up to `capacity`, sets *count. Errors: UNKNOWN_TASK. Since 0.1. */
POLYAD_API POLYAD_MUST_USE polyad_status *polyad_skillset_task_weights(const polyad_skillset *skillset, const char *task, float *weights,
                                                                       size_t capacity, size_t *count);
/* What the router has learned, as JSON: load per skill, dead skills, usage, entropy, discreteness and sparsity, overall, per layer
 * and per group of layers; weights of every task, their distances and the average-linkage tree; parameters active in one mixture.
 * Methods routed by task are read from their tables and `dataset` may be NULL; others run rows of it. options: {"split": "test",
 * "max_examples_per_task": 16, "batch_size", "groups", "examples", "dead_below", "collapsed_below", "tasks",
 * "features": {feature: {task: number}} to correlate the route table with}. A collapse is also
 * logged as a warning. Errors: INVALID_ARGUMENT (rows are needed), BAD_DATA (an empty split), UNKNOWN_TASK, INVALID_CONFIG. Since 0.1. */
POLYAD_API POLYAD_MUST_USE polyad_status *polyad_skillset_routing(const polyad_skillset *skillset, const polyad_dataset *dataset,
                                                                  const char *options_json, polyad_text **json);
/* MoR1E with an `intuition` configuration: its clusters were made with a sentence encoder (BERT), which is opened from the path
 * the configuration names when the first prompt needs it. This gives it an opened one instead, for hosts that keep it elsewhere.
 * Errors: BACKBONE_MISMATCH (clusters from another encoder), UNSUPPORTED (not an encoder), WRONG_STATE (no intuition). Since 0.1. */
POLYAD_API POLYAD_MUST_USE polyad_status *polyad_skillset_set_encoder(polyad_skillset *skillset, const polyad_backbone *encoder);
/* What a prompt's text scores against the clusters, as training and serving see it. `instruction` may be NULL; a task's own is in
 * polyad_skillset_info. Writes up to `capacity`, sets *count (0: no intuition). Errors: NOT_FOUND, BACKBONE_MISMATCH. Since 0.1. */
POLYAD_API POLYAD_MUST_USE polyad_status *polyad_skillset_intuition(const polyad_skillset *skillset, const char *instruction,
                                                                    const char *input, float *scores, size_t capacity, size_t *count);
/* Replaces free metadata kept in the bundle under `key`; value is JSON. Since 0.1. */
POLYAD_API POLYAD_MUST_USE polyad_status *polyad_skillset_set_metadata(polyad_skillset *skillset, const char *key, const char *value_json);
/* All trainable parameters as one flat float32 buffer in bundle order (federated or data-parallel hosts).
 * capacity / count must equal the parameter count: INVALID_ARGUMENT names both numbers. Since 0.1. */
POLYAD_API POLYAD_MUST_USE polyad_status *polyad_skillset_parameter_count(const polyad_skillset *skillset, size_t *count);
POLYAD_API POLYAD_MUST_USE polyad_status *polyad_skillset_get_parameters(const polyad_skillset *skillset, float *values, size_t capacity);
POLYAD_API POLYAD_MUST_USE polyad_status *polyad_skillset_set_parameters(polyad_skillset *skillset, const float *values, size_t count);
/* Logits after the last of `count` token ids, `capacity` = vocabulary size. skillset and task may be NULL (the backbone alone).
 * Errors: INVALID_ARGUMENT (ids, capacity), CONTEXT_OVERFLOW, UNKNOWN_TASK. Any thread. Since 0.1. */
POLYAD_API POLYAD_MUST_USE polyad_status *polyad_backbone_logits(const polyad_backbone *backbone, const polyad_skillset *skillset,
                                                                 const char *task, const int32_t *ids, size_t count, float *logits,
                                                                 size_t capacity);
/* What a bundle holds, without its backbone. JSON as polyad_skillset_info plus backbone and tensors. Since 0.1. */
POLYAD_API POLYAD_MUST_USE polyad_status *polyad_bundle_inspect(polyad_context *context, const char *path, polyad_text **json);

/* ====== Interchange ======================================================================================================
 * Adapters of Hugging Face PEFT in and out, and LoRA files for llama.cpp; docs/interchange.md.                             */

/* A PEFT folder (adapter_config.json + adapter_model.safetensors): LoRA, rsLoRA and DoRA become method "lora", Poly becomes "poly"
 * or "mhr" with one task per row of its table, the experts of X-LoRA become "lora_set" (below). options: {"tasks": [names], "prompt": {...}}. Errors: NOT_FOUND, BAD_FORMAT (key or
 * tensor; the shapes of another base), UNSUPPORTED (kinds of adapter, by name), INVALID_CONFIG. Since 0.1. */
POLYAD_API POLYAD_MUST_USE polyad_status *polyad_skillset_import_peft(polyad_backbone *backbone, const char *path,
                                                                      const char *options_json, polyad_skillset **skillset);
/* Several LoRA folders as one skillset. options: "combination": "set" (the default: method "lora_set", one skill and one task per
 * adapter, any ranks; polyad_request_options.weights mixes them per request) or one merged LoRA: "linear" | "cat" | "ties" |
 * "dare_linear" | "dare_ties" | "magnitude_prune" with "weights" (one per adapter), "density", "majority_sign", "seed";
 * "tasks", "prompt". Errors: as above. Since 0.1. */
POLYAD_API POLYAD_MUST_USE polyad_status *polyad_skillset_import_peft_set(polyad_backbone *backbone, const char *const *paths,
                                                                          size_t count, const char *options_json,
                                                                          polyad_skillset **skillset);
/* Writes a PEFT folder. With a task: that task as plain LoRA, exactly, for every method whose mixture depends on the task alone.
 * task NULL: the whole skillset as PEFT's own kind (method lora; poly and mhr that mix factors).
 * options: {"base_model": what base_model_name_or_path says, "expert": one expert of X-LoRA or MoLoRA}. Errors: UNKNOWN_TASK, INVALID_ARGUMENT (a task is needed),
 * UNSUPPORTED (no exact plain LoRA), NUMERIC_ERROR (NaN), IO_ERROR. Since 0.1. */
POLYAD_API POLYAD_MUST_USE polyad_status *polyad_skillset_export_peft(const polyad_skillset *skillset, const char *task,
                                                                      const char *path, const char *options_json);
/* Writes one GGUF file that llama.cpp takes as --lora; task as above, NULL where the method needs none. Decoders only.
 * options: {"name": what general.name says}. Errors: as above. Since 0.1. */
POLYAD_API POLYAD_MUST_USE polyad_status *polyad_skillset_export_gguf(const polyad_skillset *skillset, const char *task,
                                                                      const char *path, const char *options_json);

/* ====== Trainer ==========================================================================================================
 * Intended usage: create, step until done, save the skillset. One caller at a time; cancel from any thread.               */

typedef struct polyad_trainer polyad_trainer;

typedef struct polyad_progress {
    size_t struct_size;
    int64_t step, total_steps;
    double epoch;                 /* epochs finished, with fraction */
    double loss;                  /* mean negative log likelihood per answer token of the last step (trainer) */
    double learning_rate;         /* of the skills group */
    double gradient_norm;         /* before clipping */
    double validation_loss;       /* last and best measured; NaN before the first */
    double best_validation_loss;
    int64_t tokens;               /* real tokens processed so far */
    double tokens_per_second;     /* recent */
    double seconds_left;          /* estimate; NaN while unknown */
    int64_t truncated_rows;       /* prompts that were cut on the left */
    int32_t done;                 /* 1 when nothing is left to do */
    int32_t stopped_early;        /* 1 when validation stopped improving */
} polyad_progress;
POLYAD_API void polyad_progress_init_sized(polyad_progress *progress, size_t struct_size);
#define polyad_progress_init(progress) polyad_progress_init_sized((progress), sizeof *(progress))

/* config: {"epochs" | "max_steps", "batch_size", "learning_rate", "router_learning_rate", "schedule", "warmup_ratio", "seed", ...}.
 * Errors: INVALID_CONFIG, BAD_DATA (empty task, answer too long), UNKNOWN_TASK (dataset task the skillset lacks). Since 0.1. */
POLYAD_API POLYAD_MUST_USE polyad_status *polyad_trainer_create(polyad_skillset *skillset, const polyad_dataset *dataset,
                                                                const char *config_json, polyad_trainer **trainer);
POLYAD_API polyad_trainer *polyad_trainer_retain(polyad_trainer *trainer);
POLYAD_API void polyad_trainer_release(polyad_trainer *trainer);
/* One optimiser step. `progress` may be NULL. A step that fails leaves the parameters as they were.
 * Errors: NUMERIC_ERROR (NaN loss: step and task), CANCELLED, WRONG_STATE (already done). Since 0.1. */
POLYAD_API POLYAD_MUST_USE polyad_status *polyad_trainer_step(polyad_trainer *trainer, polyad_progress *progress);
/* Makes the step in progress (or the next one) return POLYAD_CANCELLED; the trainer can step again after. Any thread. Since 0.1. */
POLYAD_API void polyad_trainer_cancel(polyad_trainer *trainer);
/* Everything needed to go on bit for bit: parameters, optimiser, random state, data position. Atomic. Since 0.1. */
POLYAD_API POLYAD_MUST_USE polyad_status *polyad_trainer_save_checkpoint(polyad_trainer *trainer, const char *path);
/* Continues from a checkpoint of the same skillset configuration, data and training configuration. Since 0.1. */
POLYAD_API POLYAD_MUST_USE polyad_status *polyad_trainer_resume(polyad_trainer *trainer, const char *path);
/* JSON: configuration with all defaults, history of loss and validation per step. Since 0.1. */
POLYAD_API POLYAD_MUST_USE polyad_status *polyad_trainer_report(const polyad_trainer *trainer, polyad_text **json);

/* ====== Evaluator ========================================================================================================
 * Scores a skillset (or the backbone alone) on a dataset split. One caller at a time; cancel from any thread.              */

typedef struct polyad_evaluator polyad_evaluator;

/* skillset may be NULL: the backbone alone, same prompts. config: {"split": "test", "mode": "generate" | "labels", "max_tokens",
 * "batch_size", "max_examples_per_task", "normalize_length", "prompt"}. Since 0.1. */
POLYAD_API POLYAD_MUST_USE polyad_status *polyad_evaluator_create(polyad_backbone *backbone, polyad_skillset *skillset,
                                                                  const polyad_dataset *dataset, const char *config_json,
                                                                  polyad_evaluator **evaluator);
POLYAD_API polyad_evaluator *polyad_evaluator_retain(polyad_evaluator *evaluator);
POLYAD_API void polyad_evaluator_release(polyad_evaluator *evaluator);
/* Scores one batch of examples; progress->step counts examples. Since 0.1. */
POLYAD_API POLYAD_MUST_USE polyad_status *polyad_evaluator_step(polyad_evaluator *evaluator, polyad_progress *progress);
POLYAD_API void polyad_evaluator_cancel(polyad_evaluator *evaluator);
/* JSON: overall, per category and per task exact match and ROUGE-L (0..100), counts, predictions. WRONG_STATE before done. Since 0.1. */
POLYAD_API POLYAD_MUST_USE polyad_status *polyad_evaluator_result(const polyad_evaluator *evaluator, polyad_text **json);
/* The same as an aligned table for people. Since 0.1. */
POLYAD_API POLYAD_MUST_USE polyad_status *polyad_evaluator_table(const polyad_evaluator *evaluator, polyad_text **table);

/* ====== Engine ===========================================================================================================
 * Serves many requests over one backbone; every request of a batch may use another skillset, task or mix. docs/serving.md
 * says how requests are scheduled, what memory they take and what is computed once for many of them.
 *
 *     polyad_engine *engine;  polyad_request *request;  polyad_text *piece;  int32_t state;
 *     check(polyad_engine_create(model, NULL, &engine));
 *     check(polyad_engine_publish(engine, "words", skills));
 *     polyad_request_options o;  polyad_request_options_init(&o);
 *     o.skillset = "words";  o.task = "antonym";  o.prompt = "hot";
 *     check(polyad_engine_submit(engine, &o, &request));
 *     do {
 *         check(polyad_engine_step(engine, NULL));
 *         check(polyad_request_poll(request, &piece, &state));
 *         fputs(polyad_text_data(piece), stdout);
 *         polyad_text_release(piece);
 *     } while (state < POLYAD_REQUEST_FINISHED);
 *
 * publish, retire, submit, poll, cancel and stats may come from any thread at any time; step has one caller at a time.       */

typedef struct polyad_engine polyad_engine;
typedef struct polyad_request polyad_request;

typedef struct polyad_engine_options {
    size_t struct_size;
    int32_t max_batch;      /* rows decoded together; default 16 */
    int32_t max_queue;      /* waiting requests before submit returns QUEUE_FULL; default 1024 */
    int32_t max_context;    /* tokens one row may reach, prompt and answer; 0 = the model's limit, at most 4096 */
    int64_t memory_budget;  /* bytes for published skillsets and cached keys and values together; 0 = skillsets unlimited, and
                               max_batch rows of max_context tokens. Requests that find no room wait, or run again from their
                               start; none is lost */
    int32_t threads;        /* worker threads of this engine's steps; 0 = the context's. Beside a trainer that runs in the background
                               give both a share of the cores (docs/threading.md) */
    int32_t prefix_cache;   /* not 0 (default): prompts that begin alike, on the same skillset version and route, are computed once */
    int32_t merge_hot_task; /* 1: a task that is all the traffic for a while is merged into a copy of the weights, which costs that copy's
                               memory (counted in the budget) and speeds it up where weights are expanded; 0 (default): never */
} polyad_engine_options;
POLYAD_API void polyad_engine_options_init_sized(polyad_engine_options *options, size_t struct_size);
#define polyad_engine_options_init(options) polyad_engine_options_init_sized((options), sizeof *(options))

/* `options` may be NULL. Since 0.1. */
POLYAD_API POLYAD_MUST_USE polyad_status *polyad_engine_create(polyad_backbone *backbone, const polyad_engine_options *options,
                                                               polyad_engine **engine);
POLYAD_API polyad_engine *polyad_engine_retain(polyad_engine *engine);
POLYAD_API void polyad_engine_release(polyad_engine *engine);
/* Makes a snapshot of the skillset answer to `name`, replacing an earlier version: running requests finish on the version they
 * began with, new ones take the new, and the old version's memory is freed with its last request. Training the skillset further
 * does not change what is published. The work is done on one thread beside the steps, which go on meanwhile.
 * Errors: BACKBONE_MISMATCH; OUT_OF_MEMORY (the memory budget, with sizes: what is published stays as it was). Any thread. Since 0.1. */
POLYAD_API POLYAD_MUST_USE polyad_status *polyad_engine_publish(polyad_engine *engine, const char *name, const polyad_skillset *skillset);
/* New requests no longer find it, submitted ones finish. Errors: NOT_FOUND. Any thread. Since 0.1. */
POLYAD_API POLYAD_MUST_USE polyad_status *polyad_engine_retire(polyad_engine *engine, const char *name);

typedef struct polyad_request_options {
    size_t struct_size;
    const char *skillset;     /* published name; NULL = the backbone alone */
    const char *task;         /* required by methods that route by task unless weights are given */
    const char *prompt;       /* the example's input, put into the task's prompt; or NULL with tokens */
    size_t prompt_size;       /* bytes; 0 = NUL-terminated */
    const int32_t *tokens;    /* a finished prompt as token ids, instead of `prompt` */
    size_t token_count;
    const float *weights;     /* explicit skill weights instead of the router's; NULL = let the router decide */
    size_t weight_count;
    int32_t max_tokens;       /* default 64 */
    float temperature;        /* 0 = greedy (default) */
    int32_t top_k;            /* 0 = off */
    float top_p;              /* 1 = off */
    float repetition_penalty; /* 1 = off */
    uint64_t seed;
    const char *const *stop;  /* the answer ends before the first of these strings */
    size_t stop_count;
    int32_t ignore_eos;       /* not 0: go on after the end token (benchmarks) */
    const float *intuition;   /* MoR1E: the host's own scores of the prompt, one per expert; NULL = from the prompt's text */
    size_t intuition_count;
    double timeout;           /* seconds from submit after which it ends as POLYAD_REQUEST_EXPIRED; 0 = never (default) */
    int32_t priority;         /* waiting requests of a higher priority come first; default 0. Within one priority the tasks take turns */
} polyad_request_options;
POLYAD_API void polyad_request_options_init_sized(polyad_request_options *options, size_t struct_size);
#define polyad_request_options_init(options) polyad_request_options_init_sized((options), sizeof *(options))

typedef enum polyad_request_state {
    POLYAD_REQUEST_WAITING = 0,
    POLYAD_REQUEST_RUNNING = 1,
    POLYAD_REQUEST_FINISHED = 2,  /* end token, stop string or max_tokens */
    POLYAD_REQUEST_CANCELLED = 3,
    POLYAD_REQUEST_FAILED = 4,    /* polyad_request_result tells why */
    POLYAD_REQUEST_EXPIRED = 5    /* its timeout passed; polyad_request_result gives what it had */
} polyad_request_state;

/* Everything in `options` is copied. Never waits. Errors: QUEUE_FULL, NOT_FOUND (no such skillset, or a retired one), UNKNOWN_TASK,
 * CONTEXT_OVERFLOW, OUT_OF_MEMORY (it could never fit into the memory budget; both sizes), BAD_DATA, INVALID_ARGUMENT. Any thread. Since 0.1. */
POLYAD_API POLYAD_MUST_USE polyad_status *polyad_engine_submit(polyad_engine *engine, const polyad_request_options *options,
                                                               polyad_request **request);
/* Admits waiting requests and produces one token for every running one. *busy (may be NULL) = requests still waiting or running.
 * A request that fails does not fail the step. Since 0.1. */
POLYAD_API POLYAD_MUST_USE polyad_status *polyad_engine_step(polyad_engine *engine, int32_t *busy);
/* JSON: skillsets: {name: {"version", "tasks", "bytes"}}, waiting, running, steps, graph_steps (of them, played as CUDA graphs), finished, failed, cancelled,
 * expired, preempted, prompt_tokens, tokens, tokens_per_second, max_batch, max_context, memory: {"budget", "skills", "cache", "cache_shared", "merged"} in bytes,
 * prefix_cache: {"hits", "tokens"}. Any thread. Since 0.1. */
POLYAD_API POLYAD_MUST_USE polyad_status *polyad_engine_stats(const polyad_engine *engine, polyad_text **json);

POLYAD_API polyad_request *polyad_request_retain(polyad_request *request);
/* Dropping the last reference of a running request cancels it. */
POLYAD_API void polyad_request_release(polyad_request *request);
/* Text that became certain since the last poll ("" when none; never half a character) and the state. `piece` and `state` may
 * be NULL. Any thread. Since 0.1. */
POLYAD_API POLYAD_MUST_USE polyad_status *polyad_request_poll(polyad_request *request, polyad_text **piece, int32_t *state);
/* JSON: text (all of it), tokens, finish_reason, prompt_tokens, cached_tokens (of the prompt, found in the prefix cache), truncated,
 * seconds. A cancelled or expired request gives what it had. For a failed request the status that failed it; WRONG_STATE while it
 * waits or runs. Any thread. Since 0.1. */
POLYAD_API POLYAD_MUST_USE polyad_status *polyad_request_result(const polyad_request *request, polyad_text **json);
/* Any thread, any time. Since 0.1. */
POLYAD_API void polyad_request_cancel(polyad_request *request);

#ifdef __cplusplus
}
#endif

#endif /* POLYAD_POLYAD_H */
