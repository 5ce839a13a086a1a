// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

import java.lang.ref.Cleaner;
import java.lang.ref.Reference;
import java.util.concurrent.atomic.AtomicLong;
import java.util.function.LongConsumer;
import java.util.function.LongFunction;

/**
 * An object of the library and this object's one reference to it. Closing is the rule, the Cleaner the net. A closed object refuses
 * every call with {@link IllegalStateException}; closing twice, in any order, and while another thread is inside a call, is safe:
 * a handle is a ticket that the library checks, and a call that has begun keeps what it needs.
 */
abstract class NativeObject implements AutoCloseable {
    private static final Cleaner CLEANER = Cleaner.create();

    private final Ticket ticket;
    private final Cleaner.Cleanable cleanable;

    NativeObject(long handle, LongConsumer release) {
        ticket = new Ticket(handle, release);
        cleanable = CLEANER.register(this, ticket);
    }

    /** The reference; does not point back to the object, or that could never be collected. */
    static final class Ticket extends AtomicLong implements Runnable {
        private static final long serialVersionUID = 1;
        private final transient LongConsumer release;

        Ticket(long handle, LongConsumer release) {
            super(handle);
            this.release = release;
        }

        @Override
        public void run() {
            long handle = getAndSet(0);
            if (handle != 0) {
                release.accept(handle);
            }
        }
    }

    interface Opening {
        void run(long[] handle);
    }

    interface TextCall {
        void run(long handle, byte[][] text);
    }

    /** Runs a call that creates an object and returns its handle. */
    static long open(Opening call) {
        long[] handle = new long[1];
        call.run(handle);
        return handle[0];
    }

    final Ticket ticket() {
        return ticket;
    }

    /** Whether {@link #close()} was called. */
    public final boolean isClosed() {
        return ticket.get() == 0;
    }

    /** A short call. */
    final <T> T ask(LongFunction<T> call) {
        long handle = ticket.get();
        if (handle == 0) {
            throw closed(null);
        }
        try {
            return call.apply(handle);
        } catch (PolyadException e) {
            // Closed by another thread after the look above.
            if (e.code() == ErrorCode.INVALID_ARGUMENT && isClosed()) {
                throw closed(e);
            }
            throw e;
        } finally {
            Reference.reachabilityFence(this);
        }
    }

    final void call(LongConsumer call) {
        ask(handle -> {
            call.accept(handle);
            return null;
        });
    }

    /** A call that computes: kept off the carriers of virtual threads. */
    final <T> T work(LongFunction<T> call) {
        return Calls.blocking(() -> ask(call));
    }

    final String text(TextCall call) {
        byte[] bytes = bytes(call);
        return Utf8.text(bytes);
    }

    final byte[] bytes(TextCall call) {
        return ask(handle -> {
            byte[][] out = new byte[1][];
            call.run(handle, out);
            return out[0];
        });
    }

    final Json json(TextCall call) {
        return Json.parse(text(call));
    }

    private IllegalStateException closed(Throwable cause) {
        return new IllegalStateException("this " + getClass().getSimpleName() + " is closed", cause);
    }

    /** Gives the library's object back; what was made from it keeps working. Closing again does nothing. */
    @Override
    public void close() {
        cleanable.clean();
    }
}
