// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

import java.nio.file.Path;
import java.util.Objects;
import java.util.concurrent.CompletableFuture;
import java.util.function.Consumer;

/**
 * Trains a skillset on a dataset. {@code Trainer.of(skills, tasks).epochs(3).run()} is the short form; {@code build()} gives a trainer
 * to step, save and resume by hand. One caller at a time; {@link #cancel()} from any thread.
 */
public final class Trainer extends Stepper {
    private final Consumer<? super Progress> listener;

    private Trainer(long handle, Consumer<? super Progress> listener) {
        super(handle, Native::polyad_trainer_release);
        this.listener = listener;
    }

    /** Options of a training run. */
    public static Builder of(Skillset skills, Dataset tasks) {
        return new Builder(skills, tasks);
    }

    /** How to train. */
    public static final class Builder extends Options<Builder> {
        private final Skillset skills;
        private final Dataset tasks;
        private Consumer<? super Progress> listener;

        private Builder(Skillset skills, Dataset tasks) {
            this.skills = Objects.requireNonNull(skills, "skills");
            this.tasks = Objects.requireNonNull(tasks, "tasks");
        }

        /** Passes over the training rows. */
        public Builder epochs(double epochs) {
            return epochs == Math.rint(epochs) ? set("epochs", (long) epochs) : set("epochs", epochs);
        }

        /** Optimiser steps, instead of epochs. */
        public Builder maxSteps(long steps) {
            return set("max_steps", steps);
        }

        /** Rows of one forward pass. */
        public Builder batchSize(int rows) {
            return set("batch_size", rows);
        }

        /** A forward pass with more tokens is split; the loss stays the same. */
        public Builder maxTokensPerBatch(int tokens) {
            return set("max_tokens_per_batch", tokens);
        }

        /** Forward passes of one optimiser step. */
        public Builder gradientAccumulation(int passes) {
            return set("gradient_accumulation", passes);
        }

        /** Of the skills. */
        public Builder learningRate(double rate) {
            return set("learning_rate", rate);
        }

        /** Of the routing logits; default ten times the skills'. */
        public Builder routerLearningRate(double rate) {
            return set("router_learning_rate", rate);
        }

        /** Of the skills. */
        public Builder weightDecay(double decay) {
            return set("weight_decay", decay);
        }

        /** After the warm-up: {@code linear}, {@code cosine}, {@code constant}. */
        public Builder schedule(String schedule) {
            return set("schedule", schedule);
        }

        /** Share of the steps in which the rates rise. */
        public Builder warmupRatio(double share) {
            return set("warmup_ratio", share);
        }

        /** Clipping over all parameters; 0 = off. */
        public Builder maxGradientNorm(double norm) {
            return set("max_grad_norm", norm);
        }

        /** How rows are drawn from the tasks: {@code proportional}, {@code uniform}, {@code temperature}. */
        public Builder sampling(String how) {
            return set("sampling", how);
        }

        /** Order of rows and routing noise. */
        public Builder seed(long seed) {
            return set("seed", seed);
        }

        /** Steps between validations; 0 = each epoch. */
        public Builder validationEvery(long steps) {
            return set("validation_every", steps);
        }

        /** Validation rows, dealt out evenly over the tasks; 0 = none. */
        public Builder validationExamples(int rows) {
            return set("validation_examples", rows);
        }

        /** Validations without gain before stopping; 0 = never. */
        public Builder earlyStopPatience(int validations) {
            return set("early_stop_patience", validations);
        }

        /** Whether to end with the weights of the best validation. */
        public Builder keepBest(boolean on) {
            return set("keep_best", on);
        }

        /** A file written atomically every so many steps, from which {@link Trainer#resume} goes on. */
        public Builder checkpoint(Path file, long everySteps) {
            return set("checkpoint", file.toString()).set("checkpoint_every", everySteps);
        }

        /** Told after every step of {@code run}. */
        public Builder onProgress(Consumer<? super Progress> listener) {
            this.listener = listener;
            return this;
        }

        /**
         * A trainer at step 0.
         *
         * @throws PolyadException INVALID_CONFIG, BAD_DATA (empty task, answer too long), UNKNOWN_TASK (one the skillset lacks)
         */
        public Trainer build() {
            String config = json().toString();
            long handle = skills.<Long>work(
                    s -> tasks.ask(d -> open(out -> Native.polyad_trainer_create(s, d, config, out))));
            return new Trainer(handle, listener);
        }

        /** Trains to the end. */
        public Progress run() {
            try (Trainer trainer = build()) {
                return trainer.run();
            }
        }

        /** Trains to the end in the background; cancelling the future ends it within a step, which its listener still hears of. */
        public CompletableFuture<Progress> runAsync() {
            Trainer trainer = build();
            return inBackground(trainer, () -> {
                try (trainer) {
                    return trainer.run();
                }
            });
        }
    }

    /**
     * One optimiser step. A step that fails leaves the parameters as they were.
     *
     * @throws PolyadException NUMERIC_ERROR (step and task), CANCELLED, WRONG_STATE (done already, or stepped by another thread)
     */
    @Override
    public Progress step() {
        return work(handle -> Progress.of(p -> Native.polyad_trainer_step(handle, p)));
    }

    /**
     * Steps to the end. Ends early with CANCELLED when it is cancelled or the thread is interrupted, and with whatever the progress
     * listener throws; the trainer keeps what was done and can go on.
     */
    public Progress run() {
        return runSteps(listener);
    }

    /** Steps to the end in the background; cancelling the future cancels. */
    public CompletableFuture<Progress> runAsync() {
        return inBackground(this, this::run);
    }

    @Override
    public void cancel() {
        call(Native::polyad_trainer_cancel);
    }

    /** Writes, atomically, everything needed to go on bit for bit. */
    public void saveCheckpoint(Path file) {
        String path = file.toString();
        work(handle -> {
            Native.polyad_trainer_save_checkpoint(handle, path);
            return null;
        });
    }

    /** Goes on from a checkpoint of the same skillset configuration, data and training options. */
    public void resume(Path file) {
        String path = file.toString();
        work(handle -> {
            Native.polyad_trainer_resume(handle, path);
            return null;
        });
    }

    /** The options with all defaults; loss and validation of every step. */
    public Json report() {
        return json(Native::polyad_trainer_report);
    }
}
