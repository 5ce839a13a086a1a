// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.ByteBuffer;
import java.nio.FloatBuffer;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/** Whatever a host passes in by mistake gives an exception of its language, never a crash. */
class BadInputTest {
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

    @Test
    void nullArguments() {
        assertThrows(NullPointerException.class, () -> Backbone.open((Path) null));
        assertThrows(NullPointerException.class, () -> Backbone.builder().open((ByteBuffer) null));
        assertThrows(NullPointerException.class, () -> model.tokenize(null));
        assertThrows(NullPointerException.class, () -> model.detokenize((int[]) null));
        assertThrows(NullPointerException.class, () -> model.logits((int[]) null));
        assertThrows(NullPointerException.class, () -> tasks.example(null, Split.TEST, 0));
        assertThrows(NullPointerException.class, () -> tasks.example("up", null, 0));
        assertThrows(NullPointerException.class, () -> Skillset.create(null, tasks, Fixture.method()));
        assertThrows(NullPointerException.class, () -> Skillset.create(model, null, Fixture.method()));
        assertThrows(NullPointerException.class, () -> Skillset.create(model, tasks, null));
        assertThrows(NullPointerException.class, () -> skills.taskWeights(null));
        assertThrows(NullPointerException.class, () -> skills.setParameters((float[]) null));
        assertThrows(NullPointerException.class, () -> skills.parameters(null));
        assertThrows(NullPointerException.class, () -> Trainer.of(null, tasks));
        assertThrows(NullPointerException.class, () -> Engine.over(null));
        assertThrows(NullPointerException.class, () -> engine.publish(null, skills));
        assertThrows(NullPointerException.class, () -> engine.publish("x", null));
        assertThrows(NullPointerException.class, () -> engine.submit(null));
        assertThrows(NullPointerException.class, () -> Request.to(null));
        assertThrows(NullPointerException.class, () -> Request.to("words").stop((String) null));
        assertThrows(NullPointerException.class, () -> MethodConfig.named(null));
        assertThrows(NullPointerException.class, () -> Polyad.hasFeature(null));
    }

    @Test
    void stringsThatCannotPass() {
        assertThrows(IllegalArgumentException.class, () -> engine.retire("wor\0ds"));
        assertThrows(IllegalArgumentException.class, () -> engine.submit(Request.to("words").task("up\0").prompt("c")));
        assertThrows(IllegalArgumentException.class, () -> engine.submit(Request.to("words").task("up").prompt("c").stop("a\0")));
        assertThrows(IllegalArgumentException.class, () -> model.tokenize("half \ud83d of a pair"));
        assertThrows(IllegalArgumentException.class, () -> skills.taskWeights("\udc00"));
        assertThrows(IllegalArgumentException.class, () -> Path.of("a\0b"));
        // A prompt has a length and may hold NUL.
        assertEquals("a\0b", model.detokenize(model.tokenize("a\0b")));
        assertEquals(2, engine.submit(Request.to("words").task("up").prompt("a\0b").maxTokens(2).ignoreEos(true))
                .result()
                .join()
                .tokens()
                .length);
        // Options carry NUL as an escape; the library says what it thinks of the value.
        Fixture.refused(ErrorCode.INVALID_CONFIG, "precision", () -> Backbone.builder().precision("fp\0").open(Fixture.MODEL));
    }

    @Test
    void emptyAndHugeStrings() {
        assertEquals(0, model.tokenize("").length);
        assertEquals("", model.detokenize());
        assertThrows(PolyadException.class, () -> Backbone.open(Path.of("")));
        Fixture.refused(ErrorCode.NOT_FOUND, "", () -> engine.retire(""));
        Fixture.refused(ErrorCode.UNKNOWN_TASK, "", () -> skills.taskWeights(""));
        assertEquals(1, engine.submit(Request.to("words").task("up").prompt("").maxTokens(1).ignoreEos(true))
                .result()
                .join()
                .tokens()
                .length);
        String huge = "x".repeat(1 << 24);
        Fixture.refused(ErrorCode.NOT_FOUND, "", () -> engine.retire(huge));
        Fixture.refused(ErrorCode.UNKNOWN_TASK, "", () -> skills.taskWeights(huge));
        Fixture.refused(ErrorCode.INVALID_CONFIG, "", () -> Backbone.builder().precision(huge).open(Fixture.MODEL));
        assertThrows(PolyadException.class, () -> Backbone.open(Path.of(huge)));
        assertTrue(model.tokenize("hot ".repeat(20_000)).length >= 20_000);
        assertEquals("h\u00e4\u00df \uD83D\uDE80", model.detokenize(model.tokenize("h\u00e4\u00df \uD83D\uDE80")));
    }

    @Test
    void arraysOfTheWrongLength() {
        int count = Math.toIntExact(skills.parameterCount());
        for (int wrong : new int[] {0, 1, count - 1, count + 1}) {
            Fixture.refused(ErrorCode.INVALID_ARGUMENT, Integer.toString(count), () -> skills.setParameters(new float[wrong]));
            Fixture.refused(ErrorCode.INVALID_ARGUMENT, Integer.toString(count), () -> skills.parameters(FloatBuffer.allocate(wrong)));
        }
        Fixture.refused(ErrorCode.INVALID_ARGUMENT, "", () ->
                model.logits(null, null, java.nio.IntBuffer.wrap(new int[] {1}), FloatBuffer.allocate(3)));
        Fixture.refused(ErrorCode.INVALID_ARGUMENT, "", () -> model.logits());
        Fixture.refused(ErrorCode.INVALID_ARGUMENT, "", () -> model.logits(-1));
        Fixture.refused(ErrorCode.INVALID_ARGUMENT, "", () -> model.logits(1 << 30));
        Fixture.refused(ErrorCode.INVALID_ARGUMENT, "ids[1]", () -> model.detokenize(1, 1 << 30));
        Fixture.refused(ErrorCode.INVALID_ARGUMENT, "", () -> engine.submit(Request.toBackbone().tokens()));
    }

    @Test
    void optionsOutOfRange() {
        Fixture.refused(ErrorCode.INVALID_CONFIG, "cpoly", () -> Skillset.create(model, tasks, MethodConfig.named("nosuch").build()));
        Fixture.refused(ErrorCode.INVALID_CONFIG, "rank", () -> Skillset.create(model, tasks, Lora.builder().rank(0).build()));
        Fixture.refused(ErrorCode.INVALID_CONFIG, "rnk", () -> Skillset.create(model, tasks, Lora.builder().set("rnk", 8).build()));
        Fixture.refused(ErrorCode.INVALID_CONFIG, "learning_rate", () -> Trainer.of(skills, tasks).learningRate(-1).build());
        Fixture.refused(ErrorCode.INVALID_ARGUMENT, "threads", () -> Context.create(-1));
        Fixture.refused(ErrorCode.INVALID_ARGUMENT, "max_tokens", () -> engine.submit(Request.to("words").task("up").prompt("c").maxTokens(-1)));
        Fixture.refused(ErrorCode.INVALID_ARGUMENT, "temperature", () ->
                engine.submit(Request.to("words").task("up").prompt("c").temperature(-1)));
        Fixture.refused(ErrorCode.UNKNOWN_TASK, "nosuch", () -> engine.submit(Request.to("words").task("nosuch").prompt("c")));
        Fixture.refused(ErrorCode.NOT_FOUND, "nosuch", () -> engine.submit(Request.to("nosuch").prompt("c")));
        Fixture.refused(ErrorCode.INVALID_ARGUMENT, "prompt", () -> engine.submit(Request.to("words").task("up")));
        Fixture.refused(ErrorCode.BAD_DATA, "", () -> Dataset.of(List.of()));
        Fixture.refused(ErrorCode.INVALID_ARGUMENT, "", () -> tasks.example("up", Split.TEST, 99));
        assertThrows(IllegalArgumentException.class, () -> Lora.builder().alpha(Double.NaN));
        assertThrows(IllegalArgumentException.class, () -> Lora.builder().set("alpha", new Object()));
    }

    @Test
    void jsonReadsAndWrites() {
        Json json = Json.parse(" {\"a\": [1, -2.5e3, true, null, \"\\u00e4\\n\\\"\"], \"b\": {}} ");
        assertEquals(json, Json.parse(json.toString()));
        assertEquals("\u00e4\n\"", json.get("a").get(4).asString());
        assertEquals(-2500, json.get("a").get(1).asDouble());
        assertTrue(Double.isNaN(json.get("a").get(3).asDouble()));
        assertThrows(IllegalStateException.class, () -> json.get("c"));
        assertThrows(IllegalStateException.class, () -> json.get("a").get(9));
        assertThrows(IllegalStateException.class, () -> json.get("a").asLong());
        for (String bad : List.of("", "{", "[1,", "\"", "{\"a\"}", "1 2", "nul", "\"\\q\"", "\"\\u12\"", "-", "[".repeat(5000))) {
            assertThrows(IllegalArgumentException.class, () -> Json.parse(bad), bad);
        }
    }
}
