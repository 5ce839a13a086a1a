/* SPDX-License-Identifier: Apache-2.0
 * PEFT folders in and out and LoRA files for llama.cpp through the public header alone, with what is refused.
 */
#include "check.h"

#define FIXTURES POLYAD_SHARED_DIR "/fixtures"
#define MODEL FIXTURES "/models/llama"

static size_t vocabulary(const polyad_backbone* model) {
    polyad_text* text;
    size_t size;
    WORKS(polyad_backbone_info(model, &text));
    size = (size_t)atoi(strstr(polyad_text_data(text), "\"vocab\":") + 8);
    polyad_text_release(text);
    return size;
}

/* Largest difference between the logits of two skillsets. */
static float difference(const polyad_backbone* model, const polyad_skillset* a, const char* task_a,
                        const polyad_skillset* b, const char* task_b) {
    const int32_t ids[5] = {7, 31, 4, 9, 100};
    const size_t n = vocabulary(model);
    float *x = malloc(n * sizeof *x), *y = malloc(n * sizeof *y), most = 0, off;
    size_t i;
    WORKS(polyad_backbone_logits(model, a, task_a, ids, 5, x, n));
    WORKS(polyad_backbone_logits(model, b, task_b, ids, 5, y, n));
    for (i = 0; i < n; ++i) {
        off = x[i] > y[i] ? x[i] - y[i] : y[i] - x[i];
        if (!(off <= most)) most = off;
    }
    free(x);
    free(y);
    return most;
}

/* Two adapters side by side are each itself; merged they are neither. */
static void mixing(polyad_backbone* model) {
    const char* const folders[] = {FIXTURES "/peft/llama/lora", FIXTURES "/peft/llama/rslora"};
    polyad_skillset *first = NULL, *second = NULL, *set = NULL, *merged = NULL, *none = NULL;

    WORKS(polyad_skillset_import_peft(model, folders[0], NULL, &first));
    WORKS(polyad_skillset_import_peft(model, folders[1], NULL, &second));
    WORKS(polyad_skillset_import_peft_set(model, folders, 2, "{\"tasks\": [\"first\", \"second\"]}", &set));
    EXPECT(difference(model, set, "first", first, NULL) < 1e-4f);
    EXPECT(difference(model, set, "second", second, NULL) < 1e-4f);
    EXPECT(difference(model, set, "first", set, "second") > 0.001f);
    WORKS(polyad_skillset_import_peft_set(model, folders, 2,
                                          "{\"combination\": \"cat\", \"weights\": [1, 0]}", &merged));
    EXPECT(difference(model, merged, NULL, first, NULL) < 1e-4f);
    polyad_skillset_release(merged);
    WORKS(polyad_skillset_import_peft_set(model, folders, 2,
                                          "{\"combination\": \"cat\", \"weights\": [0.5, 0.5]}", &merged));
    EXPECT(difference(model, merged, NULL, first, NULL) > 0.001f);
    EXPECT(difference(model, merged, NULL, second, NULL) > 0.001f);
    REFUSED(polyad_skillset_import_peft_set(model, folders, 0, NULL, &none), POLYAD_INVALID_ARGUMENT, "");
    REFUSED(polyad_skillset_import_peft_set(model, folders, 2, "{\"combination\": \"sum\"}", &none),
            POLYAD_INVALID_CONFIG, "combination");
    EXPECT(none == NULL);
    polyad_skillset_release(merged);
    polyad_skillset_release(set);
    polyad_skillset_release(second);
    polyad_skillset_release(first);
}

int main(void) {
    polyad_context* context;
    polyad_backbone *model, *other;
    polyad_skillset *lora, *poly, *back, *none;
    polyad_text* text;
    size_t size;
    void* file = read_file(MODEL "/config.json", &size);

    if (!file) return skip("the shared fixtures are not here (" MODEL ")");
    free(file);
    WORKS(polyad_context_create(NULL, &context));
    WORKS(polyad_backbone_open(context, MODEL, "{\"precision\": \"fp32\"}", &model));

    WORKS(polyad_skillset_import_peft(model, FIXTURES "/peft/llama/lora", NULL, &lora));
    WORKS(polyad_skillset_info(lora, &text));
    EXPECT(strstr(polyad_text_data(text), "\"method\":\"lora\"") != NULL);
    polyad_text_release(text);
    EXPECT(difference(model, lora, NULL, NULL, NULL) > 0.01f);
    WORKS(polyad_skillset_export_peft(lora, NULL, "c_interchange_lora", "{\"base_model\": \"some/name\"}"));
    WORKS(polyad_skillset_import_peft(model, "c_interchange_lora", NULL, &back));
    EXPECT(difference(model, lora, NULL, back, NULL) == 0);
    polyad_skillset_release(back);

    WORKS(polyad_skillset_import_peft(model, FIXTURES "/peft/llama/poly",
                                      "{\"tasks\": [\"a\", \"b\", \"c\"]}", &poly));
    EXPECT(difference(model, poly, "a", poly, "b") > 0.001f);
    WORKS(polyad_skillset_export_peft(poly, "b", "c_interchange_b", NULL));
    WORKS(polyad_skillset_import_peft(model, "c_interchange_b", NULL, &back));
    EXPECT(difference(model, poly, "b", back, NULL) < 1e-4f);
    polyad_skillset_release(back);
    WORKS(polyad_skillset_export_peft(poly, NULL, "c_interchange_poly", NULL));
    WORKS(polyad_skillset_import_peft(model, "c_interchange_poly", NULL, &back));
    EXPECT(difference(model, poly, "c", back, "c") == 0);
    polyad_skillset_release(back);
    WORKS(polyad_skillset_export_gguf(poly, "b", "c_interchange.gguf", NULL));
    file = read_file("c_interchange.gguf", &size);
    EXPECT(file && size > 1000 && memcmp(file, "GGUF", 4) == 0);
    free(file);

    mixing(model);
    WORKS(polyad_skillset_import_peft(model, FIXTURES "/peft/llama/dora", NULL, &back));
    WORKS(polyad_skillset_export_peft(back, NULL, "c_interchange_dora", NULL));
    REFUSED(polyad_skillset_export_gguf(back, NULL, "x.gguf", NULL), POLYAD_UNSUPPORTED, "plain LoRA");
    WORKS(polyad_skillset_import_peft(model, "c_interchange_dora", NULL, &none));
    EXPECT(difference(model, back, NULL, none, NULL) == 0);
    EXPECT(difference(model, back, NULL, NULL, NULL) > 0.01f);
    polyad_skillset_release(none);
    polyad_skillset_release(back);

    REFUSED(polyad_skillset_export_gguf(poly, NULL, "x.gguf", NULL), POLYAD_INVALID_ARGUMENT,
            "'a', 'b', 'c'");
    REFUSED(polyad_skillset_export_peft(poly, "d", "x", NULL), POLYAD_UNKNOWN_TASK, "'d'");
    REFUSED(polyad_skillset_export_peft(poly, "b", NULL, NULL), POLYAD_INVALID_ARGUMENT, "path");
    REFUSED(polyad_skillset_export_peft(poly, "b", "x", "{\"basemodel\": 1}"), POLYAD_INVALID_CONFIG,
            "basemodel");
    REFUSED(polyad_skillset_export_peft(NULL, "b", "x", NULL), POLYAD_INVALID_ARGUMENT, "");
    REFUSED(polyad_skillset_import_peft(model, "nosuch", NULL, &none), POLYAD_NOT_FOUND, "nosuch");
    EXPECT(none == NULL);
    REFUSED(polyad_skillset_import_peft(model, FIXTURES "/peft/llama/poly", "{\"tasks\": [\"a\"]}", &none),
            POLYAD_INVALID_CONFIG, "3 tasks");
    REFUSED(polyad_skillset_import_peft(model, FIXTURES "/corrupt/peft/unknown_peft_type", NULL, &none),
            POLYAD_UNSUPPORTED, "NO_SUCH");
    REFUSED(polyad_skillset_import_peft(model, FIXTURES "/corrupt/peft/missing_lora_b", NULL, &none),
            POLYAD_BAD_FORMAT, "lora_B");
    REFUSED(polyad_skillset_import_peft(model, FIXTURES "/corrupt/peft/rank_mismatch", NULL, &none),
            POLYAD_BAD_FORMAT, "lora_A");
    /* An adapter of another base: its shapes do not fit. */
    WORKS(polyad_backbone_open(context, FIXTURES "/models/qwen3", NULL, &other));
    REFUSED(polyad_skillset_import_peft(other, FIXTURES "/peft/llama/lora", NULL, &none), POLYAD_BAD_FORMAT,
            "the base's is");
    REFUSED(polyad_skillset_import_peft(model, FIXTURES "/peft/t5_v10/lora", NULL, &none), POLYAD_BAD_FORMAT,
            "which the base lacks");

    polyad_backbone_release(other);
    polyad_skillset_release(lora);
    polyad_skillset_release(poly);
    polyad_backbone_release(model);
    polyad_context_release(context);
    return finish();
}
