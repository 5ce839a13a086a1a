// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

/** MixLoRA: feed-forward experts made of low-rank adapters, a few per token (arXiv 2404.15159). */
public final class MixLora extends MethodConfig.Builder<MixLora> {
    private MixLora() {
        super("mixlora");
    }

    /** Options with the library's defaults. */
    public static MixLora builder() {
        return new MixLora();
    }

    /** Each expert is scaled by alpha / rank. */
    public MixLora alpha(double value) {
        return set("alpha", value);
    }

    /** How many experts there are. */
    public MixLora experts(int count) {
        return set("n_experts", count);
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
