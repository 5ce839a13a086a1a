// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

/** Several LoRAs side by side, mixed by the weights of a task or a request. */
public final class LoraSet extends MethodConfig.Builder<LoraSet> {
    private LoraSet() {
        super("lora_set");
    }

    /** Options with the library's defaults. */
    public static LoraSet builder() {
        return new LoraSet();
    }

    /** What training moves: {@code all}, or {@code router} (the weights of the tasks). */
    public LoraSet train(String how) {
        return set("train", how);
    }
}
