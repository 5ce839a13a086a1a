// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

import java.util.concurrent.CompletableFuture;
import java.util.function.Consumer;
import java.util.function.LongConsumer;
import java.util.function.Supplier;

/**
 * Work that is done in steps: one caller at a time steps, any thread may cancel.
 */
abstract class Stepper extends NativeObject {
    Stepper(long handle, LongConsumer release) {
        super(handle, release);
    }

    abstract Progress step();

    /** Makes the step in progress, or the next one, end with CANCELLED; stepping can go on after that. */
    public abstract void cancel();

    /**
     * Steps until nothing is left to do. An interrupt ends it between two steps, as a cancel does; what {@code listener} throws ends
     * it too. Either way everything done so far stays, and stepping can go on.
     *
     * @param listener told after every step; may be null
     */
    final Progress runSteps(Consumer<? super Progress> listener) {
        Progress progress;
        do {
            if (Thread.currentThread().isInterrupted()) { // the flag stays set for the caller
                throw new PolyadException(ErrorCode.CANCELLED, "the thread was interrupted between two steps");
            }
            progress = step();
            if (listener != null) {
                listener.accept(progress);
            }
        } while (!progress.done());
        return progress;
    }

    /** Runs in the background; cancelling the future cancels the step. */
    static <T> CompletableFuture<T> inBackground(Stepper stepper, Supplier<T> work) {
        CompletableFuture<T> future = new CompletableFuture<>() {
            @Override
            public boolean cancel(boolean mayInterrupt) {
                boolean cancelled = super.cancel(mayInterrupt);
                if (cancelled && !stepper.isClosed()) {
                    stepper.cancel();
                }
                return cancelled;
            }
        };
        Calls.executor().execute(() -> {
            try {
                if (!future.isDone()) {
                    future.complete(work.get());
                }
            } catch (Throwable e) {
                future.completeExceptionally(e);
            }
        });
        return future;
    }
}
