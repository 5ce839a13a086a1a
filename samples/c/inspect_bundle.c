/* SPDX-License-Identifier: Apache-2.0
 * Shows what a bundle holds, without its base model.
 *
 *     inspect_bundle BUNDLE.polyad
 */
#include <polyad/polyad.h>
#include <stdio.h>

int main(int argc, char **argv) {
    polyad_context *context = NULL;
    polyad_text *json = NULL;
    polyad_status *status;
    if (argc != 2) {
        fprintf(stderr, "usage: %s BUNDLE.polyad\n", argv[0]);
        return 2;
    }
    status = polyad_context_create(NULL, &context);
    if (!status) status = polyad_bundle_inspect(context, argv[1], &json);
    if (status) {
        fprintf(stderr, "%s: %s (%s)\n", polyad_code_name(polyad_status_code(status)), polyad_status_message(status),
                polyad_status_detail(status));
    } else {
        puts(polyad_text_data(json));
    }
    polyad_text_release(json);
    polyad_context_release(context);
    return status != NULL;
}
