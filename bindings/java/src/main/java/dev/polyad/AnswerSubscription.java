// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

import java.util.concurrent.Executor;
import java.util.concurrent.Flow;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicLong;

/** One subscriber of an answer: signals come one after another, never more pieces than were requested (Reactive Streams 1, 3). */
final class AnswerSubscription implements Flow.Subscription {
    private final Answer answer;
    private final Flow.Subscriber<? super String> subscriber;
    private final Executor executor;
    private final AtomicLong demand = new AtomicLong();
    private final AtomicInteger wakes = new AtomicInteger(); // > 0 while a drain runs or is due
    private volatile boolean done;
    private volatile IllegalArgumentException badRequest;
    private boolean started;
    private int index;

    AnswerSubscription(Answer answer, Flow.Subscriber<? super String> subscriber, Executor executor) {
        this.answer = answer;
        this.subscriber = java.util.Objects.requireNonNull(subscriber, "subscriber");
        this.executor = executor;
    }

    void start() {
        wake();
    }

    /** Something changed: a piece came, more were requested, or the answer ended. */
    void wake() {
        if (!done && wakes.getAndIncrement() == 0) {
            executor.execute(this::drain);
        }
    }

    @Override
    public void request(long count) {
        if (count <= 0) {
            badRequest = new IllegalArgumentException("request(" + count + "): at least one piece has to be requested");
        } else {
            demand.getAndUpdate(now -> now + count < 0 ? Long.MAX_VALUE : now + count);
        }
        wake();
    }

    @Override
    public void cancel() {
        end();
    }

    private void end() {
        done = true;
        answer.remove(this);
    }

    private void drain() {
        int seen = wakes.get();
        do {
            try {
                deliver();
            } catch (Throwable e) { // a subscriber that throws has broken off (rule 2.13)
                end();
                Thread thread = Thread.currentThread();
                thread.getUncaughtExceptionHandler().uncaughtException(thread, e);
            }
            seen = wakes.addAndGet(-seen);
        } while (seen != 0);
    }

    private void deliver() {
        if (!started) {
            started = true;
            subscriber.onSubscribe(this);
        }
        while (!done) {
            if (badRequest != null) {
                end();
                subscriber.onError(badRequest);
                return;
            }
            Answer.Next next = answer.next(index, false);
            if (next.ended()) {
                end();
                if (next.failure() == null) {
                    subscriber.onComplete();
                } else {
                    subscriber.onError(next.failure());
                }
                return;
            }
            if (next.piece() == null || demand.get() == 0) {
                return;
            }
            if (demand.get() != Long.MAX_VALUE) {
                demand.decrementAndGet();
            }
            ++index;
            subscriber.onNext(next.piece());
        }
    }
}
