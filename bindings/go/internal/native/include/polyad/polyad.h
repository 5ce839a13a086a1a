/* SPDX-License-Identifier: Apache-2.0
 * polyad.h, with every function called through the table that library.c fills.
 */
#ifndef POLYAD_GO_REDIRECTED
#define POLYAD_GO_REDIRECTED

#include "polyad_header.h"

#if !defined(POLYAD_GO_LINKED)
struct polyad_go_table {
#define POLYAD_FUNCTION(name) __typeof__(&name) name;
#include "polyad_functions.h"
#undef POLYAD_FUNCTION
};
extern struct polyad_go_table polyad_go_table;
#if !defined(POLYAD_GO_TABLE)
#include "polyad_redirect.h"
#endif
#endif

#endif
