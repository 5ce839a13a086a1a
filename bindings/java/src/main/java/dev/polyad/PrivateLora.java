// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

/** One LoRA of its own for every task. */
public final class PrivateLora extends ScaledMethod<PrivateLora> {
    private PrivateLora() {
        super("private_lora");
    }

    /** Options with the library's defaults. */
    public static PrivateLora builder() {
        return new PrivateLora();
    }
}
