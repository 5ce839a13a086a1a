// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertSame;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;

/** The host's own sink: told what the library has to say, allowed to throw and to call back. */
class LogTest {
    private record Message(LogSink.Level level, String text) {}

    private final BlockingQueue<Message> messages = new LinkedBlockingQueue<>();

    @AfterEach
    void silence() {
        Polyad.setLog(null);
        Thread.setDefaultUncaughtExceptionHandler(null);
    }

    /** Makes the library warn: a row that cannot be used. */
    private static void warn() {
        ByteBuffer rows = ByteBuffer.wrap(("{\"task\": \"t\", \"instruction\": \"i\", \"input\": \"a\", \"output\": \"b\", \"split\": \"train\"}\n"
                        + "{\"h\u00e4\u00df\": 1}\n")
                .getBytes(StandardCharsets.UTF_8));
        Dataset.builder().skipBadRows().open(rows).close();
    }

    private Message next() throws InterruptedException {
        Message message = messages.poll(60, TimeUnit.SECONDS);
        assertTrue(message != null, "no message came");
        return message;
    }

    @Test
    void messagesArriveUntilSilenced() throws Exception {
        Polyad.setLog((level, text) -> messages.add(new Message(level, text)));
        warn();
        Message message = next();
        assertEquals(LogSink.Level.WARNING, message.level());
        assertTrue(message.text().contains("skipped 1 bad row"), message::text);
        BlockingQueue<Message> others = new LinkedBlockingQueue<>();
        for (int i = 0; i < 20; ++i) { // off and on again, sinks changed while messages come
            Polyad.setLog(null);
            warn();
            Polyad.setLog((level, text) -> others.add(new Message(level, text)));
            warn();
            assertTrue(others.poll(60, TimeUnit.SECONDS) != null, "no message came");
        }
        assertTrue(messages.isEmpty(), messages::toString);
    }

    @Test
    void aSinkThatThrowsHarmsNobody() throws Exception {
        BlockingQueue<Throwable> uncaught = new LinkedBlockingQueue<>();
        Thread.setDefaultUncaughtExceptionHandler((thread, e) -> uncaught.add(e));
        RuntimeException own = new RuntimeException("the sink's own");
        Polyad.setLog((level, text) -> {
            messages.add(new Message(level, text));
            throw own;
        });
        for (int i = 0; i < 3; ++i) {
            warn(); // the call that logs knows nothing of it
            next();
            assertSame(own, uncaught.poll(60, TimeUnit.SECONDS));
        }
        AssertionError error = new AssertionError("an Error too");
        Polyad.setLog((level, text) -> {
            throw error;
        });
        warn();
        assertSame(error, uncaught.poll(60, TimeUnit.SECONDS));
    }

    @Test
    void aSinkMayCallTheLibrary() throws Exception {
        Polyad.setLog((level, text) -> {
            try (Dataset tasks = Fixture.tasks()) {
                messages.add(new Message(level, String.join(",", tasks.tasks())));
                Polyad.setLog(null);
            }
        });
        warn();
        assertEquals("down,up", next().text());
    }

    @Test
    void aSlowSinkLosesMessagesNotMemory() throws Exception {
        Object gate = new Object();
        BlockingQueue<String> entered = new LinkedBlockingQueue<>();
        Polyad.setLog((level, text) -> {
            entered.add(text);
            synchronized (gate) {
                messages.add(new Message(level, text));
            }
        });
        synchronized (gate) {
            warn();
            entered.take();
            for (int i = 0; i < 3000; ++i) {
                warn(); // returns although the sink hangs
            }
        }
        next();
        warn();
        next();
        assertTrue(messages.size() <= 3001);
    }
}
