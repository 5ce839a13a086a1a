// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.time.Duration;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Flow;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

@Timeout(120)
class EngineTest {
    private Backbone model;
    private Dataset tasks;
    private Skillset skills;
    private Engine engine;

    @BeforeEach
    void open() {
        model = Fixture.model();
        tasks = Fixture.tasks();
        skills = Skillset.create(model, tasks, Fixture.method());
        engine = Engine.over(model).publish("words", skills);
    }

    @AfterEach
    void close() {
        engine.close();
        skills.close();
        tasks.close();
        model.close();
    }

    private static Request request(int tokens) {
        return Request.to("words").task("up").prompt("c").maxTokens(tokens).ignoreEos(true);
    }

    private static Request endless() {
        return request(100);
    }

    @Test
    void everyWayOfReadingSeesTheSame() {
        Answer answer = engine.submit(request(24));
        StringBuilder pieces = new StringBuilder();
        for (String piece : answer) {
            pieces.append(piece);
        }
        String text = answer.join();
        assertEquals(text, pieces.toString());
        assertEquals(text, answer.stream().collect(Collectors.joining()));
        assertEquals(text, answer.text().join());
        Answer.Result result = answer.result().join();
        assertEquals(text, result.text());
        assertEquals(24, result.tokens().length);
        assertEquals("max_tokens", result.finishReason());
        assertEquals(Answer.State.FINISHED, answer.state());
        assertEquals(text, engine.submit(request(24)).join());
        assertFalse(text.isEmpty());
    }

    /** Asks for pieces one at a time, or all at once. */
    private static final class Reader implements Flow.Subscriber<String> {
        final StringBuilder text = new StringBuilder();
        final CompletableFuture<String> end = new CompletableFuture<>();
        final long batch;
        Flow.Subscription subscription;
        int inside;

        Reader(long batch) {
            this.batch = batch;
        }

        @Override
        public void onSubscribe(Flow.Subscription s) {
            subscription = s;
            s.request(batch);
        }

        @Override
        public void onNext(String piece) {
            assertEquals(1, ++inside, "signals come one after another");
            text.append(piece);
            if (batch == 1) {
                subscription.request(1);
            }
            --inside;
        }

        @Override
        public void onError(Throwable e) {
            end.completeExceptionally(e);
        }

        @Override
        public void onComplete() {
            end.complete(text.toString());
        }
    }

    @Test
    void publishersKeepToTheDemand() {
        Answer answer = engine.submit(request(40));
        Reader slow = new Reader(1);
        Reader eager = new Reader(Long.MAX_VALUE);
        Reader late = new Reader(1);
        Reader bad = new Reader(0);
        Reader stuck = new Reader(2);
        answer.publisher().subscribe(slow);
        answer.publisher().subscribe(eager);
        answer.publisher().subscribe(bad);
        answer.publisher().subscribe(stuck);
        String text = answer.join();
        answer.publisher().subscribe(late);
        assertEquals(text, slow.end.join());
        assertEquals(text, eager.end.join());
        assertEquals(text, late.end.join());
        assertInstanceOf(IllegalArgumentException.class, assertThrows(CompletionException.class, bad.end::join).getCause());
        assertFalse(stuck.end.isDone());
        assertEquals(text.substring(0, stuck.text.length()), stuck.text.toString());
        stuck.subscription.request(Long.MAX_VALUE);
        assertEquals(text, stuck.end.join());
    }

    @Test
    void cancelledByAnswerFutureAndClose() {
        try (Engine manual = Engine.builder(model).manual().build().publish("words", skills)) {
            Answer byAnswer = manual.submit(endless());
            Answer byFuture = manual.submit(endless());
            Answer byClose = manual.submit(endless());
            Answer going = manual.submit(request(3));
            manual.step();
            byAnswer.cancel();
            assertTrue(byFuture.text().cancel(true));
            byClose.close();
            byClose.close();
            while (manual.step() > 0) {}
            Fixture.refused(ErrorCode.CANCELLED, "", byAnswer::join);
            Fixture.refused(ErrorCode.CANCELLED, "", () -> byAnswer.forEach(piece -> {}));
            assertEquals(Answer.State.CANCELLED, byAnswer.state());
            assertThrows(CompletionException.class, () -> byFuture.result().join());
            Fixture.refused(ErrorCode.CANCELLED, "", byClose::join);
            assertEquals(3, going.result().join().tokens().length);
        }
    }

    @Test
    void cancelledFromAnotherThreadWhileTheEngineSteps() throws Exception {
        List<Answer> answers = new ArrayList<>();
        for (int i = 0; i < 300; ++i) {
            answers.add(engine.submit(endless()));
        }
        Thread canceller = new Thread(() -> answers.forEach(Answer::cancel));
        canceller.start();
        canceller.join();
        Fixture.refused(ErrorCode.CANCELLED, "", answers.get(299)::join); // its turn had not come
        for (Answer answer : answers) {
            try {
                assertEquals(100, answer.result().join().tokens().length);
            } catch (CompletionException e) {
                assertEquals(ErrorCode.CANCELLED, ((PolyadException) e.getCause()).code());
            }
        }
        assertEquals(3, engine.submit(request(3)).result().join().tokens().length);
    }

    @Test
    void closingTheEngineEndsItsAnswers() {
        List<Answer> answers = new ArrayList<>();
        for (int i = 0; i < 1000; ++i) {
            answers.add(engine.submit(endless()));
        }
        engine.close();
        Fixture.refused(ErrorCode.CANCELLED, "", answers.get(999)::join);
        assertTrue(answers.stream().allMatch(answer -> answer.result().isDone() || answer.result().handle((r, e) -> true).join()));
        assertThrows(IllegalStateException.class, () -> engine.submit(endless()));
    }

    @Test
    void aTimeoutEndsAnAnswerWithWhatItHas() throws Exception {
        try (Engine manual = Engine.builder(model).manual().build().publish("words", skills)) {
            Answer late = manual.submit(endless().timeout(Duration.ofMillis(1)));
            Answer inTime = manual.submit(request(3).timeout(Duration.ofDays(1)));
            Thread.sleep(20);
            while (manual.step() > 0) {}
            Answer.Result result = late.result().join();
            assertEquals(Answer.State.EXPIRED, late.state());
            assertEquals("expired", result.finishReason());
            assertTrue(result.tokens().length < 100);
            assertEquals(result.text(), late.stream().collect(Collectors.joining()));
            assertEquals(3, inTime.result().join().tokens().length);
        }
        assertThrows(IllegalArgumentException.class, () -> request(3).timeout(Duration.ZERO));
    }

    @Test
    void higherPrioritiesComeFirst() {
        List<String> order = new ArrayList<>();
        try (Engine manual = Engine.builder(model).maxBatch(1).manual().build().publish("words", skills)) {
            Map<String, Answer> answers = new LinkedHashMap<>();
            answers.put("low", manual.submit(request(3).priority(-1)));
            answers.put("normal", manual.submit(request(3)));
            answers.put("high", manual.submit(request(3).priority(7)));
            int busy;
            do {
                busy = manual.step();
                answers.forEach((name, answer) -> {
                    if (answer.state() == Answer.State.FINISHED && !order.contains(name)) {
                        order.add(name);
                    }
                });
            } while (busy > 0);
        }
        assertEquals(List.of("high", "normal", "low"), order);
    }

    @Test
    void optionsOfTheEngine() {
        String expected = engine.submit(request(8)).join();
        try (Engine other = Engine.builder(model).threads(1).prefixCache(false).mergeHotTask(true).memoryBudget(1L << 28).build()
                .publish("words", skills)) {
            assertEquals(expected, other.submit(request(8)).join());
            assertEquals(1L << 28, other.stats().get("memory").get("budget").asLong());
            assertEquals(0, other.submit(request(8)).result().join().cachedTokens());
        }
        try (Engine tight = Engine.builder(model).memoryBudget(1 << 19).build()) {
            Fixture.refused(ErrorCode.OUT_OF_MEMORY, "", () -> {
                for (int i = 0; i < 1000; ++i) {
                    tight.publish("words" + i, skills);
                }
            });
        }
        Fixture.refused(ErrorCode.INVALID_ARGUMENT, "memory_budget", () -> Engine.builder(model).memoryBudget(-1).build());
        Fixture.refused(ErrorCode.INVALID_ARGUMENT, "threads", () -> Engine.builder(model).threads(-1).build());
    }

    @Test
    void callbacksMayCallTheEngine() throws Exception {
        CompletableFuture<String> nested = engine.submit(request(4)).text().thenApply(first -> first
                + engine.submit(request(4)).join());
        assertEquals(engine.submit(request(4)).join().repeat(2), nested.get(60, TimeUnit.SECONDS));
    }

    @Test
    void aSubscriberOnTheEnginesThreadMayCloseTheEngine() throws Exception {
        CompletableFuture<Throwable> end = new CompletableFuture<>();
        engine.submit(endless()).publisher(Runnable::run).subscribe(new Flow.Subscriber<>() {
            @Override
            public void onSubscribe(Flow.Subscription s) {
                s.request(Long.MAX_VALUE);
            }

            @Override
            public void onNext(String piece) {
                engine.close();
            }

            @Override
            public void onError(Throwable e) {
                end.complete(e);
            }

            @Override
            public void onComplete() {
                end.complete(null);
            }
        });
        PolyadException e = assertInstanceOf(PolyadException.class, end.get(60, TimeUnit.SECONDS));
        assertEquals(ErrorCode.CANCELLED, e.code());
        engine.close();
    }

    @Test
    void manyThreadsWhileAVersionIsSwapped() throws Exception {
        Fixture.training(skills, tasks).run();
        String before = engine.submit(request(12)).join();
        engine.publish("words", skills);
        String after = engine.submit(request(12)).join();
        CountDownLatch done = new CountDownLatch(4);
        List<String> odd = java.util.Collections.synchronizedList(new ArrayList<>());
        for (int i = 0; i < 4; ++i) {
            new Thread(() -> {
                        try {
                            for (int n = 0; n < 50; ++n) {
                                String text = engine.submit(request(12)).join();
                                if (!text.equals(before) && !text.equals(after)) {
                                    odd.add(text);
                                }
                            }
                        } catch (Throwable e) {
                            odd.add(e.toString());
                        } finally {
                            done.countDown();
                        }
                    })
                    .start();
        }
        while (!done.await(10, TimeUnit.MILLISECONDS)) {
            engine.publish("words", skills);
            engine.publish("other", skills);
            engine.stats();
            engine.retire("other");
        }
        assertTrue(odd.isEmpty(), odd::toString);
    }

    @Test
    @SuppressWarnings("try") // closed by hand, while an answer is open
    void steppedByHand() {
        try (Engine manual = Engine.builder(model).maxBatch(2).maxQueue(3).maxContext(128).manual().build()) {
            manual.publish("words", skills);
            List<Answer> answers = new ArrayList<>();
            for (int i = 0; i < 3; ++i) {
                answers.add(manual.submit(request(5)));
            }
            Fixture.refused(ErrorCode.QUEUE_FULL, "", () -> manual.submit(request(5)));
            int steps = 0;
            while (manual.step() > 0) {
                ++steps;
            }
            assertTrue(steps > 5);
            answers.forEach(answer -> assertEquals(5, answer.result().join().tokens().length));
            Answer left = manual.submit(endless());
            manual.close();
            Fixture.refused(ErrorCode.CANCELLED, "", left::join);
        }
        assertThrows(IllegalStateException.class, engine::step);
    }

    @Test
    void weightsAndTokensOfTheHost() {
        float[] weights = skills.taskWeights("down");
        int[] tokens = model.tokenize("Say up. c ->");
        Answer.Result named = engine.submit(
                        Request.to("words").task("down").tokens(tokens).maxTokens(8).ignoreEos(true))
                .result()
                .join();
        Answer.Result buffered = engine.submit(Request.to("words")
                        .task("down")
                        .tokens(java.nio.IntBuffer.wrap(tokens))
                        .maxTokens(8)
                        .ignoreEos(true))
                .result()
                .join();
        assertArrayEquals(named.tokens(), buffered.tokens());
        Fixture.refused(ErrorCode.INVALID_ARGUMENT, "weight", () -> engine.submit(request(4).weights(1)));
        assertTrue(weights.length > 1);
        String stop = named.text().substring(named.text().length() - 1);
        String stopped = engine.submit(
                        Request.to("words").task("down").tokens(tokens).maxTokens(8).ignoreEos(true).stop("nosuch", stop))
                .join();
        assertFalse(stopped.contains(stop));
    }
}
