// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

import java.util.concurrent.locks.ReentrantLock;

/** Takes messages out of the native queue on a thread of its own and hands them to the host's sink. */
final class Log {
    private static final ReentrantLock LOCK = new ReentrantLock();
    private static volatile LogSink sink;
    private static boolean running;

    private Log() {}

    static void set(LogSink next) {
        LOCK.lock();
        try {
            sink = next;
            Native.polyad_binding_log_enable(next == null ? 0 : 1);
            if (next != null && !running) {
                running = true;
                Calls.daemon(Log::drain, "polyad-log").start();
            }
        } finally {
            LOCK.unlock();
        }
    }

    private static void drain() {
        byte[][] message = new byte[1][];
        while (true) {
            int number = Native.polyad_binding_log_next(message);
            if (number < 0) {
                LOCK.lock();
                try {
                    if (sink == null) {
                        running = false;
                        return;
                    }
                } finally {
                    LOCK.unlock();
                }
                continue; // silenced and set again meanwhile
            }
            LogSink now = sink;
            if (now == null) {
                continue;
            }
            try {
                now.log(level(number), Utf8.text(message[0]));
            } catch (Throwable e) {
                Thread thread = Thread.currentThread();
                thread.getUncaughtExceptionHandler().uncaughtException(thread, e);
            }
        }
    }

    private static LogSink.Level level(int number) {
        return switch (number) {
            case polyad_log_level.POLYAD_LOG_DEBUG -> LogSink.Level.DEBUG;
            case polyad_log_level.POLYAD_LOG_INFO -> LogSink.Level.INFO;
            case polyad_log_level.POLYAD_LOG_WARNING -> LogSink.Level.WARNING;
            case polyad_log_level.POLYAD_LOG_ERROR -> LogSink.Level.ERROR;
            default -> LogSink.Level.ERROR; // a level of a newer library
        };
    }
}
