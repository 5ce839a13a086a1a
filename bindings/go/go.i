/* SPDX-License-Identifier: Apache-2.0
 *
 * Go: handles and statuses are uintptr, texts come back through polyad_text_data as strings, slices are lent for the length of a
 * call. Nothing panics: a status is a number that the public layer turns into an error.
 */

/* ====== Status and handles =============================================================================================== */

%define %polyad_go_ticket(TYPE)
%typemap(gotype) TYPE *, const TYPE * "uintptr"
%typemap(in) TYPE *, const TYPE * "$1 = ($1_ltype)$input;"
%typemap(out) TYPE * "$result = $1;"
%typemap(gotype) TYPE ** "*uintptr"
%typemap(in) TYPE ** "$1 = ($1_ltype)$input;"
%typemap(argout) TYPE ** ""
%typemap(freearg) TYPE ** ""
%enddef
%polyad_go_ticket(polyad_status)
%polyad_go_ticket(polyad_text)
POLYAD_HANDLES(%polyad_go_ticket)

/* ====== Strings ==========================================================================================================
 * Copied with a NUL behind them; the empty string is NULL, since Go has no other way to leave one out.                     */

%typemap(in) const char * (char *copy = NULL) {
    if ($input.n) copy = (char *)malloc((size_t)$input.n + 1);
    if (copy) {
        memcpy(copy, $input.p, (size_t)$input.n);
        copy[$input.n] = 0;
    }
    $1 = copy;
}
%typemap(freearg) const char * "free(copy$argnum);"
/* The bytes of a text may hold NUL. */
%typemap(out) const char *polyad_text_data "$result = Swig_AllocateString($1, polyad_text_size(arg1));"

/* A log message from polyad_binding_log_next: an address for polyad_binding_log_text and polyad_binding_log_free. */
%typemap(gotype) polyad_text_copy * "*uintptr"
%typemap(gotype) void *message "uintptr"
%typemap(in) polyad_text_copy *, void *message "$1 = ($1_ltype)$input;"
%inline %{
static const char *polyad_binding_log_text(void *message) { return (const char *)message; }
static void polyad_binding_log_free(void *message) { free(message); }
%}

/* ====== Arrays =========================================================================================================== */

%define %polyad_go_slice(GO, PATTERN)
%typemap(gotype) PATTERN GO
%typemap(in) PATTERN "$1 = ($1_ltype)$input.array; $2 = (size_t)$input.len;"
%typemap(freearg) PATTERN ""
%typemap(argout) PATTERN ""
%enddef
%typemap(gotype) (const char *UTF8, size_t SIZE) "string"
%typemap(in) (const char *UTF8, size_t SIZE) "$1 = ($1_ltype)($input.n ? $input.p : \"\"); $2 = (size_t)$input.n;"
%typemap(freearg) (const char *UTF8, size_t SIZE) ""
%polyad_go_slice("[]byte", (const void *BYTES, size_t SIZE))
%polyad_go_slice("[]int32", (const int32_t *INTS, size_t COUNT))
%polyad_go_slice("[]float32", (const float *FLOATS, size_t COUNT))
%polyad_go_slice("[]int32", (int32_t *INTS, size_t CAPACITY))
%polyad_go_slice("[]float32", (float *FLOATS, size_t CAPACITY))
/* Addresses of NUL-terminated UTF-8 outside Go's memory. */
%polyad_go_slice("[]uintptr", (const char *const *STRINGS, size_t COUNT))

/* ====== Numbers that are set ============================================================================================= */

%typemap(gotype) size_t *OUT "*uint64"
%typemap(in) size_t *OUT "$1 = ($1_ltype)$input;"
%typemap(gotype) int32_t *OUT "*int32"
%typemap(in) int32_t *OUT "$1 = ($1_ltype)$input;"
