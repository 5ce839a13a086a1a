// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

/** MoLoRA: low-rank experts mixed per token (arXiv 2309.05444). */
public final class MoLora extends ExpertMethod<MoLora> {
    private MoLora() {
        super("molora");
    }

    /** Options with the library's defaults. */
    public static MoLora builder() {
        return new MoLora();
    }

    /** Experts a token uses; 0 = all. */
    public MoLora topK(int count) {
        return set("top_k", count);
    }

    /** Weights of those: {@code renorm} (they add to 1) or {@code mask}. */
    public MoLora topKMode(String how) {
        return set("top_k_mode", how);
    }

    /** Weight of the loss that spreads tokens over experts. */
    public MoLora balanceLoss(double value) {
        return set("balance_loss", value);
    }

    /** Weight of the loss that keeps gate logits small. */
    public MoLora zLoss(double value) {
        return set("z_loss", value);
    }
}
