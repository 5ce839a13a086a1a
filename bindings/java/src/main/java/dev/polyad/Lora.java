// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

/** LoRA: one low-rank adapter for all tasks (arXiv 2106.09685). */
public final class Lora extends ScaledMethod<Lora> {
    private Lora() {
        super("lora");
    }

    /** Options with the library's defaults. */
    public static Lora builder() {
        return new Lora();
    }

    /** Scale alpha / sqrt(rank) instead (arXiv 2312.03732). */
    public Lora rankStabilised(boolean on) {
        return set("use_rslora", on);
    }

    /** Dropout before the adapter, in training. */
    public Lora dropout(double share) {
        return set("lora_dropout", share);
    }

    /** Magnitude and direction of every output row apart: DoRA (arXiv 2402.09353). */
    public Lora dora(boolean on) {
        return set("use_dora", on);
    }
}
