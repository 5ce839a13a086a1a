/* SPDX-License-Identifier: Apache-2.0
 * Trains skills for every task of a folder, saves one bundle, loads it again and lets one mixed batch answer.
 *
 *     train_and_switch MODEL.gguf TASKS_FOLDER BUNDLE.polyad
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

static void train(polyad_backbone *model, polyad_dataset *tasks, const char *bundle) {
    polyad_skillset *skills;
    polyad_trainer *trainer;
    polyad_progress p;
    check(polyad_skillset_create(model, tasks, "{\"method\": \"cpoly\", \"rank\": 4, \"common_skills\": 3}", &skills));
    check(polyad_trainer_create(skills, tasks, "{\"max_steps\": 20, \"batch_size\": 8, \"learning_rate\": 2e-3}", &trainer));
    polyad_progress_init(&p);
    do {
        check(polyad_trainer_step(trainer, &p));
        printf("step %lld/%lld  loss %.3f  %.0f tokens/s\n", (long long)p.step, (long long)p.total_steps, p.loss,
               p.tokens_per_second);
    } while (!p.done);
    check(polyad_skillset_save(skills, bundle));
    polyad_trainer_release(trainer);
    polyad_skillset_release(skills);
}

/* Answers the first test example of two tasks in one batch. */
static void serve(polyad_backbone *model, const char *bundle, const char *const task[2], const char *const prompt[2]) {
    polyad_skillset *skills;
    polyad_engine *engine;
    polyad_request *request[2];
    int32_t busy, state;
    int i;
    check(polyad_skillset_load(model, bundle, &skills));
    check(polyad_engine_create(model, NULL, &engine));
    check(polyad_engine_publish(engine, "words", skills));
    for (i = 0; i < 2; ++i) {
        polyad_request_options o;
        polyad_request_options_init(&o);
        o.skillset = "words";
        o.task = task[i];
        o.prompt = prompt[i];
        o.max_tokens = 16;
        check(polyad_engine_submit(engine, &o, &request[i]));
    }
    do check(polyad_engine_step(engine, &busy));
    while (busy > 0);
    for (i = 0; i < 2; ++i) {
        polyad_text *answer;
        check(polyad_request_poll(request[i], &answer, &state));
        printf("%s: %s -> %s\n", task[i], prompt[i], polyad_text_data(answer));
        polyad_text_release(answer);
        polyad_request_release(request[i]);
    }
    polyad_engine_release(engine);
    polyad_skillset_release(skills);
}

int main(int argc, char **argv) {
    polyad_context *context;
    polyad_backbone *model;
    polyad_dataset *tasks;
    const char *const names[2] = {"antonym", "noun_plural"};
    const char *const words[2] = {"hot", "child"};
    if (argc != 4) {
        fprintf(stderr, "usage: %s MODEL.gguf TASKS_FOLDER BUNDLE.polyad\n", argv[0]);
        return 2;
    }
    check(polyad_context_create(NULL, &context));
    check(polyad_backbone_open(context, argv[1], NULL, &model));
    check(polyad_dataset_open(context, argv[2], NULL, &tasks));
    train(model, tasks, argv[3]);
    serve(model, argv[3], names, words);
    polyad_dataset_release(tasks);
    polyad_backbone_release(model);
    polyad_context_release(context);
    return 0;
}
