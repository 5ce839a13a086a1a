// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

/** PEMT, stage 1: one expert and one prompt per source task (arXiv 2402.15082). */
public final class PemtSource extends ScaledMethod<PemtSource> {
    private PemtSource() {
        super("pemt_source");
    }

    /** Options with the library's defaults. */
    public static PemtSource builder() {
        return new PemtSource();
    }

    /** {@code lora} or {@code bottleneck}. */
    public PemtSource expert(String how) {
        return set("expert", how);
    }

    /** Start of its B: {@code zero} or {@code kaiming}. */
    public PemtSource loraBInit(String how) {
        return set("stage1_lora_b_init", how);
    }

    /** Start of the prompts: {@code description} or {@code random}. */
    public PemtSource promptInit(String how) {
        return set("prompt_init", how);
    }

    /** Tokens of a prompt; 0 = as many as its description has. */
    public PemtSource promptTokens(int count) {
        return set("prompt_tokens", count);
    }

    /** At most so many. */
    public PemtSource maxPromptTokens(int count) {
        return set("max_prompt_tokens", count);
    }
}
