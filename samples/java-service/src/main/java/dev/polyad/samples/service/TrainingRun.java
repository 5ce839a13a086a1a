// SPDX-License-Identifier: Apache-2.0
package dev.polyad.samples.service;

import dev.polyad.Dataset;
import dev.polyad.ErrorCode;
import dev.polyad.Json;
import dev.polyad.PolyadException;
import dev.polyad.Progress;
import dev.polyad.Skillset;
import dev.polyad.Trainer;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.locks.Condition;
import java.util.concurrent.locks.ReentrantLock;

/** One training in the background: its progress for whoever asks or waits, and at the end a new bundle. */
final class TrainingRun {
    private final int version;
    private final Path file;
    private final ReentrantLock lock = new ReentrantLock();
    private final Condition changed = lock.newCondition();
    private final CompletableFuture<Progress> training;
    private Progress progress;
    private String state = "running";
    private String error;

    /** Starts it; the skillset and the rows are this run's own from here on. */
    TrainingRun(int version, Skillset skillset, Dataset rows, Path file, long steps, double learningRate) {
        this.version = version;
        this.file = file;
        try {
            training = Trainer.of(skillset, rows)
                    .maxSteps(steps)
                    .batchSize(8)
                    .learningRate(learningRate)
                    .validationExamples(0)
                    .onProgress(p -> update("running", p, null))
                    .runAsync();
        } catch (RuntimeException e) {
            skillset.close();
            throw e;
        }
        training.whenComplete((last, failure) -> finish(skillset, rows, failure));
    }

    private void finish(Skillset skillset, Dataset rows, Throwable failure) {
        try (skillset;
                rows) {
            if (failure == null) {
                skillset.save(file); // readers see no file or a whole one
                update("done", null, null);
                return;
            }
        } catch (RuntimeException e) {
            failure = e;
        }
        Throwable why = failure instanceof CompletionException ? failure.getCause() : failure;
        boolean cancelled = why instanceof CancellationException
                || why instanceof PolyadException e && e.code() == ErrorCode.CANCELLED;
        update(cancelled ? "cancelled" : "failed", null, cancelled ? null : why.toString());
    }

    private void update(String next, Progress now, String why) {
        lock.lock();
        try {
            if (!state.equals("running")) {
                return; // cancelled: the step under way still tells of itself when it is through
            }
            state = next;
            progress = now == null ? progress : now;
            error = why;
            changed.signalAll();
        } finally {
            lock.unlock();
        }
    }

    boolean isRunning() {
        lock.lock();
        try {
            return state.equals("running");
        } finally {
            lock.unlock();
        }
    }

    void cancel() {
        training.cancel(true);
    }

    /** Waits until there is something newer than step {@code seen}, or the run has ended. */
    Json next(long seen) throws InterruptedException {
        lock.lock();
        try {
            while (state.equals("running") && (progress == null || progress.step() <= seen)) {
                changed.await();
            }
            return json();
        } finally {
            lock.unlock();
        }
    }

    Json json() {
        lock.lock();
        try {
            Map<String, Object> out = new LinkedHashMap<>();
            out.put("version", version);
            out.put("state", state);
            if (progress != null) {
                out.put("step", progress.step());
                out.put("total_steps", progress.totalSteps());
                out.put("loss", progress.loss());
                out.put("tokens_per_second", progress.tokensPerSecond());
                out.put("seconds_left", Double.isNaN(progress.secondsLeft()) ? null : progress.secondsLeft());
            }
            if (error != null) {
                out.put("error", error);
            }
            return Json.of(out);
        } finally {
            lock.unlock();
        }
    }
}
