// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

/** Turns a status of the C interface into nothing or an exception; called by the generated layer. */
final class Status {
    private Status() {}

    static void check(long status) {
        if (status == 0) {
            return;
        }
        try {
            throw new PolyadException(
                    Native.polyad_status_code(status),
                    Native.polyad_status_message(status),
                    Native.polyad_status_detail(status));
        } finally {
            Native.polyad_status_release(status);
        }
    }
}
