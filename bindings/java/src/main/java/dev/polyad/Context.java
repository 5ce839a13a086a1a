// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

import java.util.concurrent.locks.ReentrantLock;

/**
 * Threads and device settings shared by what is opened through it. Most programs never name one: {@code open} without a context uses
 * one for the process. Any number of threads may use a context at once.
 */
public final class Context extends NativeObject {
    private static final ReentrantLock LOCK = new ReentrantLock();
    private static Context shared;

    private Context(long handle) {
        super(handle, Native::polyad_context_release);
    }

    /** A context with as many worker threads per call as OpenMP would use. */
    public static Context create() {
        return builder().create();
    }

    /**
     * A context whose calls use {@code threads} worker threads each.
     *
     * @param threads 1 to 1024, or 0 for what OpenMP would use
     */
    public static Context create(int threads) {
        return builder().threads(threads).create();
    }

    /** Options of a context. */
    public static Builder builder() {
        return new Builder();
    }

    /** Where what is opened through a context lives and computes. */
    public static final class Builder {
        private int threads;
        private String device;
        private long memoryBudget;

        private Builder() {}

        /** Worker threads of one call, 1 to 1024; 0 = what OpenMP would use. */
        public Builder threads(int count) {
            threads = count;
            return this;
        }

        /** {@code cpu}, {@code cuda} (the first) or {@code cuda:N}; {@link Polyad#devices()} lists them. */
        public Builder device(String name) {
            device = name;
            return this;
        }

        /** CUDA: most bytes of device memory this process may take; 0 = all there is. */
        public Builder memoryBudget(long bytes) {
            if (bytes < 0) {
                throw new IllegalArgumentException("a memory budget has to be 0 or more, this one is " + bytes);
            }
            memoryBudget = bytes;
            return this;
        }

        /**
         * The context.
         *
         * @throws PolyadException INVALID_ARGUMENT, INVALID_CONFIG (no such name of a device), UNSUPPORTED (no CUDA here: the message
         *     says what is missing), WRONG_STATE (trained on the CPU already, another memory budget is in force)
         */
        public Context create() {
            NativeLoader.load();
            polyad_context_options options = new polyad_context_options();
            try {
                options.setThreads(threads);
                if (device != null) {
                    options.setDevice(device);
                }
                options.setMemory_budget(memoryBudget);
                return new Context(open(out -> Native.polyad_context_create(options, out)));
            } finally {
                options.delete();
            }
        }
    }

    /** The process's own context, made when it is first asked for. */
    static Context shared() {
        LOCK.lock();
        try {
            if (shared == null || shared.isClosed()) {
                shared = create();
            }
            return shared;
        } finally {
            LOCK.unlock();
        }
    }
}
