/* SPDX-License-Identifier: Apache-2.0
 * Serves one batch in which every request names its own task, one brings its own skill weights, and one wants the backbone alone;
 * prints each answer piece by piece as it comes.
 *
 *     serve_mixed_batch MODEL.gguf BUNDLE.polyad PROMPT TASK...
 */
#include <polyad/polyad.h>
#include <stdio.h>
#include <stdlib.h>

enum { most = 16, most_weights = 256 };

static void check(polyad_status *status) {
    if (!status) return;
    fprintf(stderr, "%s: %s\n", polyad_code_name(polyad_status_code(status)), polyad_status_message(status));
    exit(1);
}

int main(int argc, char **argv) {
    polyad_context *context;
    polyad_backbone *model;
    polyad_skillset *skills;
    polyad_engine *engine;
    polyad_request *request[most];
    int32_t state[most], open = 0;
    float weights[most_weights];
    size_t weight_count;
    int i, requests = argc - 4 + 2;
    if (argc < 5 || requests > most) {
        fprintf(stderr, "usage: %s MODEL.gguf BUNDLE.polyad PROMPT TASK...\n", argv[0]);
        return 2;
    }
    check(polyad_context_create(NULL, &context));
    check(polyad_backbone_open(context, argv[1], NULL, &model));
    check(polyad_skillset_load(model, argv[2], &skills));
    check(polyad_skillset_task_weights(skills, argv[4], weights, most_weights, &weight_count));
    check(polyad_engine_create(model, NULL, &engine));
    check(polyad_engine_publish(engine, "skills", skills));

    for (i = 0; i < requests; ++i) {
        polyad_request_options o;
        polyad_request_options_init(&o);
        o.prompt = argv[3];
        o.max_tokens = 16;
        if (i < requests - 1) o.skillset = "skills";
        if (i < requests - 2) o.task = argv[4 + i];
        if (i == requests - 2) { /* the last task's prompt with the first task's weights */
            o.task = argv[argc - 1];
            o.weights = weights;
            o.weight_count = weight_count;
        }
        check(polyad_engine_submit(engine, &o, &request[i]));
        state[i] = POLYAD_REQUEST_WAITING;
        ++open;
    }
    while (open > 0) {
        check(polyad_engine_step(engine, NULL));
        for (i = 0; i < requests; ++i) {
            polyad_text *piece;
            if (state[i] >= POLYAD_REQUEST_FINISHED) continue;
            check(polyad_request_poll(request[i], &piece, &state[i]));
            if (polyad_text_size(piece)) printf("%d: %s\n", i, polyad_text_data(piece));
            polyad_text_release(piece);
            if (state[i] >= POLYAD_REQUEST_FINISHED) --open;
        }
    }
    for (i = 0; i < requests; ++i) {
        polyad_text *result;
        check(polyad_request_result(request[i], &result));
        printf("%d: %s\n", i, polyad_text_data(result));
        polyad_text_release(result);
        polyad_request_release(request[i]);
    }
    polyad_engine_release(engine);
    polyad_skillset_release(skills);
    polyad_backbone_release(model);
    polyad_context_release(context);
    return 0;
}
