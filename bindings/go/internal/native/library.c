/* SPDX-License-Identifier: Apache-2.0 */
#define POLYAD_GO_TABLE
#include <polyad/polyad.h>

#include "library.h"

#if defined(POLYAD_GO_LINKED)

char *polyad_go_open(const char *path) {
    (void)path;
    return NULL;
}

const char *polyad_go_missing(void) {
    return "";
}

#else

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct polyad_go_table polyad_go_table;
static const char *missing = "";

static void find(void *library, const char *name, void *slot) {
    void *function = dlsym(library, name);
    memcpy(slot, &function, sizeof function);
    if (!function && !*missing) missing = name;
}

char *polyad_go_open(const char *path) {
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    const char *why = library ? NULL : dlerror();
    char *text;
    if (!library) {
        text = (char *)malloc(strlen(why) + 1);
        return text ? strcpy(text, why) : NULL;
    }
    missing = "";
#define POLYAD_FUNCTION(name) find(library, #name, &polyad_go_table.name);
#include "polyad_functions.h"
#undef POLYAD_FUNCTION
    if (polyad_go_table.polyad_version) return NULL; /* an older library gets as far as its version */
    text = (char *)malloc(strlen(path) + 64);
    if (text) sprintf(text, "%s has no function polyad_version: it is another library", path);
    dlclose(library);
    return text;
}

const char *polyad_go_missing(void) {
    return missing;
}

#endif
