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

/* ====== Lists of paths: one string, NUL between them, since memory lent to C must not point to more of Go's ==================== */

%{
/* The pieces of a copy of `text`; *copy and the result are to be freed. */
static char **polyad_go_split(const char *text, size_t size, char **copy, size_t *count) {
    size_t i, found = size ? 1 : 0;
    char **list;
    for (i = 0; i < size; ++i) found += !text[i];
    *count = 0;
    *copy = (char *)malloc(size + 1);
    list = (char **)malloc((found + 1) * sizeof *list);
    if (!*copy || !list) return list;
    memcpy(*copy, text, size);
    (*copy)[size] = 0;
    for (i = 0; *count < found; i += strlen(*copy + i) + 1) list[(*count)++] = *copy + i;
    return list;
}
%}
%typemap(gotype) (const char *const *STRINGS, size_t COUNT) "string"
%typemap(in) (const char *const *STRINGS, size_t COUNT) (char *copy = NULL, size_t pieces = 0) {
    $1 = ($1_ltype)polyad_go_split($input.p, (size_t)$input.n, &copy, &pieces);
    $2 = pieces;
}
%typemap(freearg) (const char *const *STRINGS, size_t COUNT) "free(copy$argnum); free((void *)$1);"
%typemap(argout) (const char *const *STRINGS, size_t COUNT) ""
