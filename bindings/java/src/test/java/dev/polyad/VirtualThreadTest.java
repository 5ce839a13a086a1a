// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.ArrayList;
import java.util.List;
import java.util.Queue;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.CountDownLatch;
import org.junit.jupiter.api.Assumptions;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/**
 * Virtual threads of Java 21 and newer: with one carrier for all of them, a call that kept it would stop every other. Written so that
 * Java 17 compiles it.
 */
@Timeout(120)
class VirtualThreadTest {
    interface Body {
        void run() throws Exception;
    }

    private final Queue<Throwable> odd = new ConcurrentLinkedQueue<>();

    @BeforeEach
    void needsVirtualThreads() {
        Assumptions.assumeTrue(Runtime.version().feature() >= 21, "virtual threads need Java 21, this is " + Runtime.version());
        assertEquals("1", System.getProperty("jdk.virtualThreadScheduler.maxPoolSize"), "the test is run with one carrier");
    }

    private Thread start(Body body) throws ReflectiveOperationException {
        Runnable guarded = () -> {
            try {
                assertTrue(Calls.onVirtualThread());
                body.run();
            } catch (Throwable e) {
                odd.add(e);
            }
        };
        return (Thread) Thread.class.getMethod("startVirtualThread", Runnable.class).invoke(null, guarded);
    }

    private void finish(List<Thread> threads) throws InterruptedException {
        for (Thread thread : threads) {
            thread.join();
        }
        assertTrue(odd.isEmpty(), odd::toString);
    }

    @Test
    void aLongCallLeavesTheCarrier() throws Exception {
        try (Backbone model = Fixture.model();
                Dataset tasks = Fixture.tasks();
                Skillset skills = Skillset.create(model, tasks, Fixture.method())) {
            CountDownLatch steps = new CountDownLatch(3);
            Trainer trainer = Fixture.training(skills, tasks)
                    .maxSteps(1_000_000)
                    .validationExamples(0)
                    .onProgress(p -> steps.countDown())
                    .build();
            List<Thread> threads = new ArrayList<>();
            threads.add(start(() -> Fixture.refused(ErrorCode.CANCELLED, "", trainer::run)));
            steps.await();
            threads.add(start(trainer::cancel)); // runs only where training has left the carrier
            finish(threads);
            trainer.close();
        }
    }

    @Test
    void manyAtOnce() throws Exception {
        try (Backbone model = Fixture.model();
                Dataset tasks = Fixture.tasks();
                Skillset skills = Skillset.create(model, tasks, Fixture.method());
                Engine engine = Engine.over(model).publish("words", skills)) {
            String expected = engine.submit(request()).join();
            float[] logits = model.logits(1, 2, 3);
            List<Thread> threads = new ArrayList<>();
            for (int i = 0; i < 200; ++i) {
                int kind = i % 4;
                threads.add(start(() -> {
                    Answer answer = engine.submit(request());
                    if (kind == 0) {
                        assertEquals(expected, answer.join());
                    } else if (kind == 1) {
                        StringBuilder text = new StringBuilder();
                        answer.forEach(text::append);
                        assertEquals(expected, text.toString());
                    } else if (kind == 2) {
                        assertEquals(expected, answer.text().get());
                    } else {
                        answer.close();
                        org.junit.jupiter.api.Assertions.assertArrayEquals(logits, model.logits(1, 2, 3));
                    }
                }));
            }
            finish(threads);
            Thread closing = start(engine::close);
            closing.join();
            finish(List.of());
        }
    }

    private static Request request() {
        return Request.to("words").task("up").prompt("c").maxTokens(8).ignoreEos(true);
    }
}
