/* SPDX-License-Identifier: Apache-2.0
 * A few lines of test harness in C99: EXPECT counts, refusals are checked by code and by a word of the
 * message.
 */
#ifndef POLYAD_TESTS_C_CHECK_H
#define POLYAD_TESTS_C_CHECK_H

#include <polyad/polyad.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int checks_passed, checks_failed;

#define EXPECT(condition)                                                                 \
    do {                                                                                  \
        if (condition) {                                                                  \
            ++checks_passed;                                                              \
        } else {                                                                          \
            ++checks_failed;                                                              \
            fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition); \
        }                                                                                 \
    } while (0)

#define WORKS(call) expect_status((call), POLYAD_OK, "", #call, __LINE__)
#define REFUSED(call, code, word) expect_status((call), (code), (word), #call, __LINE__)

static void expect_status(polyad_status* status, int32_t code, const char* word, const char* call, int line) {
    int32_t got = polyad_status_code(status);
    const char* message = polyad_status_message(status);
    if (got == code && strstr(message, word)) {
        ++checks_passed;
    } else {
        ++checks_failed;
        fprintf(stderr, "line %d: %s\n  gave %s: %s\n  wanted %s with '%s'\n", line, call,
                polyad_code_name(got), message, polyad_code_name(code), word);
    }
    polyad_status_release(status);
}

/* The file's bytes, or NULL; *size is set. */
static inline void* read_file(const char* path, size_t* size) {
    FILE* file = fopen(path, "rb");
    void* data;
    long end;
    *size = 0;
    if (!file) return NULL;
    fseek(file, 0, SEEK_END);
    end = ftell(file);
    rewind(file);
    data = malloc(end > 0 ? (size_t)end : 1);
    if (data) *size = fread(data, 1, (size_t)end, file);
    fclose(file);
    return data;
}

static inline int skip(const char* why) {
    printf("skipped: %s\n", why);
    return 77;
}

static inline int finish(void) {
    printf("%d passed, %d failed\n", checks_passed, checks_failed);
    return checks_failed ? 1 : 0;
}

#endif
