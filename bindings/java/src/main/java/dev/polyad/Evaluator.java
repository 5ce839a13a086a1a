// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

import java.util.Objects;
import java.util.concurrent.CompletableFuture;
import java.util.function.Consumer;

/**
 * Scores a skillset, or the backbone alone, on a part of a dataset. {@code Evaluator.of(model, tasks).skills(skills).run()} is the short
 * form. One caller at a time; {@link #cancel()} from any thread.
 */
public final class Evaluator extends Stepper {
    private final Consumer<? super Progress> listener;

    private Evaluator(long handle, Consumer<? super Progress> listener) {
        super(handle, Native::polyad_evaluator_release);
        this.listener = listener;
    }

    /** Options of a scoring run. */
    public static Builder of(Backbone model, Dataset tasks) {
        return new Builder(model, tasks);
    }

    /** How to score. */
    public static final class Builder extends Options<Builder> {
        private final Backbone model;
        private final Dataset tasks;
        private Skillset skills;
        private Consumer<? super Progress> listener;

        private Builder(Backbone model, Dataset tasks) {
            this.model = Objects.requireNonNull(model, "model");
            this.tasks = Objects.requireNonNull(tasks, "tasks");
        }

        /** The skillset to score; without one the backbone alone, with the same prompts. */
        public Builder skills(Skillset skills) {
            this.skills = skills;
            return this;
        }

        /** The part of the dataset. */
        public Builder split(Split split) {
            return set("split", split);
        }

        /** {@code generate} (greedy) or {@code labels} (rank a task's labels by log-probability). */
        public Builder mode(String mode) {
            return set("mode", mode);
        }

        /** Most tokens of an answer. */
        public Builder maxTokens(int tokens) {
            return set("max_tokens", tokens);
        }

        /** Rows scored together. */
        public Builder batchSize(int rows) {
            return set("batch_size", rows);
        }

        /** At most so many examples of a task. */
        public Builder maxExamplesPerTask(int count) {
            return set("max_examples_per_task", count);
        }

        /** Only these tasks. */
        public Builder tasks(String... names) {
            return set("tasks", names);
        }

        /** Whether labels are compared by log-probability per token. */
        public Builder normalizeLength(boolean on) {
            return set("normalize_length", on);
        }

        /** How an example becomes text. */
        public Builder prompt(PromptFormat format) {
            return set("prompt", format);
        }

        /** Told after every batch of {@code run}. */
        public Builder onProgress(Consumer<? super Progress> listener) {
            this.listener = listener;
            return this;
        }

        /** An evaluator before its first batch. */
        public Evaluator build() {
            String config = json().toString();
            long handle = model.<Long>work(m -> tasks.ask(d -> skills == null
                    ? open(out -> Native.polyad_evaluator_create(m, 0, d, config, out))
                    : skills.ask(s -> open(out -> Native.polyad_evaluator_create(m, s, d, config, out)))));
            return new Evaluator(handle, listener);
        }

        /** Scores everything; see {@link Evaluator#result()}. */
        public Json run() {
            try (Evaluator evaluator = build()) {
                return evaluator.run();
            }
        }

        /** Scores in the background; cancelling the future ends it within a batch. */
        public CompletableFuture<Json> runAsync() {
            Evaluator evaluator = build();
            return inBackground(evaluator, () -> {
                try (evaluator) {
                    return evaluator.run();
                }
            });
        }
    }

    /** Scores one batch of examples. */
    @Override
    public Progress step() {
        return work(handle -> Progress.of(p -> Native.polyad_evaluator_step(handle, p)));
    }

    /** Scores to the end; see {@link #result()}. */
    public Json run() {
        runSteps(listener);
        return result();
    }

    @Override
    public void cancel() {
        call(Native::polyad_evaluator_cancel);
    }

    /**
     * Exact match and ROUGE-L (0 to 100) overall, per category and per task; counts; predictions.
     *
     * @throws PolyadException WRONG_STATE before everything is scored
     */
    public Json result() {
        return json(Native::polyad_evaluator_result);
    }

    /** The same as an aligned table for people. */
    public String table() {
        return text(Native::polyad_evaluator_table);
    }
}
