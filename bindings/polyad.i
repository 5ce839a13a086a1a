/* SPDX-License-Identifier: Apache-2.0
 *
 * The one SWIG file of the bindings. Its only input is polyad.h, so a function added there is in the generated layer of every
 * language without an edit here:
 *
 *     swig -java   -package dev.polyad -outdir ... -o polyad_java.c   -I../capi/include polyad.i
 *     swig -csharp -namespace Polyad   -outdir ... -o polyad_csharp.c -I../capi/include polyad.i
 *     swig -go -cgo -package native    -outdir ... -o polyad_go.c     -I../capi/include polyad.i
 *
 * What is generated is internal. It stays close to C on purpose: a handle is a 64-bit integer, a status is checked on the way
 * out (java.i) or handed on (csharp.i, go.i), an out parameter is an array of one element. The thin layer written by hand in
 * java/, csharp/ and go/ is the public one; scripts/check_bindings.py fails where it misses a function, a field or an enumerator.
 *
 * A new name needs a line here in three cases, and the check names each: a new handle type (POLYAD_HANDLES), a new options struct
 * (%polyad_struct), an array parameter under a new name (the %apply lists).
 */
%module Native

%{
#include <polyad/polyad.h>
#include "support.h"
%}

%include <stdint.i>

#define POLYAD_API
#define POLYAD_MUST_USE

/* ====== Handles ========================================================================================================== */

/* Calls MACRO(type) for every handle type a caller holds. Texts and statuses never leave the generated layer. */
%define POLYAD_HANDLES(MACRO)
MACRO(polyad_context)
MACRO(polyad_backbone)
MACRO(polyad_dataset)
MACRO(polyad_skillset)
MACRO(polyad_trainer)
MACRO(polyad_evaluator)
MACRO(polyad_engine)
MACRO(polyad_request)
%enddef

/* One object of the host owns one reference, so nothing ever retains. */
%rename("$ignore", regextarget=1, %$isfunction) "^polyad_.*_retain$";

/* ====== Shapes of parameters =============================================================================================
 * Each language maps the names in capitals; here they are given to the parameters of polyad.h.                             */

#if defined(SWIGJAVA)
%include "java/java.i"
#elif defined(SWIGCSHARP)
%include "csharp/csharp.i"
#elif defined(SWIGGO)
%include "go/go.i"
#endif

/* UTF-8 with a length, 0 = NUL-terminated. */
%apply (const char *UTF8, size_t SIZE) { (const char *text, size_t text_size), (const char *prompt, size_t prompt_size) }
/* Bytes. */
%apply (const void *BYTES, size_t SIZE) { (const void *data, size_t size) }
/* Arrays that are read. */
%apply (const int32_t *INTS, size_t COUNT) { (const int32_t *ids, size_t count), (const int32_t *tokens, size_t token_count) }
%apply (const float *FLOATS, size_t COUNT) { (const float *values, size_t count), (const float *weights, size_t weight_count) }
/* Arrays that are filled. */
%apply (int32_t *INTS, size_t CAPACITY) { (int32_t *ids, size_t capacity) }
%apply (float *FLOATS, size_t CAPACITY) { (float *values, size_t capacity), (float *weights, size_t capacity),
                                          (float *logits, size_t capacity), (float *scores, size_t capacity) }
/* Lists of NUL-terminated strings that are read. */
%apply (const char *const *STRINGS, size_t COUNT) { (const char *const *paths, size_t count) }
/* Single numbers that are set. */
%apply size_t *OUT { size_t *count }
%apply int32_t *OUT { int32_t *busy, int32_t *state }

/* ====== Structs ==========================================================================================================
 * Made and filled by the library's own _init; memory a field points to is copied and lives as long as the struct.          */

%define %polyad_struct(TYPE)
%ignore TYPE::struct_size;
%ignore TYPE##_init_sized;
%nodefaultctor TYPE;
%nodefaultdtor TYPE;
%extend TYPE {
    TYPE() {
        TYPE *made = (TYPE *)polyad_binding_allocate(sizeof(TYPE));
        if (made) TYPE##_init(made);
        return made;
    }
    ~TYPE() { polyad_binding_free($self); }
}
%enddef
%polyad_struct(polyad_context_options)
%polyad_struct(polyad_progress)
%polyad_struct(polyad_engine_options)
%polyad_struct(polyad_request_options)

/* Left out (left_out.txt): these languages hold no CUDA stream. */
%ignore polyad_context_options::stream;

/* `const char *` fields: a copy that is freed with the struct. */
%typemap(memberin) const char * "$1 = polyad_binding_keep(arg1, $input, $input ? strlen($input) + 1 : 0);"

/* Pointers that come with a count are set together. Each returns 0 when there is no memory. */
%ignore polyad_request_options::prompt;
%ignore polyad_request_options::prompt_size;
%ignore polyad_request_options::tokens;
%ignore polyad_request_options::token_count;
%ignore polyad_request_options::weights;
%ignore polyad_request_options::weight_count;
%ignore polyad_request_options::intuition;
%ignore polyad_request_options::intuition_count;
%ignore polyad_request_options::stop;
%ignore polyad_request_options::stop_count;
%extend polyad_request_options {
    int32_t set_prompt(const char *text, size_t text_size) {
        $self->prompt = (const char *)polyad_binding_keep($self, text, text ? text_size + 1 : 0);
        $self->prompt_size = $self->prompt ? text_size : 0;
        return $self->prompt || !text;
    }
    int32_t set_tokens(const int32_t *ids, size_t count) {
        $self->tokens = (const int32_t *)polyad_binding_keep($self, ids, count * sizeof *ids);
        $self->token_count = $self->tokens ? count : 0;
        return $self->tokens || !count;
    }
    int32_t set_weights(const float *values, size_t count) {
        $self->weights = (const float *)polyad_binding_keep($self, values, count * sizeof *values);
        $self->weight_count = $self->weights ? count : 0;
        return $self->weights || !count;
    }
    int32_t set_intuition(const float *values, size_t count) {
        $self->intuition = (const float *)polyad_binding_keep($self, values, count * sizeof *values);
        $self->intuition_count = $self->intuition ? count : 0;
        return $self->intuition || !count;
    }
    int32_t add_stop(const char *text) {
        return polyad_binding_add_string($self, &$self->stop, &$self->stop_count, text);
    }
}

/* ====== Log ==============================================================================================================
 * Nothing calls back into a virtual machine. The sink puts messages into a queue; a thread of the host takes them out and runs
 * the host's own sink, which may therefore throw, block, or call Polyad.                                                    */

%ignore polyad_log_set_sink;
%ignore polyad_log_sink;
%inline %{
/* Starts (1) or stops (0) filling the queue; stopping wakes whoever waits in polyad_binding_log_next. */
static void polyad_binding_log_enable(int32_t on) { polyad_log_queue_enable(on); }
/* Waits for a message. Its level, or -1 when the queue was stopped and is empty. */
static int32_t polyad_binding_log_next(polyad_text_copy *message) { return polyad_log_queue_next(message); }
/* The number of the header these bindings were made from. */
static int32_t polyad_binding_version(void) { return POLYAD_VERSION_NUMBER; }
%}

/* The version macros are reached through polyad_binding_version(). */
%ignore POLYAD_POLYAD_H;
%ignore POLYAD_VERSION_MAJOR;
%ignore POLYAD_VERSION_MINOR;
%ignore POLYAD_VERSION_PATCH;
%ignore POLYAD_VERSION_NUMBER;

%include <polyad/polyad.h>
