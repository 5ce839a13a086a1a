// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

import java.lang.invoke.MethodHandle;
import java.lang.invoke.MethodHandles;
import java.lang.invoke.MethodType;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Supplier;

/**
 * Where long calls run. A virtual thread inside native code occupies its carrier, and there are only as many carriers as cores; so a
 * long call of a virtual thread runs on a platform thread while the virtual one is parked. On Java 17 there are none and this costs
 * nothing. No lock of this package is held over a native call, and none is a monitor.
 */
final class Calls {
    private static final MethodHandle IS_VIRTUAL = findIsVirtual();
    private static final AtomicInteger NUMBER = new AtomicInteger();
    private static final ExecutorService EXECUTOR =
            Executors.newCachedThreadPool(task -> daemon(task, "polyad-" + NUMBER.incrementAndGet()));

    private Calls() {}

    static Thread daemon(Runnable task, String name) {
        Thread thread = new Thread(task, name);
        thread.setDaemon(true);
        return thread;
    }

    /** Platform threads for long calls and for the callbacks of futures and publishers. */
    static ExecutorService executor() {
        return EXECUTOR;
    }

    static boolean onVirtualThread() {
        try {
            return IS_VIRTUAL != null && (boolean) IS_VIRTUAL.invokeExact(Thread.currentThread());
        } catch (Throwable e) {
            return false;
        }
    }

    static <T> T blocking(Supplier<T> call) {
        return onVirtualThread() ? await(CompletableFuture.supplyAsync(call, EXECUTOR)) : call.get();
    }

    /** The future's value, or the exception it ended with, as it was thrown. */
    static <T> T await(CompletableFuture<T> future) {
        try {
            return future.join();
        } catch (CompletionException e) {
            Throwable cause = e.getCause();
            if (cause instanceof RuntimeException runtime) {
                throw runtime;
            }
            if (cause instanceof Error error) {
                throw error;
            }
            throw e;
        }
    }

    private static MethodHandle findIsVirtual() {
        try {
            return MethodHandles.lookup().findVirtual(Thread.class, "isVirtual", MethodType.methodType(boolean.class));
        } catch (ReflectiveOperationException e) {
            return null;
        }
    }
}
