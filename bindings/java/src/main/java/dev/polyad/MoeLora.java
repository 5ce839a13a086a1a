// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

/** MOELoRA: low-rank experts mixed by a gate that reads the task (arXiv 2310.18339). */
public final class MoeLora extends MethodConfig.Builder<MoeLora> {
    private MoeLora() {
        super("moelora_task");
    }

    /** Options with the library's defaults. */
    public static MoeLora builder() {
        return new MoeLora();
    }

    /** The mixture is scaled by alpha / rank. */
    public MoeLora alpha(double value) {
        return set("alpha", value);
    }

    /** How many experts share the rank. */
    public MoeLora experts(int count) {
        return set("n_experts", count);
    }

    /** Width of the vector each task has. */
    public MoeLora taskEmbeddingDim(int width) {
        return set("task_embedding_dim", width);
    }

    /** What training moves: {@code all}, {@code router}, {@code uniform}. */
    public MoeLora train(String how) {
        return set("train", how);
    }
}
