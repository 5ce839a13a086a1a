/* SPDX-License-Identifier: Apache-2.0
 * A library that calls itself libpolyad, but is older than every binding: bindings have to refuse it, naming both versions, before
 * they call anything else.
 */
#include <polyad/polyad.h>

int32_t polyad_version(void) {
    return 9;
}
