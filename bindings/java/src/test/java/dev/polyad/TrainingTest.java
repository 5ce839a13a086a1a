// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertSame;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.file.Path;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class TrainingTest {
    @TempDir
    Path folder;

    private Backbone model;
    private Dataset tasks;
    private Skillset skills;

    @BeforeEach
    void open() {
        model = Fixture.model();
        tasks = Fixture.tasks();
        skills = Skillset.create(model, tasks, Fixture.method());
    }

    @AfterEach
    void close() {
        skills.close();
        tasks.close();
        model.close();
    }

    private float[] uninterrupted() {
        try (Skillset other = Skillset.create(model, tasks, Fixture.method())) {
            Fixture.training(other, tasks).run();
            return other.parameters();
        }
    }

    @Test
    void aListenerThatThrowsLosesNothing() {
        Path checkpoint = folder.resolve("run.checkpoint");
        RuntimeException own = new RuntimeException("the host's own");
        RuntimeException seen = assertThrows(RuntimeException.class, () -> Fixture.training(skills, tasks)
                .checkpoint(checkpoint, 3)
                .onProgress(p -> {
                    if (p.step() == 4) {
                        throw own;
                    }
                })
                .run());
        assertSame(own, seen);
        try (Skillset again = Skillset.create(model, tasks, Fixture.method());
                Trainer trainer = Fixture.training(again, tasks).checkpoint(checkpoint, 3).build()) {
            trainer.resume(checkpoint);
            assertEquals(6, trainer.run().step());
            assertArrayEquals(uninterrupted(), again.parameters());
        }
    }

    @Test
    void aFailingCallLosesNothing() {
        Path checkpoint = folder.resolve("by_hand.checkpoint");
        try (Trainer trainer = Fixture.training(skills, tasks).build()) {
            trainer.step();
            trainer.step();
            trainer.saveCheckpoint(checkpoint);
            Fixture.refused(ErrorCode.IO_ERROR, "nosuch", () -> trainer.saveCheckpoint(folder.resolve("nosuch/x.checkpoint")));
            Fixture.refused(ErrorCode.NOT_FOUND, "nosuch", () -> trainer.resume(folder.resolve("nosuch.checkpoint")));
            trainer.step();
            trainer.resume(checkpoint);
            assertEquals(6, trainer.run().step());
            assertArrayEquals(uninterrupted(), skills.parameters());
            Fixture.refused(ErrorCode.WRONG_STATE, "", trainer::step);
            assertEquals(6, trainer.report().get("history").get("step").size());
        }
    }

    @Test
    void cancelledFromAnotherThread() throws Exception {
        CountDownLatch begun = new CountDownLatch(1);
        Trainer.Builder builder =
                Fixture.training(skills, tasks).maxSteps(1_000_000).validationExamples(0).onProgress(p -> begun.countDown());
        try (Trainer trainer = builder.build()) {
            CompletableFuture<Progress> future = trainer.runAsync();
            begun.await();
            trainer.cancel();
            Throwable why = assertThrows(java.util.concurrent.ExecutionException.class, future::get).getCause();
            assertEquals(ErrorCode.CANCELLED, ((PolyadException) why).code());
            long steps = trainer.step().step(); // goes on
            CompletableFuture<Progress> second = trainer.runAsync();
            assertTrue(second.cancel(true));
            assertThrows(CancellationException.class, second::join);
            while (true) { // the cancelled run leaves the trainer
                try {
                    assertTrue(trainer.step().step() > steps);
                    break;
                } catch (PolyadException e) {
                    assertTrue(e.code() == ErrorCode.WRONG_STATE || e.code() == ErrorCode.CANCELLED, e::toString);
                }
            }
        }
    }

    @Test
    void anInterruptEndsARunBetweenSteps() {
        try (Trainer trainer = Fixture.training(skills, tasks)
                .onProgress(p -> Thread.currentThread().interrupt())
                .build()) {
            Fixture.refused(ErrorCode.CANCELLED, "interrupted", trainer::run);
            assertTrue(Thread.interrupted(), "the flag stays set");
            assertEquals(2, trainer.step().step());
        }
    }

    @Test
    void parametersThroughArraysAndBuffers() {
        int count = Math.toIntExact(skills.parameterCount());
        float[] before = skills.parameters();
        FloatBuffer direct = ByteBuffer.allocateDirect(4 * count).order(ByteOrder.nativeOrder()).asFloatBuffer();
        FloatBuffer swapped = ByteBuffer.allocateDirect(4 * count)
                .order(ByteOrder.nativeOrder() == ByteOrder.BIG_ENDIAN ? ByteOrder.LITTLE_ENDIAN : ByteOrder.BIG_ENDIAN)
                .asFloatBuffer();
        FloatBuffer heap = FloatBuffer.allocate(count + 7).position(3).limit(count + 3);
        for (FloatBuffer buffer : new FloatBuffer[] {direct, swapped, heap}) {
            int position = buffer.position();
            skills.parameters(buffer);
            assertEquals(position, buffer.position());
            float[] read = new float[count];
            buffer.duplicate().get(read);
            assertArrayEquals(before, read);
            Fixture.training(skills, tasks).run();
            assertFalse(java.util.Arrays.equals(before, skills.parameters()));
            skills.setParameters(buffer);
            assertArrayEquals(before, skills.parameters());
        }
        skills.setParameters(before);
        assertThrows(IllegalArgumentException.class, () -> skills.parameters(FloatBuffer.allocate(count).asReadOnlyBuffer()));
    }

    @Test
    void bundlesThroughFilesAndMemory() {
        Path bundle = folder.resolve("Fähigkeiten \uD83D\uDE80.polyad");
        Fixture.training(skills, tasks).run();
        skills.setMetadata("licence", java.util.Map.of("name", "Apache-2.0", "note", "\uD83D\uDE80\u0000"));
        skills.save(bundle);
        byte[] bytes = skills.toBytes();
        ByteBuffer direct = ByteBuffer.allocateDirect(bytes.length).put(bytes).flip();
        try (Skillset file = Skillset.load(model, bundle);
                Skillset heap = Skillset.load(model, ByteBuffer.wrap(bytes));
                Skillset lent = Skillset.load(model, direct)) {
            for (Skillset loaded : new Skillset[] {file, heap, lent}) {
                assertArrayEquals(skills.parameters(), loaded.parameters());
            }
            assertEquals("\uD83D\uDE80\u0000", file.info().get("metadata").get("licence").get("note").asString());
        }
        assertEquals("cpoly", Skillset.inspect(bundle).get("config").get("method").asString());
        assertEquals(java.util.List.of("down", "up"), skills.tasks());
        assertTrue(skills.taskWeights("up").length > 2);
        assertTrue(skills.routing(null, null).size() > 0);
        direct.put(0, (byte) 0);
        Fixture.refused(ErrorCode.BAD_FORMAT, "", () -> Skillset.load(model, direct));
    }

    @Test
    void evaluates() {
        try (Evaluator evaluator =
                Evaluator.of(model, tasks).skills(skills).split(Split.TEST).maxTokens(4).build()) {
            Fixture.refused(ErrorCode.WRONG_STATE, "", evaluator::result);
            assertEquals(2, evaluator.run().get("overall").get("count").asInt());
            assertTrue(evaluator.table().contains("up"));
        }
        assertTrue(Evaluator.of(model, tasks).split(Split.TEST).maxTokens(2).runAsync().join().has("overall"));
    }
}
