// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Queue;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.CountDownLatch;
import java.util.function.Supplier;
import org.junit.jupiter.api.Assumptions;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.function.Executable;

/** Handles: closed twice, used after closing, closed parents first, forgotten, shared by threads, made a hundred thousand times. */
class LifetimeTest {
    private static void closed(Executable call) {
        IllegalStateException e = assertThrows(IllegalStateException.class, call);
        assertTrue(e.getMessage().contains("closed"), e::getMessage);
    }

    @Test
    void closedObjectsRefuseEveryCall() {
        Context context = Context.create(1);
        Backbone model = Fixture.model();
        Dataset tasks = Fixture.tasks();
        Skillset skills = Skillset.create(model, tasks, Fixture.method());
        Trainer trainer = Fixture.training(skills, tasks).build();
        Evaluator evaluator = Evaluator.of(model, tasks).skills(skills).build();
        Engine engine = Engine.over(model);
        engine.publish("words", skills);
        Answer answer = engine.submit(Request.to("words").task("up").prompt("c").maxTokens(2));
        answer.join();
        for (NativeObject object : List.of(context, model, tasks, skills, trainer, evaluator, engine, answer)) {
            object.close();
            object.close();
            assertTrue(object.isClosed());
        }
        closed(() -> Backbone.builder().context(context).open(Fixture.MODEL));
        closed(model::info);
        closed(() -> model.logits(1));
        closed(tasks::info);
        closed(skills::parameters);
        closed(() -> skills.save(Path.of("x.polyad")));
        closed(trainer::step);
        closed(trainer::cancel);
        closed(evaluator::step);
        closed(engine::stats);
        closed(() -> engine.submit(Request.to("words").prompt("x")));
        closed(() -> Skillset.create(model, tasks, Fixture.method()));
        answer.cancel(); // ended: nothing to do
        assertEquals(Answer.State.FINISHED, answer.state());
    }

    @Test
    void parentsMayGoFirst() {
        Backbone model = Fixture.model();
        Dataset tasks = Fixture.tasks();
        Skillset skills = Skillset.create(model, tasks, Fixture.method());
        Trainer trainer = Fixture.training(skills, tasks).build();
        Engine engine = Engine.over(model).publish("words", skills);
        Answer answer = engine.submit(Request.to("words").task("up").prompt("c").maxTokens(4).ignoreEos(true));
        model.close();
        tasks.close();
        skills.close();
        assertEquals(4, answer.result().join().tokens().length);
        assertEquals(6, trainer.run().step());
        engine.close();
        trainer.close();
    }

    @Test
    void closingWhileOthersCall() throws Exception {
        try (Dataset tasks = Fixture.tasks()) {
            for (int round = 0; round < 20; ++round) {
                Backbone model = Fixture.model();
                Queue<Throwable> odd = new ConcurrentLinkedQueue<>();
                CountDownLatch started = new CountDownLatch(4);
                List<Thread> threads = new ArrayList<>();
                for (int i = 0; i < 4; ++i) {
                    Thread thread = new Thread(() -> {
                        started.countDown();
                        try {
                            while (true) {
                                model.tokenize("Say up.");
                                Skillset.create(model, tasks, Fixture.method()).close();
                                model.logits(1, 2, 3);
                            }
                        } catch (IllegalStateException e) {
                            // what a closed object says
                        } catch (Throwable e) {
                            odd.add(e);
                        }
                    });
                    thread.start();
                    threads.add(thread);
                }
                started.await();
                Thread.sleep(5);
                model.close();
                for (Thread thread : threads) {
                    thread.join();
                }
                assertTrue(odd.isEmpty(), odd::toString);
            }
        }
    }

    @Test
    void oneCallerAtATime() throws Exception {
        try (Backbone model = Fixture.model();
                Dataset tasks = Fixture.tasks();
                Skillset skills = Skillset.create(model, tasks, Fixture.method());
                Trainer trainer = Fixture.training(skills, tasks).maxSteps(200).build()) {
            Queue<Throwable> odd = new ConcurrentLinkedQueue<>();
            List<Thread> threads = new ArrayList<>();
            for (int i = 0; i < 4; ++i) {
                Thread thread = new Thread(() -> {
                    for (int n = 0; n < 10; ++n) {
                        try {
                            trainer.step();
                        } catch (PolyadException e) {
                            if (e.code() != ErrorCode.WRONG_STATE) {
                                odd.add(e);
                            }
                        } catch (Throwable e) {
                            odd.add(e);
                        }
                    }
                });
                thread.start();
                threads.add(thread);
            }
            for (Thread thread : threads) {
                thread.join();
            }
            assertTrue(odd.isEmpty(), odd::toString);
            assertTrue(trainer.step().step() > 10);
        }
    }

    @Test
    void forgottenObjectsAreReleased() throws Exception {
        List<NativeObject.Ticket> tickets = new ArrayList<>();
        for (int i = 0; i < 50; ++i) {
            Backbone model = Fixture.model();
            Dataset tasks = Fixture.tasks();
            Skillset skills = Skillset.create(model, tasks, Fixture.method());
            Trainer trainer = Fixture.training(skills, tasks).build();
            Engine engine = Engine.over(model).publish("words", skills);
            Answer answer = engine.submit(Request.to("words").task("up").prompt("c").maxTokens(2));
            trainer.step();
            if (i % 10 == 0) {
                answer.join();
            }
            for (NativeObject object : List.of(model, tasks, skills, trainer, engine, answer)) {
                tickets.add(object.ticket());
            }
        }
        long deadline = System.nanoTime() + 60_000_000_000L;
        while (tickets.stream().anyMatch(t -> t.get() != 0)) {
            assertTrue(System.nanoTime() < deadline, () -> tickets.stream().filter(t -> t.get() != 0).count() + " objects left");
            System.gc();
            Thread.sleep(20);
        }
    }

    /** A program that ends in the middle of everything, however it ends, ends as it said. */
    @Test
    void aProgramMayEndInTheMiddle() throws Exception {
        Fixture.modelFile();
        String build = System.getProperty("polyad.build");
        for (int round = 0; round < 3; ++round) {
            for (String how : List.of("return", "exit", "throw")) {
                Process process = new ProcessBuilder(
                                Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                                "-Dpolyad.library=" + build,
                                "-Dpolyad.shared=" + System.getProperty("polyad.shared"),
                                "-cp",
                                System.getProperty("java.class.path"),
                                "dev.polyad.ExitProbe",
                                how)
                        .redirectErrorStream(true)
                        .start();
                String output = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
                assertTrue(output.startsWith("working"), output);
                assertEquals(how.equals("exit") ? 3 : how.equals("throw") ? 1 : 0, process.waitFor(), how + ": " + output);
            }
        }
    }

    @Test
    void garbageCollectionDuringCalls() throws Exception {
        Thread collector = new Thread(() -> {
            try {
                while (true) {
                    System.gc();
                    Thread.sleep(1); // else it takes the cores from what it is to disturb
                }
            } catch (InterruptedException e) {
                // the test is over
            }
        });
        collector.start();
        try {
            for (int i = 0; i < 12; ++i) {
                // Nothing holds the objects but the calls themselves.
                assertEquals(
                        "Say up.", Fixture.model().detokenize(Fixture.model().tokenize("Say up.")));
                assertEquals(6, Fixture.training(Skillset.create(Fixture.model(), Fixture.tasks(), Fixture.method()), Fixture.tasks())
                        .run()
                        .step());
                assertEquals(3, Engine.over(Fixture.model())
                        .submit(Request.toBackbone().tokens(1, 2, 3).maxTokens(3).ignoreEos(true))
                        .result()
                        .join()
                        .tokens()
                        .length);
            }
        } finally {
            collector.interrupt();
            collector.join();
        }
    }

    private static long residentBytes() {
        try {
            return 4096 * Long.parseLong(Files.readString(Path.of("/proc/self/statm")).split(" ")[1]);
        } catch (java.io.IOException e) {
            throw new java.io.UncheckedIOException(e);
        }
    }

    /**
     * Memory after the second half is that of the first half, within what an allocator and a JIT move. The heap of the test run is
     * resident from the start (pom.xml), so what grows is native.
     */
    private static void doesNotGrow(int times, Supplier<NativeObject> make) {
        for (int i = 0; i < times / 2; ++i) {
            make.get().close();
        }
        System.gc();
        long before = residentBytes();
        for (int i = 0; i < times / 2; ++i) {
            make.get().close();
        }
        System.gc();
        long grown = residentBytes() - before;
        assertTrue(grown < 4 << 20, () -> grown + " bytes more after " + times / 2 + " times");
    }

    @Test
    void aHundredThousandTimesWithoutGrowth() {
        Assumptions.assumeTrue(Files.exists(Path.of("/proc/self/statm")), "this system does not tell a process's memory in /proc");
        ByteBuffer row = ByteBuffer.wrap(
                "{\"task\": \"t\", \"instruction\": \"i\", \"input\": \"a\", \"output\": \"b\", \"split\": \"train\"}\n"
                        .getBytes(StandardCharsets.UTF_8));
        doesNotGrow(60_000, () -> Dataset.builder().open(row));
        doesNotGrow(20_000, () -> Context.create(1));
        try (Backbone model = Fixture.model();
                Engine engine = Engine.builder(model).manual().build()) {
            doesNotGrow(18_000, () -> {
                Answer answer = engine.submit(Request.toBackbone().tokens(1, 2, 3).stop("one", "two").prompt(null).weights().maxTokens(1));
                answer.cancel();
                engine.step();
                return answer;
            });
            doesNotGrow(2_000, () -> Skillset.create(model, sharedTasks(), Fixture.method()));
        }
    }

    private static Dataset tasks;

    private static Dataset sharedTasks() {
        if (tasks == null) {
            tasks = Fixture.tasks();
        }
        return tasks;
    }
}
