// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

import java.util.concurrent.CompletableFuture;
import java.util.Objects;

/**
 * Serves many requests over one backbone; every request of a batch may use another skillset, task or mix.
 *
 * <p>An engine steps by itself, on one platform thread that sleeps while there is nothing to do; {@link Builder#manual()} makes one
 * that is stepped by its user. Publish, retire, submit and stats may come from any thread at any time. Closing it cancels what is
 * still being answered.
 */
public final class Engine extends NativeObject {
    private final EngineDriver driver;

    private Engine(long handle, boolean manual) {
        super(handle, Native::polyad_engine_release);
        driver = new EngineDriver(ticket(), manual);
    }

    /** An engine with default options. */
    public static Engine over(Backbone model) {
        return builder(model).build();
    }

    /** Options of an engine. */
    public static Builder builder(Backbone model) {
        return new Builder(model);
    }

    /** How to serve. */
    public static final class Builder {
        private final Backbone model;
        private Integer maxBatch;
        private Integer maxQueue;
        private Integer maxContext;
        private Long memoryBudget;
        private Integer threads;
        private Boolean prefixCache;
        private Boolean mergeHotTask;
        private boolean manual;

        private Builder(Backbone model) {
            this.model = Objects.requireNonNull(model, "model");
        }

        /** Rows decoded together. */
        public Builder maxBatch(int rows) {
            maxBatch = rows;
            return this;
        }

        /** Waiting requests before submitting is refused with QUEUE_FULL. */
        public Builder maxQueue(int requests) {
            maxQueue = requests;
            return this;
        }

        /** Tokens one row may reach, prompt and answer; 0 = the model's limit, at most 4096. */
        public Builder maxContext(int tokens) {
            maxContext = tokens;
            return this;
        }

        /**
         * Bytes for published skillsets and cached keys and values together; 0 = skillsets unlimited, and as many rows as {@link #maxBatch}
         * says. Requests that find no room wait, or run again from their start; none is lost.
         */
        public Builder memoryBudget(long bytes) {
            memoryBudget = bytes;
            return this;
        }

        /** Worker threads of the engine's steps; 0 = the context's. */
        public Builder threads(int count) {
            threads = count;
            return this;
        }

        /** Whether prompts that begin alike, on the same skillset version and route, are computed once. */
        public Builder prefixCache(boolean on) {
            prefixCache = on;
            return this;
        }

        /** Whether a task that is all the traffic for a while is merged into a copy of the weights, at the cost of that copy's memory. */
        public Builder mergeHotTask(boolean on) {
            mergeHotTask = on;
            return this;
        }

        /** The user calls {@link Engine#step()}; nothing is answered otherwise. */
        public Builder manual() {
            manual = true;
            return this;
        }

        /** The engine. */
        public Engine build() {
            polyad_engine_options options = new polyad_engine_options();
            try {
                if (maxBatch != null) {
                    options.setMax_batch(maxBatch);
                }
                if (maxQueue != null) {
                    options.setMax_queue(maxQueue);
                }
                if (maxContext != null) {
                    options.setMax_context(maxContext);
                }
                if (memoryBudget != null) {
                    options.setMemory_budget(memoryBudget);
                }
                if (threads != null) {
                    options.setThreads(threads);
                }
                if (prefixCache != null) {
                    options.setPrefix_cache(prefixCache ? 1 : 0);
                }
                if (mergeHotTask != null) {
                    options.setMerge_hot_task(mergeHotTask ? 1 : 0);
                }
                long handle = model.<Long>work(m -> open(out -> Native.polyad_engine_create(m, options, out)));
                return new Engine(handle, manual);
            } finally {
                options.delete();
            }
        }
    }

    /**
     * Makes a snapshot of a skillset answer to a name, in place of an earlier one: running requests finish on what they began with, new
     * ones take the new.
     *
     * @return this engine
     * @throws PolyadException BACKBONE_MISMATCH, OUT_OF_MEMORY (the memory budget: what is published stays as it was)
     */
    public Engine publish(String name, Skillset skills) {
        Objects.requireNonNull(name, "name");
        Objects.requireNonNull(skills, "skills");
        work(handle -> {
            skills.call(s -> Native.polyad_engine_publish(handle, name, s));
            return null;
        });
        return this;
    }

    /**
     * Takes a name away; running requests finish.
     *
     * @throws PolyadException NOT_FOUND
     */
    public void retire(String name) {
        Objects.requireNonNull(name, "name");
        call(handle -> Native.polyad_engine_retire(handle, name));
    }

    /**
     * Puts a request into the queue.
     *
     * @throws PolyadException QUEUE_FULL, NOT_FOUND (skillset), UNKNOWN_TASK, CONTEXT_OVERFLOW, OUT_OF_MEMORY (it could never fit the
     *     memory budget), BAD_DATA, INVALID_ARGUMENT
     */
    public Answer submit(Request request) {
        Objects.requireNonNull(request, "request");
        long[] out = new long[1];
        call(handle -> request.use(options -> Native.polyad_engine_submit(handle, options, out)));
        Answer answer = new Answer(this, out[0]);
        driver.add(answer);
        return answer;
    }

    /**
     * Of a manual engine: admits waiting requests and produces one token for every running one.
     *
     * @return how many requests are still waiting or running
     * @throws PolyadException WRONG_STATE when another thread is stepping
     * @throws IllegalStateException when the engine steps by itself
     */
    public int step() {
        if (!driver.manual) {
            throw new IllegalStateException("this engine steps by itself; Engine.builder(model).manual() makes one to step by hand");
        }
        return work(handle -> {
            int[] busy = new int[1];
            Native.polyad_engine_step(handle, busy);
            driver.deliver();
            return busy[0];
        });
    }

    /** Published skillsets with versions and bytes; requests waiting, running and ended; tokens; memory; the prefix cache's use. */
    public Json stats() {
        return json(Native::polyad_engine_stats);
    }

    void wake() {
        driver.wake();
    }

    /** Cancels what is being answered and ends the engine's thread; a step in progress is waited for. */
    @Override
    public void close() {
        CompletableFuture<Void> stopped = driver.stop();
        if (!driver.isOwnThread()) {
            Calls.await(stopped);
        }
        super.close();
    }
}
