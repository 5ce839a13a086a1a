// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

/** How an example becomes text. */
public final class PromptFormat extends Options<PromptFormat> {
    private PromptFormat() {}

    /** The library's defaults. */
    public static PromptFormat create() {
        return new PromptFormat();
    }

    /** {@code auto}, {@code chat}, {@code plain}, or a text with {@code {instruction}} and {@code {input}}. */
    public PromptFormat style(String style) {
        return set("style", style);
    }

    /** The system message of chat templates. */
    public PromptFormat system(String text) {
        return set("system", text);
    }

    /** How many of a task's positive examples precede the question. */
    public PromptFormat positiveExamples(int count) {
        return set("positive_examples", count);
    }

    /** Most tokens of prompt and answer; longer prompts are cut on the left. */
    public PromptFormat maxTokens(int tokens) {
        return set("max_tokens", tokens);
    }

    /** Most tokens of an answer. */
    public PromptFormat maxAnswerTokens(int tokens) {
        return set("max_answer_tokens", tokens);
    }
}
