// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

/** One LoRA of its own for every task. */
public final class PrivateLora extends MethodConfig.Builder<PrivateLora> {
    private PrivateLora() {
        super("private_lora");
    }

    /** Options with the library's defaults. */
    public static PrivateLora builder() {
        return new PrivateLora();
    }

    /** The adapters are scaled by alpha / rank. */
    public PrivateLora alpha(double value) {
        return set("alpha", value);
    }
}
