/* SPDX-License-Identifier: Apache-2.0
 * The shared library's functions, found at run time: a program that uses the package builds and starts without it, and learns from an
 * error where it was looked for. With the build tag polyad_link the package is linked to it as usual.
 */
#ifndef POLYAD_GO_LIBRARY_H
#define POLYAD_GO_LIBRARY_H

/* Loads it from a path, or by a name the system looks up. NULL, or why not, from malloc. */
char *polyad_go_open(const char *path);
/* The first function of polyad.h that it lacks; "" when it has all. */
const char *polyad_go_missing(void);

#endif
