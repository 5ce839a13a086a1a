/* SPDX-License-Identifier: Apache-2.0
 *
 * Java: handles are long, strings are UTF-8 byte arrays (JNI's own strings are "modified UTF-8" and stop at NUL), arrays are copied
 * from int[] and float[] or lent from direct buffers. Nothing holds a critical section over a call. A status becomes a
 * PolyadException in Status.check. All of it is package-private.
 */

%pragma(java) moduleclassmodifiers="final class"
%pragma(java) jniclassclassmodifiers="final class"
%include "enumtypeunsafe.swg"
%typemap(javaclassmodifiers) SWIGTYPE, SWIGTYPE *, SWIGTYPE &, enum SWIGTYPE "final class"
%typemap(javafinalize) SWIGTYPE ""
%javaconst(1);

%{
#define POLYAD_JAVA_ARRAYS
/* What a parameter lends to C: the memory of a direct buffer, or a copy of a Java array. */
typedef struct polyad_java_array {
    void *data;
    size_t count;
    int copied;
} polyad_java_array;

static int polyad_java_out_of_memory(JNIEnv *env) {
    jclass type = (*env)->FindClass(env, "java/lang/OutOfMemoryError");
    if (type) (*env)->ThrowNew(env, type, "no native memory for an argument of Polyad");
    return 0;
}

/* `type` is 'I', 'F' or 'B'; `read` copies a Java array's elements. 0 with an exception pending when there is no memory. */
static int polyad_java_borrow(JNIEnv *env, jobject value, char type, int read, polyad_java_array *out) {
    size_t width = type == 'B' ? 1 : 4;
    jlong lent;
    out->data = NULL;
    out->count = 0;
    out->copied = 0;
    if (!value) return 1;
    lent = (*env)->GetDirectBufferCapacity(env, value); /* -1 for anything but a direct buffer */
    if (lent >= 0) {
        out->data = (*env)->GetDirectBufferAddress(env, value);
        out->count = (size_t)lent;
        return 1;
    }
    out->count = (size_t)(*env)->GetArrayLength(env, (jarray)value);
    out->data = malloc(out->count * width + 1);
    if (!out->data) return polyad_java_out_of_memory(env);
    ((char *)out->data)[out->count * width] = 0;
    out->copied = 1;
    if (read) {
        jsize length = (jsize)out->count;
        if (type == 'I') (*env)->GetIntArrayRegion(env, (jintArray)value, 0, length, (jint *)out->data);
        else if (type == 'F') (*env)->GetFloatArrayRegion(env, (jfloatArray)value, 0, length, (jfloat *)out->data);
        else (*env)->GetByteArrayRegion(env, (jbyteArray)value, 0, length, (jbyte *)out->data);
    }
    return 1;
}

static void polyad_java_give_back(JNIEnv *env, jobject value, char type, const polyad_java_array *array) {
    if (!array->copied || (*env)->ExceptionCheck(env)) return;
    if (type == 'I') (*env)->SetIntArrayRegion(env, (jintArray)value, 0, (jsize)array->count, (const jint *)array->data);
    else (*env)->SetFloatArrayRegion(env, (jfloatArray)value, 0, (jsize)array->count, (const jfloat *)array->data);
}

/* Copies of the byte[] of a byte[][]. */
typedef struct polyad_java_strings {
    char **strings;
    size_t count;
} polyad_java_strings;

static void polyad_java_free_strings(polyad_java_strings *list) {
    size_t i;
    for (i = 0; i < list->count; ++i) free(list->strings[i]);
    free(list->strings);
}

static int polyad_java_copy_strings(JNIEnv *env, jobjectArray value, polyad_java_strings *out) {
    jsize i, count = value ? (*env)->GetArrayLength(env, value) : 0;
    out->count = 0;
    out->strings = (char **)calloc((size_t)count + 1, sizeof *out->strings);
    if (!out->strings) return polyad_java_out_of_memory(env);
    for (i = 0; i < count; ++i) {
        polyad_java_array copy;
        jobject item = (*env)->GetObjectArrayElement(env, value, i);
        int copied = polyad_java_borrow(env, item, 'B', 1, &copy);
        (*env)->DeleteLocalRef(env, item);
        if (!copied) {
            polyad_java_free_strings(out);
            return 0;
        }
        out->strings[out->count++] = (char *)copy.data; /* NULL stays NULL */
    }
    return 1;
}

static jbyteArray polyad_java_bytes(JNIEnv *env, const char *data, size_t size) {
    jbyteArray array;
    if (size > 0x7fffffff - 8) {
        polyad_java_out_of_memory(env);
        return NULL;
    }
    array = (*env)->NewByteArray(env, (jsize)size);
    if (array) (*env)->SetByteArrayRegion(env, array, 0, (jsize)size, (const jbyte *)data);
    return array;
}
%}

/* ====== Status and handles =============================================================================================== */

%typemap(jni) polyad_status *, const polyad_status * "jlong"
%typemap(jtype) polyad_status *, const polyad_status * "long"
%typemap(jstype) polyad_status * "void"
%typemap(jstype) polyad_status *status, const polyad_status * "long"
%typemap(javain) polyad_status *, const polyad_status * "$javainput"
%typemap(in) polyad_status *, const polyad_status * "$1 = ($1_ltype)(uintptr_t)$input;"
%typemap(out) polyad_status * "$result = (jlong)(uintptr_t)$1;"
%typemap(javaout) polyad_status * { Status.check($jnicall); }

%define %polyad_java_handle(TYPE)
%typemap(jni) TYPE *, const TYPE * "jlong"
%typemap(jtype) TYPE *, const TYPE * "long"
%typemap(jstype) TYPE *, const TYPE * "long"
%typemap(javain) TYPE *, const TYPE * "$javainput"
%typemap(in) TYPE *, const TYPE * "$1 = ($1_ltype)(uintptr_t)$input;"
%typemap(out) TYPE * "$result = (jlong)(uintptr_t)$1;"
%typemap(javaout) TYPE * { return $jnicall; }
%typemap(jni) TYPE ** "jlongArray"
%typemap(jtype) TYPE ** "long[]"
%typemap(jstype) TYPE ** "long[]"
%typemap(javain) TYPE ** "$javainput"
%typemap(in) TYPE ** (TYPE *made = 0) "$1 = $input ? &made : NULL;"
%typemap(argout) TYPE ** {
    if ($input && !(*jenv)->ExceptionCheck(jenv)) {
        jlong ticket = (jlong)(uintptr_t)made$argnum;
        (*jenv)->SetLongArrayRegion(jenv, $input, 0, 1, &ticket);
    }
}
%enddef
POLYAD_HANDLES(%polyad_java_handle)

/* ====== Strings and texts ================================================================================================ */

%typemap(jni) const char * "jbyteArray"
%typemap(jtype) const char * "byte[]"
%typemap(jstype) const char * "String"
%typemap(javain) const char * "Utf8.terminated($javainput)"
%typemap(in) const char * (polyad_java_array array = {0}) {
    if (!polyad_java_borrow(jenv, $input, 'B', 1, &array)) return $null;
    $1 = (char *)array.data;
}
%typemap(freearg) const char * "free(array$argnum.data);"
%typemap(out) const char * "$result = polyad_java_bytes(jenv, $1 ? $1 : \"\", $1 ? strlen($1) : 0);"
%typemap(javaout) const char * { return Utf8.text($jnicall); }

%typemap(jni) (const char *UTF8, size_t SIZE) "jbyteArray"
%typemap(jtype) (const char *UTF8, size_t SIZE) "byte[]"
%typemap(jstype) (const char *UTF8, size_t SIZE) "String"
%typemap(javain) (const char *UTF8, size_t SIZE) "Utf8.bytes($javainput)"
%typemap(in) (const char *UTF8, size_t SIZE) (polyad_java_array array = {0}) {
    if (!polyad_java_borrow(jenv, $input, 'B', 1, &array)) return $null;
    $1 = (char *)array.data;
    $2 = array.count;
}
%typemap(freearg) (const char *UTF8, size_t SIZE) "free(array$argnum.data);"

/* A list of strings. */
%typemap(jni) (const char *const *STRINGS, size_t COUNT) "jobjectArray"
%typemap(jtype) (const char *const *STRINGS, size_t COUNT) "byte[][]"
%typemap(jstype) (const char *const *STRINGS, size_t COUNT) "String[]"
%typemap(javain) (const char *const *STRINGS, size_t COUNT) "Utf8.terminated($javainput)"
%typemap(in) (const char *const *STRINGS, size_t COUNT) (polyad_java_strings list = {0}) {
    if (!polyad_java_copy_strings(jenv, $input, &list)) return $null;
    $1 = ($1_ltype)list.strings;
    $2 = list.count;
}
%typemap(freearg) (const char *const *STRINGS, size_t COUNT) "polyad_java_free_strings(&list$argnum);"

/* A text comes back as its bytes and is released at once. */
%typemap(jni) polyad_text **, polyad_text_copy * "jobjectArray"
%typemap(jtype) polyad_text **, polyad_text_copy * "byte[][]"
%typemap(jstype) polyad_text **, polyad_text_copy * "byte[][]"
%typemap(javain) polyad_text **, polyad_text_copy * "$javainput"
%typemap(in) polyad_text ** (polyad_text *made = 0) "$1 = $input ? &made : NULL;"
%typemap(argout) polyad_text ** {
    if (made$argnum && !(*jenv)->ExceptionCheck(jenv)) {
        jbyteArray bytes = polyad_java_bytes(jenv, polyad_text_data(made$argnum), polyad_text_size(made$argnum));
        if (bytes) (*jenv)->SetObjectArrayElement(jenv, $input, 0, bytes);
    }
    polyad_text_release(made$argnum);
}
%typemap(in) polyad_text_copy * (char *made = NULL) "$1 = &made;"
%typemap(argout) polyad_text_copy * {
    if (made$argnum) {
        jbyteArray bytes = polyad_java_bytes(jenv, made$argnum, strlen(made$argnum));
        if (bytes) (*jenv)->SetObjectArrayElement(jenv, $input, 0, bytes);
        free(made$argnum);
    }
}
/* Texts are read and released right there. */
%ignore polyad_text_data;
%ignore polyad_text_size;
%ignore polyad_text_release;

/* ====== Arrays: int[], float[], byte[] are copied; direct buffers in native order are lent =============================== */

%define %polyad_java_array(PATTERN, LETTER, READ)
%typemap(jni) PATTERN "jobject"
%typemap(jtype) PATTERN "Object"
%typemap(jstype) PATTERN "Object"
%typemap(javain) PATTERN "$javainput"
%typemap(in) PATTERN (polyad_java_array array = {0}) {
    if (!polyad_java_borrow(jenv, $input, LETTER, READ, &array)) return $null;
    $1 = ($1_ltype)array.data;
    $2 = array.count;
}
%typemap(freearg) PATTERN "if (array$argnum.copied) free(array$argnum.data);"
%enddef
%define %polyad_java_filled(PATTERN, LETTER)
%polyad_java_array(PATTERN, LETTER, 0)
%typemap(argout) PATTERN "polyad_java_give_back(jenv, $input, LETTER, &array$argnum);"
%enddef
%polyad_java_array((const void *BYTES, size_t SIZE), 'B', 1)
%polyad_java_array((const int32_t *INTS, size_t COUNT), 'I', 1)
%polyad_java_array((const float *FLOATS, size_t COUNT), 'F', 1)
%polyad_java_filled((int32_t *INTS, size_t CAPACITY), 'I')
%polyad_java_filled((float *FLOATS, size_t CAPACITY), 'F')

/* ====== Numbers that are set ============================================================================================= */

%typemap(jni) size_t *OUT "jlongArray"
%typemap(jtype) size_t *OUT "long[]"
%typemap(jstype) size_t *OUT "long[]"
%typemap(javain) size_t *OUT "$javainput"
%typemap(in) size_t *OUT (size_t number = 0) "$1 = $input ? &number : NULL;"
%typemap(argout) size_t *OUT {
    if ($input && !(*jenv)->ExceptionCheck(jenv)) {
        jlong set = (jlong)number$argnum;
        (*jenv)->SetLongArrayRegion(jenv, $input, 0, 1, &set);
    }
}
%typemap(jni) int32_t *OUT "jintArray"
%typemap(jtype) int32_t *OUT "int[]"
%typemap(jstype) int32_t *OUT "int[]"
%typemap(javain) int32_t *OUT "$javainput"
%typemap(in) int32_t *OUT (int32_t number = 0) "$1 = $input ? &number : NULL;"
%typemap(argout) int32_t *OUT {
    if ($input && !(*jenv)->ExceptionCheck(jenv)) {
        jint set = number$argnum;
        (*jenv)->SetIntArrayRegion(jenv, $input, 0, 1, &set);
    }
}

/* uint64_t seeds are Java's long, bit for bit. */
%typemap(jni) uint64_t "jlong"
%typemap(jtype) uint64_t "long"
%typemap(jstype) uint64_t "long"
%typemap(javain) uint64_t "$javainput"
%typemap(in) uint64_t "$1 = (uint64_t)$input;"
%typemap(out) uint64_t "$result = (jlong)$1;"
%typemap(javaout) uint64_t { return $jnicall; }
