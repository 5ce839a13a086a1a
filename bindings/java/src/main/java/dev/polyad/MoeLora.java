// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

/** MOELoRA: low-rank experts mixed by a gate that reads the task (arXiv 2310.18339). */
public final class MoeLora extends ExpertMethod<MoeLora> {
    private MoeLora() {
        super("moelora_task");
    }

    /** Options with the library's defaults. */
    public static MoeLora builder() {
        return new MoeLora();
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
