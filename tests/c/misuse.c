/* SPDX-License-Identifier: Apache-2.0
 * Everything a host can do wrong: NULLs, released handles, handles of another kind, made-up pointers, older and broken structs,
 * unknown keys, wrong ranges, text that is not UTF-8. Each gives a status; nothing crashes.
 */
#include "check.h"

#define MODEL POLYAD_SHARED_DIR "/fixtures/gguf/tiny_llama.gguf"

/* A caller that was compiled against an older header has a smaller struct: nothing behind it is touched, nothing of it is left out. */
static void older_structs(void) {
    union {
        polyad_request_options request;
        polyad_engine_options engine;
        polyad_progress progress;
        unsigned char bytes[sizeof(polyad_request_options) + 64];
    } memory;
    size_t known, i;
    const size_t sizes[] = {0, sizeof(size_t) - 1, sizeof(size_t), offsetof(polyad_request_options, temperature),
                            offsetof(polyad_request_options, ignore_eos), sizeof(polyad_request_options),
                            sizeof(polyad_request_options) + 32};
    for (i = 0; i < sizeof sizes / sizeof *sizes; ++i) {
        size_t byte;
        known = sizes[i];
        memset(&memory, 0x5a, sizeof memory);
        polyad_request_options_init_sized(&memory.request, known);
        if (known < sizeof(size_t)) known = 0;
        else EXPECT(memory.request.struct_size == known);
        for (byte = known; byte < sizeof memory; ++byte) EXPECT(memory.bytes[byte] == 0x5a);
        if (known > offsetof(polyad_request_options, temperature)) EXPECT(memory.request.max_tokens == 64);
        for (byte = sizeof(polyad_request_options); byte < known; ++byte) EXPECT(memory.bytes[byte] == 0);
    }
    memset(&memory, 0x5a, sizeof memory);
    polyad_engine_options_init_sized(&memory.engine, offsetof(polyad_engine_options, max_context));
    EXPECT(memory.engine.max_batch == 16 && memory.engine.max_context == 0x5a5a5a5a);
    memset(&memory, 0x5a, sizeof memory);
    polyad_progress_init_sized(&memory.progress, offsetof(polyad_progress, epoch));
    EXPECT(memory.progress.total_steps == 0 && memory.bytes[offsetof(polyad_progress, epoch)] == 0x5a);
    polyad_progress_init_sized(NULL, sizeof memory.progress);
    polyad_context_options_init_sized(NULL, 0);
}

static void before_anything_is_open(void) {
    polyad_context *context = (polyad_context *)1;
    polyad_backbone *model = (polyad_backbone *)1;
    polyad_context_options options;
    polyad_text *text;
    char junk[64] = {0};

    EXPECT(polyad_status_code(NULL) == POLYAD_OK);
    EXPECT(strcmp(polyad_status_message(NULL), "") == 0);
    EXPECT(strcmp(polyad_code_name(12345), "unknown") == 0);
    EXPECT(polyad_text_size(NULL) == 0 && strcmp(polyad_text_data(NULL), "") == 0);
    polyad_status_release(NULL);
    polyad_text_release(NULL);
    polyad_backbone_release(NULL);
    polyad_trainer_cancel(NULL);
    polyad_request_cancel(NULL);
    polyad_evaluator_cancel(NULL);
    EXPECT(polyad_context_retain(NULL) == NULL);
    polyad_context_release((polyad_context *)(void *)junk);
    EXPECT(polyad_context_retain((polyad_context *)(void *)junk) == NULL);

    REFUSED(polyad_context_create(NULL, NULL), POLYAD_INVALID_ARGUMENT, "context");
    polyad_context_options_init(&options);
    options.threads = -1;
    REFUSED(polyad_context_create(&options, &context), POLYAD_INVALID_ARGUMENT, "threads");
    EXPECT(context == NULL);
    memset(&options, 0, sizeof options);
    REFUSED(polyad_context_create(&options, &context), POLYAD_INVALID_ARGUMENT, "struct_size");
    options.struct_size = sizeof(size_t); /* a caller that knows only the first member */
    options.threads = 123456;
    WORKS(polyad_context_create(&options, &context));
    polyad_context_release(context);

    REFUSED(polyad_backbone_open(NULL, "x", NULL, &model), POLYAD_INVALID_ARGUMENT, "context");
    EXPECT(model == NULL);
    REFUSED(polyad_backbone_open(context, "x", NULL, &model), POLYAD_INVALID_ARGUMENT, "released");
    REFUSED(polyad_backbone_open((polyad_context *)(void *)junk, "x", NULL, &model), POLYAD_INVALID_ARGUMENT, "context");
    REFUSED(polyad_backbone_info(NULL, &text), POLYAD_INVALID_ARGUMENT, "backbone");
}

static void with_a_model(polyad_context *context, polyad_backbone *model) {
    polyad_backbone *none = NULL;
    polyad_dataset *data = NULL;
    polyad_skillset *skills = NULL, *other = NULL;
    polyad_trainer *trainer = NULL;
    polyad_engine *engine = NULL;
    polyad_request *request = NULL;
    polyad_request_options o;
    polyad_progress p;
    polyad_text *text = NULL;
    static const char row[] = "{\"task\": \"t\", \"instruction\": \"i\", \"input\": \"a\", \"output\": \"b\", \"split\": \"train\"}\n";
    static const char bad_row[] = "{\"task\": \"t\", \"input\": 7}\n";
    static const char not_utf8[] = "{\"task\": \"t\", \"input\": \"\xff\", \"output\": \"b\"}\n";
    static char endless[5000]; /* a path no system takes */
    float buffer[4] = {0};
    int32_t ids[2] = {1, 1 << 30}, busy;
    size_t count;

    REFUSED(polyad_backbone_open(context, NULL, NULL, &none), POLYAD_INVALID_ARGUMENT, "path");
    REFUSED(polyad_backbone_open(context, "/nosuch/model.gguf", NULL, &none), POLYAD_NOT_FOUND, "/nosuch/model.gguf");
    memset(endless, 'x', sizeof endless - 1);
    endless[sizeof endless - 1] = 0;
    REFUSED(polyad_backbone_open(context, endless, NULL, &none), POLYAD_IO_ERROR, "too long");
    REFUSED(polyad_dataset_open(context, endless, NULL, &data), POLYAD_IO_ERROR, "too long");
    REFUSED(polyad_backbone_open(context, MODEL, "{\"precison\": \"fp32\"}", &none), POLYAD_INVALID_CONFIG, "precison");
    REFUSED(polyad_backbone_open(context, MODEL, "{\"precision\": \"fp8\"}", &none), POLYAD_INVALID_CONFIG, "bf16");
    REFUSED(polyad_backbone_open(context, MODEL, "{\"precision\"", &none), POLYAD_INVALID_CONFIG, "JSON");
    REFUSED(polyad_backbone_open_memory(context, NULL, 10, NULL, &none), POLYAD_INVALID_ARGUMENT, "NULL");
    REFUSED(polyad_backbone_open_memory(context, "GGUF", 4, NULL, &none), POLYAD_BAD_FORMAT, "");
    REFUSED(polyad_backbone_open((polyad_context *)(void *)model, MODEL, NULL, &none), POLYAD_INVALID_ARGUMENT, "another kind");
    REFUSED(polyad_backbone_tokenize(model, "a\xff", 2, NULL, 0, &count), POLYAD_BAD_DATA, "1");
    REFUSED(polyad_backbone_tokenize(model, "a", 1, NULL, 5, &count), POLYAD_INVALID_ARGUMENT, "ids");
    REFUSED(polyad_backbone_detokenize(model, ids, 2, 0, &text), POLYAD_INVALID_ARGUMENT, "ids[1]");
    EXPECT(text == NULL);
    REFUSED(polyad_backbone_chat(model, "{}", 1, &text), POLYAD_INVALID_CONFIG, "list");

    REFUSED(polyad_dataset_open(context, "/nosuch/tasks", NULL, &data), POLYAD_NOT_FOUND, "/nosuch/tasks");
    REFUSED(polyad_dataset_open_memory(context, "", 0, NULL, &data), POLYAD_BAD_DATA, "");
    REFUSED(polyad_dataset_open_memory(context, bad_row, sizeof bad_row - 1, NULL, &data), POLYAD_BAD_DATA, "");
    REFUSED(polyad_dataset_open_memory(context, not_utf8, sizeof not_utf8 - 1, NULL, &data), POLYAD_BAD_DATA, "UTF-8");
    WORKS(polyad_dataset_open_memory(context, row, sizeof row - 1, NULL, &data));
    REFUSED(polyad_dataset_example(data, "nosuch", POLYAD_TRAIN, 0, &text), POLYAD_UNKNOWN_TASK, "nosuch");
    REFUSED(polyad_dataset_example(data, "t", POLYAD_TRAIN, 7, &text), POLYAD_INVALID_ARGUMENT, "1 train");
    REFUSED(polyad_dataset_example(data, "t", 9, 0, &text), POLYAD_INVALID_ARGUMENT, "split");

    REFUSED(polyad_skillset_create(model, data, "{\"method\": \"nosuch\"}", &skills), POLYAD_INVALID_CONFIG, "cpoly");
    REFUSED(polyad_skillset_create(model, data, "{\"method\": \"lora\", \"rank\": 0}", &skills), POLYAD_INVALID_CONFIG, "rank");
    REFUSED(polyad_skillset_create(model, data, "{\"method\": \"lora\", \"rnk\": 8}", &skills), POLYAD_INVALID_CONFIG, "rnk");
    REFUSED(polyad_skillset_create(model, data, "{\"method\": \"lora\", \"target_modules\": [\"nosuch\"]}", &skills),
            POLYAD_INVALID_CONFIG, "q_proj");
    REFUSED(polyad_skillset_create(model, data, "{\"method\": \"mhr\", \"n_splits\": 7}", &skills), POLYAD_INVALID_CONFIG, "");
    REFUSED(polyad_skillset_create(model, NULL, NULL, &skills), POLYAD_INVALID_ARGUMENT, "dataset");
    EXPECT(skills == NULL);
    WORKS(polyad_skillset_create(model, data, "{\"method\": \"lora\", \"rank\": 2, \"prompt\": {\"style\": \"plain\"}}", &skills));
    REFUSED(polyad_skillset_load(model, "/nosuch.polyad", &other), POLYAD_NOT_FOUND, "nosuch");
    REFUSED(polyad_skillset_save(skills, "/nosuch/folder/x.polyad"), POLYAD_IO_ERROR, "/nosuch/folder");
    REFUSED(polyad_skillset_get_parameters(skills, buffer, 4), POLYAD_INVALID_ARGUMENT, "4");
    REFUSED(polyad_skillset_task_weights(skills, "nosuch", buffer, 4, &count), POLYAD_UNKNOWN_TASK, "nosuch");
    REFUSED(polyad_skillset_routing(NULL, NULL, NULL, &text), POLYAD_INVALID_ARGUMENT, "skillset");
    REFUSED(polyad_skillset_routing(skills, NULL, NULL, NULL), POLYAD_INVALID_ARGUMENT, "json");
    REFUSED(polyad_skillset_routing(skills, data, "{\"splitt\": \"test\"}", &text), POLYAD_INVALID_CONFIG, "splitt");
    REFUSED(polyad_skillset_routing(skills, data, "{\"tasks\": [\"nosuch\"]}", &text), POLYAD_UNKNOWN_TASK, "nosuch");
    EXPECT(text == NULL);
    REFUSED(polyad_skillset_set_metadata(skills, "licence", "{"), POLYAD_INVALID_CONFIG, "JSON");

    REFUSED(polyad_trainer_create(skills, data, "{\"learning_rate\": -1}", &trainer), POLYAD_INVALID_CONFIG, "learning_rate");
    REFUSED(polyad_trainer_create(skills, data, "{\"lr\": 1}", &trainer), POLYAD_INVALID_CONFIG, "learning_rate");
    WORKS(polyad_trainer_create(skills, data, "{\"max_steps\": 3, \"batch_size\": 1}", &trainer));
    memset(&p, 0, sizeof p);
    REFUSED(polyad_trainer_step(trainer, &p), POLYAD_INVALID_ARGUMENT, "struct_size");
    REFUSED(polyad_trainer_resume(trainer, "/nosuch.checkpoint"), POLYAD_NOT_FOUND, "nosuch");
    polyad_trainer_cancel(trainer);
    REFUSED(polyad_trainer_step(trainer, NULL), POLYAD_CANCELLED, "");
    WORKS(polyad_trainer_step(trainer, NULL));

    WORKS(polyad_engine_create(model, NULL, &engine));
    polyad_request_options_init(&o);
    REFUSED(polyad_engine_submit(engine, &o, &request), POLYAD_INVALID_ARGUMENT, "prompt");
    o.prompt = "x";
    o.skillset = "nosuch";
    REFUSED(polyad_engine_submit(engine, &o, &request), POLYAD_NOT_FOUND, "nosuch");
    WORKS(polyad_engine_publish(engine, "lora", skills));
    o.skillset = "lora";
    o.task = "nosuch";
    REFUSED(polyad_engine_submit(engine, &o, &request), POLYAD_UNKNOWN_TASK, "nosuch");
    o.task = "t";
    o.max_tokens = -1;
    REFUSED(polyad_engine_submit(engine, &o, &request), POLYAD_INVALID_ARGUMENT, "max_tokens");
    o.max_tokens = 4;
    o.temperature = -1.0f;
    REFUSED(polyad_engine_submit(engine, &o, &request), POLYAD_INVALID_ARGUMENT, "temperature");
    o.temperature = 0;
    o.prompt = "\xff";
    o.prompt_size = 1;
    REFUSED(polyad_engine_submit(engine, &o, &request), POLYAD_BAD_DATA, "UTF-8");
    EXPECT(request == NULL);
    o.prompt = NULL;
    o.prompt_size = 0;
    o.tokens = ids;
    o.token_count = 2;
    REFUSED(polyad_engine_submit(engine, &o, &request), POLYAD_INVALID_ARGUMENT, "1073741824");
    o.struct_size = 3;
    REFUSED(polyad_engine_submit(engine, &o, &request), POLYAD_INVALID_ARGUMENT, "struct_size");

    /* An older caller's structs, which end in the middle: what follows them is neither read nor written. */
    memset(&o, 0x5a, sizeof o);
    polyad_request_options_init_sized(&o, offsetof(polyad_request_options, temperature));
    o.skillset = "lora";
    o.task = "t";
    o.prompt = "x";
    o.max_tokens = 2;
    WORKS(polyad_engine_submit(engine, &o, &request));
    do WORKS(polyad_engine_step(engine, &busy)); while (busy);
    WORKS(polyad_request_result(request, &text));
    EXPECT(strstr(polyad_text_data(text), "\"finish_reason\":\"max_tokens\"") != NULL);
    polyad_text_release(text);
    polyad_request_release(request);
    memset(&p, 0x5a, sizeof p);
    polyad_progress_init_sized(&p, offsetof(polyad_progress, loss));
    WORKS(polyad_trainer_step(trainer, &p));
    EXPECT(p.step == 2 && p.total_steps == 3 && memcmp(&p.loss, "ZZZZZZZZ", 8) == 0);

    polyad_skillset_release(skills);
    polyad_skillset_release(skills); /* twice: ignored, the trainer keeps what it needs */
    REFUSED(polyad_skillset_save(skills, "x.polyad"), POLYAD_INVALID_ARGUMENT, "released");
    REFUSED(polyad_engine_publish(engine, "again", skills), POLYAD_INVALID_ARGUMENT, "released");
    WORKS(polyad_trainer_step(trainer, NULL));
    polyad_trainer_release(trainer);
    polyad_engine_release(engine);
    polyad_dataset_release(data);
}

int main(void) {
    polyad_context *context;
    polyad_backbone *model;
    FILE *file = fopen(MODEL, "rb");
    older_structs();
    if (!file) return skip("the shared fixtures are not here (" MODEL ")");
    fclose(file);
    before_anything_is_open();
    WORKS(polyad_context_create(NULL, &context));
    WORKS(polyad_backbone_open(context, MODEL, NULL, &model));
    with_a_model(context, model);
    polyad_backbone_release(model);
    polyad_context_release(context);
    return finish();
}
