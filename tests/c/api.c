/* SPDX-License-Identifier: Apache-2.0
 * The whole life of a skillset through the public header alone, on the tiny model of the fixtures: open, tokenize, train, stop
 * and resume, save, load, score, serve a mixed batch, release in any order.
 */
#include "check.h"

#define MODEL POLYAD_SHARED_DIR "/fixtures/gguf/tiny_llama.gguf"

static const char lines[] =
    "{\"task\": \"up\", \"instruction\": \"Say up.\", \"input\": \"a\", \"output\": \"up\", \"split\": \"train\"}\n"
    "{\"task\": \"up\", \"instruction\": \"Say up.\", \"input\": \"b\", \"output\": \"up\", \"split\": \"train\"}\n"
    "{\"task\": \"up\", \"instruction\": \"Say up.\", \"input\": \"c\", \"output\": \"up\", \"split\": \"test\"}\n"
    "{\"task\": \"down\", \"instruction\": \"Say down.\", \"input\": \"a\", \"output\": \"down\", \"split\": \"train\"}\n"
    "{\"task\": \"down\", \"instruction\": \"Say down.\", \"input\": \"b\", \"output\": \"down\", \"split\": \"train\"}\n"
    "{\"task\": \"down\", \"instruction\": \"Say down.\", \"input\": \"c\", \"output\": \"down\", \"split\": \"test\"}\n";

static const char method[] =
    "{\"method\": \"cpoly\", \"rank\": 4, \"common_skills\": 2, \"seed\": 3,"
    " \"prompt\": {\"style\": \"{instruction} {input} ->\"}}";
static const char training[] = "{\"max_steps\": 6, \"batch_size\": 2, \"learning_rate\": 0.01, \"seed\": 5}";

static void train_steps(polyad_trainer *trainer, int count) {
    polyad_progress p;
    int i;
    for (i = 0; i < count; ++i) {
        polyad_progress_init(&p);
        WORKS(polyad_trainer_step(trainer, &p));
        EXPECT(p.loss > 0 && p.loss < 100);
    }
    EXPECT(p.total_steps == 6);
}

static int same_parameters(polyad_skillset *a, polyad_skillset *b) {
    size_t n = 0, m = 0;
    float *x, *y;
    int same;
    WORKS(polyad_skillset_parameter_count(a, &n));
    WORKS(polyad_skillset_parameter_count(b, &m));
    if (n != m || n == 0) return 0;
    x = malloc(n * sizeof *x);
    y = malloc(n * sizeof *y);
    WORKS(polyad_skillset_get_parameters(a, x, n));
    WORKS(polyad_skillset_get_parameters(b, y, n));
    same = memcmp(x, y, n * sizeof *x) == 0;
    free(x);
    free(y);
    return same;
}

int main(void) {
    polyad_context *context, *context2;
    polyad_backbone *model, *copy;
    polyad_dataset *data;
    polyad_skillset *skills, *again, *loaded;
    polyad_trainer *trainer, *second;
    polyad_evaluator *evaluator;
    polyad_engine *engine;
    polyad_request *request[3];
    polyad_text *text, *bytes;
    polyad_progress p;
    polyad_request_options o;
    const char *checkpoint = "c_api.checkpoint", *bundle = "c_api.polyad";
    int32_t ids[64], busy, state;
    float weights[16], *logits;
    size_t count = 0, size;
    void *file = read_file(MODEL, &size);
    int i;

    if (!file) return skip("the shared fixtures are not here (" MODEL ")");
    EXPECT(polyad_version() == POLYAD_VERSION_NUMBER);
    EXPECT(strstr(polyad_build_info(), "libtorch") != NULL);
    EXPECT(polyad_has_feature("method:cpoly") == 1 && polyad_has_feature("method:nosuch") == 0 && polyad_has_feature(NULL) == 0);

    WORKS(polyad_context_create(NULL, &context));
    WORKS(polyad_backbone_open(context, MODEL, "{\"precision\": \"fp32\"}", &model));
    WORKS(polyad_backbone_open_memory(context, file, size, "{\"precision\": \"fp32\"}", &copy));
    free(file);
    WORKS(polyad_backbone_info(model, &text));
    EXPECT(strstr(polyad_text_data(text), "\"family\":\"llama\"") != NULL);
    polyad_text_release(text);
    WORKS(polyad_backbone_tokenize(model, "hello 12", 0, ids, 64, &count));
    EXPECT(count > 0 && count < 64);
    WORKS(polyad_backbone_detokenize(model, ids, count, 1, &text));
    EXPECT(strcmp(polyad_text_data(text), "hello 12") == 0);
    polyad_text_release(text);

    WORKS(polyad_dataset_open_memory(context, lines, sizeof lines - 1, NULL, &data));
    WORKS(polyad_dataset_example(data, "up", POLYAD_TEST, 0, &text));
    EXPECT(strstr(polyad_text_data(text), "\"input\":\"c\"") != NULL);
    polyad_text_release(text);

    /* Stop after three steps, resume in another trainer: the same weights bit for bit as six steps in one go. */
    WORKS(polyad_skillset_create(model, data, method, &skills));
    WORKS(polyad_trainer_create(skills, data, training, &trainer));
    train_steps(trainer, 3);
    WORKS(polyad_trainer_save_checkpoint(trainer, checkpoint));
    train_steps(trainer, 3);
    polyad_progress_init(&p);
    REFUSED(polyad_trainer_step(trainer, &p), POLYAD_WRONG_STATE, "");
    WORKS(polyad_skillset_create(model, data, method, &again));
    EXPECT(!same_parameters(skills, again));
    WORKS(polyad_trainer_create(again, data, training, &second));
    WORKS(polyad_trainer_resume(second, checkpoint));
    train_steps(second, 3);
    EXPECT(same_parameters(skills, again));
    WORKS(polyad_trainer_report(trainer, &text));
    EXPECT(strstr(polyad_text_data(text), "history") != NULL);
    polyad_text_release(text);

    /* Save, load from file and from memory. */
    WORKS(polyad_skillset_save(skills, bundle));
    WORKS(polyad_skillset_load(model, bundle, &loaded));
    EXPECT(same_parameters(skills, loaded));
    polyad_skillset_release(loaded);
    WORKS(polyad_skillset_save_memory(skills, &bytes));
    WORKS(polyad_skillset_load_memory(copy, polyad_text_data(bytes), polyad_text_size(bytes), &loaded));
    EXPECT(same_parameters(skills, loaded));
    polyad_text_release(bytes);
    WORKS(polyad_bundle_inspect(context, bundle, &text));
    EXPECT(strstr(polyad_text_data(text), "\"cpoly\"") != NULL);
    polyad_text_release(text);
    WORKS(polyad_skillset_task_weights(skills, "up", weights, 16, &count));
    EXPECT(count > 2);
    WORKS(polyad_skillset_routing(skills, NULL, "{\"groups\": 1}", &text));
    EXPECT(strstr(polyad_text_data(text), "\"source\":\"tables\"") && strstr(polyad_text_data(text), "\"linkage\""));
    polyad_text_release(text);

    WORKS(polyad_backbone_info(model, &text));
    size = (size_t)atoi(strstr(polyad_text_data(text), "\"vocab\":") + 8);
    polyad_text_release(text);
    logits = malloc(size * sizeof *logits);
    WORKS(polyad_backbone_logits(model, skills, "up", ids, 3, logits, size));
    REFUSED(polyad_backbone_logits(model, skills, "up", ids, 3, logits, size - 1), POLYAD_INVALID_ARGUMENT, "vocabulary");
    free(logits);

    WORKS(polyad_evaluator_create(model, skills, data, "{\"split\": \"test\", \"max_tokens\": 4}", &evaluator));
    do {
        polyad_progress_init(&p);
        WORKS(polyad_evaluator_step(evaluator, &p));
    } while (!p.done && !checks_failed);
    WORKS(polyad_evaluator_result(evaluator, &text));
    EXPECT(strstr(polyad_text_data(text), "rouge_l") != NULL);
    polyad_text_release(text);

    /* One batch: two tasks of one skillset and the backbone alone. */
    WORKS(polyad_engine_create(model, NULL, &engine));
    WORKS(polyad_engine_publish(engine, "words", skills));
    for (i = 0; i < 3; ++i) {
        polyad_request_options_init(&o);
        o.max_tokens = 4;
        o.ignore_eos = 1;
        if (i < 2) {
            o.skillset = "words";
            o.task = i ? "down" : "up";
            o.prompt = "c";
        } else {
            o.tokens = ids;
            o.token_count = 3;
        }
        WORKS(polyad_engine_submit(engine, &o, &request[i]));
    }
    REFUSED(polyad_request_result(request[0], &text), POLYAD_WRONG_STATE, "");
    do WORKS(polyad_engine_step(engine, &busy));
    while (busy > 0 && !checks_failed);
    for (i = 0; i < 3; ++i) {
        WORKS(polyad_request_poll(request[i], &text, &state));
        EXPECT(state == POLYAD_REQUEST_FINISHED);
        polyad_text_release(text);
        WORKS(polyad_request_result(request[i], &text));
        EXPECT(strstr(polyad_text_data(text), "finish_reason") != NULL);
        polyad_text_release(text);
    }
    WORKS(polyad_engine_retire(engine, "words"));
    REFUSED(polyad_engine_retire(engine, "words"), POLYAD_NOT_FOUND, "words");

    /* Parents first: children keep what they need. */
    context2 = polyad_context_retain(context);
    polyad_context_release(context);
    polyad_context_release(context2);
    polyad_backbone_release(model);
    polyad_backbone_release(copy);
    polyad_engine_release(engine);
    for (i = 0; i < 3; ++i) {
        WORKS(polyad_request_poll(request[i], NULL, &state));
        EXPECT(state == POLYAD_REQUEST_FINISHED);
        polyad_request_release(request[i]);
    }
    polyad_skillset_release(skills);
    WORKS(polyad_trainer_report(trainer, &text));
    polyad_text_release(text);
    polyad_trainer_release(trainer);
    polyad_trainer_release(second);
    polyad_skillset_release(again);
    WORKS(polyad_skillset_save(loaded, bundle));
    polyad_skillset_release(loaded);
    polyad_evaluator_release(evaluator);
    polyad_dataset_release(data);
    remove(checkpoint);
    remove(bundle);
    return finish();
}
