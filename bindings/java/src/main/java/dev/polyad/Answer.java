// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;
import java.util.NoSuchElementException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.Executor;
import java.util.concurrent.Flow;
import java.util.concurrent.locks.Condition;
import java.util.concurrent.locks.ReentrantLock;
import java.util.stream.Stream;
import java.util.stream.StreamSupport;

/**
 * The answer to a request, while it is made and after. Read it whole ({@link #text()}, {@link #join()}), piece by piece as an
 * {@link Iterable} or {@link #stream()}, or as a {@link Flow.Publisher}; every reader sees all of it from the beginning. It ends by
 * itself, so closing it is not needed; closing an unfinished one cancels it. Any thread may use it.
 */
public final class Answer extends NativeObject implements Iterable<String> {
    /** Where a request stands. */
    public enum State {
        /** In the queue. */
        WAITING(polyad_request_state.POLYAD_REQUEST_WAITING),
        /** Being answered. */
        RUNNING(polyad_request_state.POLYAD_REQUEST_RUNNING),
        /** End token, stop text, or as many tokens as were allowed. */
        FINISHED(polyad_request_state.POLYAD_REQUEST_FINISHED),
        /** Stopped by a cancel. */
        CANCELLED(polyad_request_state.POLYAD_REQUEST_CANCELLED),
        /** Failed; the futures tell why. */
        FAILED(polyad_request_state.POLYAD_REQUEST_FAILED),
        /** Its timeout passed; it is what it had until then. */
        EXPIRED(polyad_request_state.POLYAD_REQUEST_EXPIRED);

        private final int number;

        State(int number) {
            this.number = number;
        }

        static State of(int number) {
            for (State state : values()) {
                if (state.number == number) {
                    return state;
                }
            }
            return FAILED;
        }
    }

    /**
     * A finished answer.
     *
     * @param text all of it
     * @param tokens its token ids
     * @param finishReason {@code end_token}, {@code stop_string}, {@code max_tokens}, or {@code expired}: the timeout passed
     * @param promptTokens tokens of the prompt
     * @param cachedTokens those of them that were found in the prefix cache
     * @param truncatedTokens tokens of the prompt that were cut off to fit the prompt format
     * @param seconds from submitting to the end
     */
    public record Result(
            String text, int[] tokens, String finishReason, int promptTokens, int cachedTokens, int truncatedTokens, double seconds) {}

    private final Engine engine; // kept while the answer is made
    private final ReentrantLock lock = new ReentrantLock();
    private final Condition changed = lock.newCondition();
    private final List<String> pieces = new ArrayList<>();
    private final List<AnswerSubscription> subscriptions = new CopyOnWriteArrayList<>();
    private final Future<Result> result = new Future<>();
    private final Future<String> text = new Future<>();
    private State state = State.WAITING;
    private Throwable failure;

    Answer(Engine engine, long handle) {
        super(handle, Native::polyad_request_release);
        this.engine = engine;
    }

    /** A future whose cancelling cancels the request. */
    private final class Future<T> extends CompletableFuture<T> {
        @Override
        public boolean cancel(boolean mayInterrupt) {
            boolean cancelled = super.cancel(mayInterrupt);
            if (cancelled) {
                Answer.this.cancel();
            }
            return cancelled;
        }

        @Override
        public <U> CompletableFuture<U> newIncompleteFuture() {
            return new CompletableFuture<>();
        }
    }

    // ---- the engine's side --------------------------------------------------------------------------------------------

    /** Takes what has become certain; true when the answer is complete. Only the engine's stepping thread calls it. */
    boolean poll() {
        byte[][] piece = new byte[1][];
        int[] number = new int[1];
        try {
            call(handle -> Native.polyad_request_poll(handle, piece, number));
        } catch (RuntimeException e) { // closed by its user
            finish(State.CANCELLED, null, new PolyadException(ErrorCode.CANCELLED, "the request was closed before its end"));
            return true;
        }
        State now = State.of(number[0]);
        String added = Utf8.text(piece[0]);
        lock.lock();
        try {
            if (!added.isEmpty()) {
                pieces.add(added);
            }
            if (now.compareTo(State.FINISHED) < 0) {
                state = now;
                changed.signalAll();
            }
        } finally {
            lock.unlock();
        }
        if (now.compareTo(State.FINISHED) < 0) {
            if (!added.isEmpty()) {
                subscriptions.forEach(AnswerSubscription::wake);
            }
            return false;
        }
        Result complete = null;
        Throwable why = null;
        if (now == State.CANCELLED) {
            why = new PolyadException(ErrorCode.CANCELLED, "the request was cancelled");
        } else {
            try {
                Json json = json(Native::polyad_request_result);
                complete = new Result(
                        json.get("text").asString(),
                        json.get("tokens").asList().stream().mapToInt(Json::asInt).toArray(),
                        json.get("finish_reason").asString(),
                        json.get("prompt_tokens").asInt(),
                        json.get("cached_tokens").asInt(),
                        json.get("truncated").asInt(),
                        json.get("seconds").asDouble());
            } catch (RuntimeException e) {
                why = e;
            }
        }
        finish(now, complete, why);
        return true;
    }

    /** Ends the answer; the first end counts. Futures complete on a thread of their own: no callback can hold up the engine. */
    void finish(State last, Result complete, Throwable why) {
        lock.lock();
        try {
            if (state.compareTo(State.FINISHED) >= 0) {
                return;
            }
            state = last;
            failure = why;
            changed.signalAll();
        } finally {
            lock.unlock();
        }
        super.close();
        subscriptions.forEach(AnswerSubscription::wake);
        Calls.executor().execute(() -> {
            if (why == null) {
                result.complete(complete);
                text.complete(complete.text());
            } else {
                result.completeExceptionally(why);
                text.completeExceptionally(why);
            }
        });
    }

    // ---- the reader's side --------------------------------------------------------------------------------------------

    /** The whole text. Completes exceptionally with the {@link PolyadException} that ended it; cancelling it cancels the request. */
    public CompletableFuture<String> text() {
        return text;
    }

    /** The text with its token ids and why it ended. */
    public CompletableFuture<Result> result() {
        return result;
    }

    /**
     * Waits for the whole text.
     *
     * @throws PolyadException what ended it: CANCELLED, CONTEXT_OVERFLOW, ...
     */
    public String join() {
        return Calls.await(text);
    }

    /** Where the request stands. */
    public State state() {
        lock.lock();
        try {
            return state;
        } finally {
            lock.unlock();
        }
    }

    /** Stops the request; its futures then end with CANCELLED. Does nothing when it has ended. */
    public void cancel() {
        try {
            call(Native::polyad_request_cancel);
            engine.wake();
        } catch (IllegalStateException e) {
            // Ended meanwhile.
        }
    }

    /** Cancels the request if it has not ended. */
    @Override
    public void close() {
        cancel();
    }

    /** One outcome of {@link #next}: a piece, nothing yet, or the end with its failure. */
    record Next(String piece, boolean ended, Throwable failure) {}

    /** The piece at an index, waiting for it or not. */
    Next next(int index, boolean wait) {
        lock.lock();
        try {
            while (wait && index >= pieces.size() && state.compareTo(State.FINISHED) < 0) {
                changed.awaitUninterruptibly();
            }
            if (index < pieces.size()) {
                return new Next(pieces.get(index), false, null);
            }
            return new Next(null, state.compareTo(State.FINISHED) >= 0, failure);
        } finally {
            lock.unlock();
        }
    }

    /** The pieces as they come; waits for each. Throws the {@link PolyadException} that ended the answer where its text breaks off. */
    @Override
    public Iterator<String> iterator() {
        return new Iterator<>() {
            private int index;
            private Next next;

            @Override
            public boolean hasNext() {
                if (next == null) {
                    next = Answer.this.next(index, true);
                    if (next.piece() == null && next.failure() != null) {
                        Throwable why = next.failure();
                        next = null;
                        if (why instanceof Error error) {
                            throw error;
                        }
                        throw (RuntimeException) why;
                    }
                }
                return next.piece() != null;
            }

            @Override
            public String next() {
                if (!hasNext()) {
                    throw new NoSuchElementException("the answer has ended");
                }
                String piece = next.piece();
                next = null;
                ++index;
                return piece;
            }
        };
    }

    /** The pieces as they come, as a sequential stream. */
    public Stream<String> stream() {
        return StreamSupport.stream(spliterator(), false);
    }

    /** The pieces for subscribers, each from the beginning and at its own pace; signals come on threads of this library. */
    public Flow.Publisher<String> publisher() {
        return publisher(Calls.executor());
    }

    /** As above, with signals on the given executor. */
    public Flow.Publisher<String> publisher(Executor executor) {
        return subscriber -> {
            AnswerSubscription subscription = new AnswerSubscription(this, subscriber, executor);
            subscriptions.add(subscription);
            subscription.start();
        };
    }

    void remove(AnswerSubscription subscription) {
        subscriptions.remove(subscription);
    }
}
