// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

/** MixLoRA: feed-forward experts made of low-rank adapters, a few per token (arXiv 2404.15159). */
public final class MixLora extends ExpertMethod<MixLora> {
    private MixLora() {
        super("mixlora");
    }

    /** Options with the library's defaults. */
    public static MixLora builder() {
        return new MixLora();
    }

    /** Experts a token uses. */
    public MixLora topK(int count) {
        return set("top_k", count);
    }

    /** As many experts as reach this probability together, instead of a number. */
    public MixLora topP(double value) {
        return set("top_p", value);
    }

    /** Weight of the loss that spreads tokens over experts; 0 = off. */
    public MixLora balanceWeight(double value) {
        return set("balance_weight", value);
    }
}
