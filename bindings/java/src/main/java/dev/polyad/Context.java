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
        return create(0);
    }

    /**
     * A context whose calls use {@code threads} worker threads each.
     *
     * @param threads 1 to 1024, or 0 for what OpenMP would use
     */
    public static Context create(int threads) {
        NativeLoader.load();
        polyad_context_options options = new polyad_context_options();
        try {
            options.setThreads(threads);
            return new Context(open(out -> Native.polyad_context_create(options, out)));
        } finally {
            options.delete();
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
