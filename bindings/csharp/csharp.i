/* SPDX-License-Identifier: Apache-2.0
 *
 * C#: handles are IntPtr (for a SafeHandle above), a status becomes a PolyadException in Status.Check, strings are UTF-8 byte arrays
 * (P/Invoke's own strings are the platform's ANSI ones), memory is lent as a NativeSpan for the length of a call. What the public
 * layer has to bring: Status.Check(IntPtr), Utf8.Terminated(string), Utf8.Text(IntPtr), struct NativeSpan { IntPtr data; UIntPtr size; }.
 */

%pragma(csharp) moduleclassmodifiers="internal static class"
%pragma(csharp) imclassclassmodifiers="internal static class"
%typemap(csclassmodifiers) SWIGTYPE, SWIGTYPE *, SWIGTYPE & "internal class"
%typemap(csclassmodifiers) enum SWIGTYPE "internal enum"
%csconst(1);

%{
/* Memory of the caller, valid during the call; the layout is NativeSpan's. */
typedef struct polyad_span {
    void *data;
    size_t size; /* elements */
} polyad_span;
%}

/* ====== Status and handles =============================================================================================== */

%define %polyad_csharp_ticket(TYPE)
%typemap(ctype) TYPE *, const TYPE * "void *"
%typemap(imtype) TYPE *, const TYPE * "global::System.IntPtr"
%typemap(cstype) TYPE *, const TYPE * "global::System.IntPtr"
%typemap(csin) TYPE *, const TYPE * "$csinput"
%typemap(in) TYPE *, const TYPE * "$1 = ($1_ltype)$input;"
%typemap(out) TYPE * "$result = (void *)$1;"
%typemap(csout) TYPE * { return $imcall; }
%typemap(ctype) TYPE ** "void **"
%typemap(imtype) TYPE ** "out global::System.IntPtr"
%typemap(cstype) TYPE ** "out global::System.IntPtr"
%typemap(csin) TYPE ** "out $csinput"
%typemap(in) TYPE ** "$1 = ($1_ltype)$input;"
%enddef
%polyad_csharp_ticket(polyad_status)
%polyad_csharp_ticket(polyad_text)
POLYAD_HANDLES(%polyad_csharp_ticket)

%typemap(cstype) polyad_status * "void"
%typemap(cstype) polyad_status *status, const polyad_status * "global::System.IntPtr"
%typemap(csout) polyad_status * { Status.Check($imcall); }

/* ====== Strings ========================================================================================================== */

%typemap(ctype) const char * "const char *"
%typemap(imtype, out="global::System.IntPtr") const char * "byte[]"
%typemap(cstype) const char * "string"
%typemap(csin) const char * "Utf8.Terminated($csinput)"
%typemap(in) const char * "$1 = ($1_ltype)$input;"
%typemap(freearg) const char * ""
%typemap(out) const char * "$result = $1;"
%typemap(csout) const char * { return Utf8.Text($imcall); }
%typemap(csvarin) const char * %{
    set { $imcall; }
%}
%typemap(csvarout) const char * %{
    get { return Utf8.Text($imcall); }
%}
/* The bytes of a text may hold NUL: they come with polyad_text_size. */
%typemap(cstype) const char *polyad_text_data "global::System.IntPtr"
%typemap(csout) const char *polyad_text_data { return $imcall; }

/* A log message from polyad_binding_log_next; polyad_binding_log_free gives it back. */
%typemap(ctype) polyad_text_copy * "void **"
%typemap(imtype) polyad_text_copy * "out global::System.IntPtr"
%typemap(cstype) polyad_text_copy * "out global::System.IntPtr"
%typemap(csin) polyad_text_copy * "out $csinput"
%typemap(in) polyad_text_copy * "$1 = ($1_ltype)$input;"
%typemap(ctype) void *message "void *"
%typemap(imtype) void *message "global::System.IntPtr"
%typemap(cstype) void *message "global::System.IntPtr"
%typemap(csin) void *message "$csinput"
%inline %{
static void polyad_binding_log_free(void *message) { free(message); }
%}

/* ====== Arrays =========================================================================================================== */

%define %polyad_csharp_span(PATTERN)
%typemap(ctype) PATTERN "polyad_span"
%typemap(imtype) PATTERN "NativeSpan"
%typemap(cstype) PATTERN "NativeSpan"
%typemap(csin) PATTERN "$csinput"
%typemap(in) PATTERN "$1 = ($1_ltype)$input.data; $2 = $input.size;"
%typemap(freearg) PATTERN ""
%enddef
/* Pointers to NUL-terminated UTF-8. */
%polyad_csharp_span((const char *const *STRINGS, size_t COUNT))
%polyad_csharp_span((const char *UTF8, size_t SIZE))
%polyad_csharp_span((const void *BYTES, size_t SIZE))
%polyad_csharp_span((const int32_t *INTS, size_t COUNT))
%polyad_csharp_span((const float *FLOATS, size_t COUNT))
%polyad_csharp_span((int32_t *INTS, size_t CAPACITY))
%polyad_csharp_span((float *FLOATS, size_t CAPACITY))

/* ====== Sizes ============================================================================================================ */

%typemap(ctype) size_t "size_t"
%typemap(imtype) size_t "global::System.UIntPtr"
%typemap(cstype) size_t "global::System.UIntPtr"
%typemap(csin) size_t "$csinput"
%typemap(csout) size_t { return $imcall; }
%typemap(in) size_t "$1 = $input;"
%typemap(out) size_t "$result = $1;"

/* ====== Numbers that are set ============================================================================================= */

%typemap(ctype) size_t *OUT "size_t *"
%typemap(imtype) size_t *OUT "out global::System.UIntPtr"
%typemap(cstype) size_t *OUT "out global::System.UIntPtr"
%typemap(csin) size_t *OUT "out $csinput"
%typemap(in) size_t *OUT "$1 = ($1_ltype)$input;"
%typemap(ctype) int32_t *OUT "int *"
%typemap(imtype) int32_t *OUT "out int"
%typemap(cstype) int32_t *OUT "out int"
%typemap(csin) int32_t *OUT "out $csinput"
%typemap(in) int32_t *OUT "$1 = ($1_ltype)$input;"
