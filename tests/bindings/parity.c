/* SPDX-License-Identifier: Apache-2.0
 * What every binding has to reproduce bit for bit: losses of training, parameters, logits, greedy and drawn answers, as lines of
 * hexadecimal bits.
 *
 *     bindings_parity MODEL.gguf
 */
#include <polyad/polyad.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check(polyad_status *status) {
    if (!status) return;
    fprintf(stderr, "%s: %s\n", polyad_code_name(polyad_status_code(status)), polyad_status_message(status));
    exit(1);
}

static void print_double(const char *what, long long index, double value) {
    unsigned long long bits;
    memcpy(&bits, &value, sizeof bits);
    printf("%s %lld %016llx\n", what, index, bits);
}

/* FNV-1a over the floats' bytes, from the lowest byte up, and the first of them in full. */
static void print_floats(const char *what, const float *values, size_t count) {
    unsigned long long hash = 0xcbf29ce484222325ull;
    unsigned int bits, first = 0;
    size_t i;
    int byte;
    for (i = 0; i < count; ++i) {
        memcpy(&bits, &values[i], sizeof bits);
        if (i == 0) first = bits;
        for (byte = 0; byte < 4; ++byte) hash = (hash ^ (bits >> 8 * byte & 0xff)) * 0x100000001b3ull;
    }
    printf("%s %llu %08x %016llx\n", what, (unsigned long long)count, first, hash);
}

static const char lines[] =
    "{\"task\": \"up\", \"instruction\": \"Say up.\", \"input\": \"a\", \"outputs\": [\"up\"], \"split\": \"train\"}\n"
    "{\"task\": \"up\", \"instruction\": \"Say up.\", \"input\": \"b\", \"outputs\": [\"up\"], \"split\": \"train\"}\n"
    "{\"task\": \"up\", \"instruction\": \"Say up.\", \"input\": \"c\", \"outputs\": [\"up\"], \"split\": \"test\"}\n"
    "{\"task\": \"down\", \"instruction\": \"Say down.\", \"input\": \"a\", \"outputs\": [\"down\"], \"split\": \"train\"}\n"
    "{\"task\": \"down\", \"instruction\": \"Say down.\", \"input\": \"b\", \"outputs\": [\"down\"], \"split\": \"train\"}\n"
    "{\"task\": \"down\", \"instruction\": \"Say down.\", \"input\": \"c\", \"outputs\": [\"down\"], \"split\": \"test\"}\n";

int main(int argc, char **argv) {
    static const char *const tasks[2] = {"up", "down"};
    polyad_context *context;
    polyad_backbone *model;
    polyad_dataset *data;
    polyad_skillset *skills;
    polyad_trainer *trainer;
    polyad_engine *engine;
    polyad_request *request[3];
    polyad_request_options o;
    polyad_progress p;
    polyad_text *text;
    int32_t ids[64], busy;
    size_t count, vocabulary;
    float *values;
    int i;
    if (argc != 2) {
        fprintf(stderr, "usage: %s MODEL.gguf\n", argv[0]);
        return 2;
    }
    check(polyad_context_create(NULL, &context));
    check(polyad_backbone_open(context, argv[1], "{\"precision\": \"fp32\"}", &model));
    check(polyad_dataset_open_memory(context, lines, sizeof lines - 1, NULL, &data));
    check(polyad_skillset_create(model, data,
                                 "{\"method\": \"cpoly\", \"rank\": 4, \"common_skills\": 2, \"seed\": 3,"
                                 " \"prompt\": {\"style\": \"{instruction} {input} ->\"}}",
                                 &skills));
    check(polyad_trainer_create(skills, data, "{\"max_steps\": 6, \"batch_size\": 2, \"learning_rate\": 0.01, \"seed\": 5}", &trainer));
    polyad_progress_init(&p);
    do {
        check(polyad_trainer_step(trainer, &p));
        print_double("loss", (long long)p.step, p.loss);
    } while (!p.done);

    check(polyad_skillset_parameter_count(skills, &count));
    values = malloc(count * sizeof *values);
    if (!values) return 1;
    check(polyad_skillset_get_parameters(skills, values, count));
    print_floats("parameters", values, count);
    free(values);

    check(polyad_backbone_info(model, &text));
    vocabulary = (size_t)atoi(strstr(polyad_text_data(text), "\"vocab\":") + 8);
    polyad_text_release(text);
    check(polyad_backbone_tokenize(model, "Say up. c ->", 0, ids, 64, &count));
    values = malloc(vocabulary * sizeof *values);
    if (!values) return 1;
    check(polyad_backbone_logits(model, NULL, NULL, ids, count, values, vocabulary));
    print_floats("logits", values, vocabulary);
    for (i = 0; i < 2; ++i) {
        check(polyad_backbone_logits(model, skills, tasks[i], ids, count, values, vocabulary));
        print_floats(tasks[i], values, vocabulary);
    }
    free(values);

    check(polyad_engine_create(model, NULL, &engine));
    check(polyad_engine_publish(engine, "words", skills));
    for (i = 0; i < 3; ++i) {
        polyad_request_options_init(&o);
        o.max_tokens = 12;
        o.ignore_eos = 1;
        if (i < 2) {
            o.skillset = "words";
            o.task = tasks[i];
            o.prompt = "c";
        } else {
            o.tokens = ids;
            o.token_count = count;
            o.temperature = 0.8f;
            o.top_p = 0.9f;
            o.seed = 0xfedcba9876543210ull;
        }
        check(polyad_engine_submit(engine, &o, &request[i]));
    }
    do check(polyad_engine_step(engine, &busy));
    while (busy > 0);
    for (i = 0; i < 3; ++i) {
        const char *tokens;
        check(polyad_request_result(request[i], &text));
        tokens = strstr(polyad_text_data(text), "\"tokens\":") + 9;
        printf("tokens %d %.*s\n", i, (int)(strchr(tokens, ']') - tokens + 1), tokens);
        polyad_text_release(text);
        polyad_request_release(request[i]);
    }
    polyad_engine_release(engine);
    polyad_trainer_release(trainer);
    polyad_skillset_release(skills);
    polyad_dataset_release(data);
    polyad_backbone_release(model);
    polyad_context_release(context);
    return 0;
}
