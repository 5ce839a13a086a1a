// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

import java.nio.file.Path;
import java.util.Arrays;

/** PEMT, stage 2: target tasks that mix the experts of stage 1 by the likeness of their prompts (arXiv 2402.15082). */
public final class Pemt extends MethodConfig.Builder<Pemt> {
    private Pemt() {
        super("pemt");
    }

    /** Options with the library's defaults. */
    public static Pemt builder() {
        return new Pemt();
    }

    /** Bundles of stage 1; their tensors are copied. */
    public Pemt sources(Path... bundles) {
        return set("sources", Arrays.stream(bundles).map(Path::toString).toList());
    }

    /** Width of the target task's own adapter. */
    public Pemt adapterDim(int width) {
        return set("adapter_dim", width);
    }

    /** {@code dynamic} or {@code init_once}. */
    public Pemt correlationPrompt(String how) {
        return set("corr_prompt", how);
    }

    /** Dropout of the attention over source prompts, in training. */
    public Pemt promptDropout(double value) {
        return set("prompt_dropout", value);
    }

    /** {@code prefix}, or {@code prompt}: the row's own prompt too. */
    public Pemt gateReads(String how) {
        return set("gate_reads", how);
    }

    /** Whether layer norms train too. */
    public Pemt trainNorms(boolean on) {
        return set("train_norms", on);
    }

    /** Weight of the Task Sparsity Loss; 0 = off. */
    public Pemt taskSparsityWeight(double value) {
        return set("ts_weight", value);
    }

    /** Leaves masked tokens out of it. */
    public Pemt taskSparsityMaskPadding(boolean on) {
        return set("ts_mask_padding", on);
    }

    /** Keeps its gradient out of the experts' output. */
    public Pemt taskSparsityDetachOutput(boolean on) {
        return set("ts_detach_output", on);
    }

    /** Start of the prompts: {@code description} or {@code random}. */
    public Pemt promptInit(String how) {
        return set("prompt_init", how);
    }

    /** Tokens of a prompt; 0 = as many as its description has. */
    public Pemt promptTokens(int count) {
        return set("prompt_tokens", count);
    }

    /** At most so many. */
    public Pemt maxPromptTokens(int count) {
        return set("max_prompt_tokens", count);
    }
}
