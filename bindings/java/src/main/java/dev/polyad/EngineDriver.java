// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

import java.util.ArrayList;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.locks.Condition;
import java.util.concurrent.locks.ReentrantLock;

/**
 * Steps an engine while it has requests and hands what they produce to their answers. It knows the engine's ticket, not the engine: an
 * engine that its user forgot can be collected, and the thread then ends. While answers are being made they keep the engine.
 */
final class EngineDriver implements Runnable {
    /** How often an idle thread looks whether its engine was collected. */
    private static final long IDLE_NANOS = 2_000_000_000L;

    final boolean manual;
    private final NativeObject.Ticket ticket;
    private final ReentrantLock lock = new ReentrantLock();
    private final Condition changed = lock.newCondition();
    private final Set<Answer> active = new LinkedHashSet<>();
    private final CompletableFuture<Void> stopped = new CompletableFuture<>();
    private volatile Thread thread;
    private boolean running;
    private boolean stopping;

    EngineDriver(NativeObject.Ticket ticket, boolean manual) {
        this.ticket = ticket;
        this.manual = manual;
    }

    void add(Answer answer) {
        boolean late;
        lock.lock();
        try {
            late = stopping;
            if (!late) {
                active.add(answer);
                if (!manual && !running) {
                    running = true;
                    thread = Calls.daemon(this, "polyad-engine");
                    thread.start();
                }
                changed.signalAll();
            }
        } finally {
            lock.unlock();
        }
        if (late) {
            answer.finish(Answer.State.CANCELLED, null, closed());
        }
    }

    void wake() {
        lock.lock();
        try {
            changed.signalAll();
        } finally {
            lock.unlock();
        }
    }

    /** Whether this is the engine's own thread, which a subscriber's executor may have let in; it cannot wait for itself. */
    boolean isOwnThread() {
        return Thread.currentThread() == thread;
    }

    /** Ends everything; the future completes when no step runs any more. */
    CompletableFuture<Void> stop() {
        boolean alone;
        lock.lock();
        try {
            stopping = true;
            alone = !running;
            changed.signalAll();
        } finally {
            lock.unlock();
        }
        for (Answer answer : snapshot()) {
            answer.cancel();
        }
        if (alone) {
            abandon(Answer.State.CANCELLED, closed());
            stopped.complete(null);
        }
        return stopped;
    }

    private static PolyadException closed() {
        return new PolyadException(ErrorCode.CANCELLED, "the engine was closed");
    }

    private List<Answer> snapshot() {
        lock.lock();
        try {
            return new ArrayList<>(active);
        } finally {
            lock.unlock();
        }
    }

    /** Polls every answer in the making. */
    void deliver() {
        for (Answer answer : snapshot()) {
            if (answer.poll()) {
                lock.lock();
                try {
                    active.remove(answer);
                } finally {
                    lock.unlock();
                }
            }
        }
    }

    private void abandon(Answer.State state, Throwable why) {
        for (Answer answer : snapshot()) {
            answer.cancel();
            answer.finish(state, null, why);
        }
        lock.lock();
        try {
            active.clear();
        } finally {
            lock.unlock();
        }
    }

    @Override
    public void run() {
        try {
            while (waitForWork()) {
                try {
                    Native.polyad_engine_step(ticket.get(), null);
                    deliver();
                } catch (Throwable e) { // a step that fails has answered nobody
                    abandon(Answer.State.FAILED, e);
                }
            }
        } finally {
            abandon(Answer.State.CANCELLED, closed());
            stopped.complete(null);
        }
    }

    /** False when the thread has to end. */
    private boolean waitForWork() {
        lock.lock();
        try {
            while (!stopping && active.isEmpty()) {
                changed.awaitNanos(IDLE_NANOS);
                if (ticket.get() == 0) {
                    return false;
                }
            }
            return !stopping;
        } catch (InterruptedException e) {
            return false;
        } finally {
            lock.unlock();
        }
    }
}
