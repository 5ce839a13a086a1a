// SPDX-License-Identifier: Apache-2.0
// The C ABI of the Rust crate beside this file. Text is UTF-8 with a length, never NUL-terminated. What a
// call fills in belongs to the caller and goes back through the matching *_free, which accept empty values.
// Tokenizers and templates are immutable: any number of threads may use one at the same time.
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct polyad_text_tokenizer polyad_text_tokenizer;
typedef struct polyad_text_template polyad_text_template;

typedef struct {
    char* data;
    size_t size;
} polyad_text_string;

typedef struct {
    int32_t* data;
    size_t size;
} polyad_text_ids;

enum {
    POLYAD_TEXT_OK = 0,
    POLYAD_TEXT_REFUSED = 1,    // the input is not usable; `error` says why
    POLYAD_TEXT_EXCEPTION = 2,  // a chat template called raise_exception; `error` is its message
    POLYAD_TEXT_PANIC = 3       // a bug; `error` is the panic message
};

// Writes strftime(format) of the local time into `out` and returns its length, 0 when it does not fit.
typedef size_t (*polyad_text_clock)(const char* format, char* out, size_t capacity);

// A tokenizer.json; its truncation and padding blocks are dropped.
int polyad_text_tokenizer_create(const char* json, size_t size, polyad_text_tokenizer** out,
                                 polyad_text_string* error);
void polyad_text_tokenizer_free(polyad_text_tokenizer* tokenizer);
int polyad_text_encode(const polyad_text_tokenizer* tokenizer, const char* text, size_t size, int add_special,
                       polyad_text_ids* out, polyad_text_string* error);
// Ids without a token are left out.
int polyad_text_decode(const polyad_text_tokenizer* tokenizer, const int32_t* ids, size_t count,
                       int skip_special, polyad_text_string* out, polyad_text_string* error);
// -1 when there is no such token.
int64_t polyad_text_token_id(const polyad_text_tokenizer* tokenizer, const char* token, size_t size);
size_t polyad_text_vocab_size(const polyad_text_tokenizer* tokenizer);

// A Hugging Face chat template. `clock` serves its strftime_now.
int polyad_text_template_create(const char* source, size_t size, polyad_text_clock clock,
                                polyad_text_template** out, polyad_text_string* error);
void polyad_text_template_free(polyad_text_template* chat);
// `variables` is a JSON object: messages, add_generation_prompt, bos_token, ...
int polyad_text_template_render(const polyad_text_template* chat, const char* variables, size_t size,
                                polyad_text_string* out, polyad_text_string* error);

void polyad_text_string_free(polyad_text_string text);
void polyad_text_ids_free(polyad_text_ids ids);

// Full Unicode lower-casing; invalid bytes become U+FFFD. Writes at most `capacity` bytes to `out` and
// returns how many the whole result has; nothing is written when it does not fit.
size_t polyad_text_lowercase(const char* text, size_t length, char* out, size_t capacity);

#ifdef __cplusplus
}
#endif
