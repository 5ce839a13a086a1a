/* SPDX-License-Identifier: Apache-2.0
 * The header compiles alone, twice, as C99.
 */
#include <polyad/polyad.h>
#include <polyad/polyad.h>

int main(void) { return polyad_version() == POLYAD_VERSION_NUMBER ? 0 : 1; }
