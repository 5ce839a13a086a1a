// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.IntBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Test;

/** The same fixture gives what tests/bindings/parity.c prints, bit for bit. */
class ParityTest {
    private static String floats(String what, float[] values) {
        long hash = 0xcbf29ce484222325L;
        for (float value : values) {
            int bits = Float.floatToRawIntBits(value);
            for (int i = 0; i < 4; ++i) {
                hash = (hash ^ (bits >>> 8 * i & 0xff)) * 0x100000001b3L;
            }
        }
        return String.format("%s %d %08x %016x", what, values.length, Float.floatToRawIntBits(values[0]), hash);
    }

    private static List<String> ours() {
        List<String> lines = new ArrayList<>();
        try (Backbone model = Fixture.model();
                Dataset tasks = Fixture.tasks();
                Skillset skills = Skillset.create(model, tasks, Fixture.method())) {
            Fixture.training(skills, tasks)
                    .onProgress(p -> lines.add(
                            String.format("loss %d %016x", p.step(), Double.doubleToRawLongBits(p.loss()))))
                    .run();
            lines.add(floats("parameters", skills.parameters()));
            int[] ids = model.tokenize("Say up. c ->");
            lines.add(floats("logits", model.logits(ids)));
            lines.add(floats("up", model.logits(skills, "up", ids)));
            FloatBuffer direct = ByteBuffer.allocateDirect(4 * model.vocabularySize()).order(ByteOrder.nativeOrder()).asFloatBuffer();
            model.logits(skills, "down", IntBuffer.wrap(ids), direct);
            float[] copy = new float[direct.remaining()];
            direct.get(copy);
            lines.add(floats("down", copy));
            try (Engine engine = Engine.builder(model).manual().build().publish("words", skills)) {
                List<Answer> answers = new ArrayList<>();
                for (String task : List.of("up", "down")) {
                    answers.add(engine.submit(
                            Request.to("words").task(task).prompt("c").maxTokens(12).ignoreEos(true)));
                }
                answers.add(engine.submit(Request.toBackbone()
                        .tokens(ids)
                        .maxTokens(12)
                        .ignoreEos(true)
                        .temperature(0.8)
                        .topP(0.9)
                        .seed(0xfedcba9876543210L)));
                while (engine.step() > 0) {}
                for (int i = 0; i < answers.size(); ++i) {
                    int[] tokens = answers.get(i).result().join().tokens();
                    lines.add("tokens " + i + " " + java.util.Arrays.toString(tokens).replace(" ", ""));
                }
            }
        }
        return lines;
    }

    @Test
    void sameBitsAsTheCProgram() throws Exception {
        Path program = Path.of(System.getProperty("polyad.parity"));
        Process c = new ProcessBuilder(program.toString(), Fixture.modelFile().toString()).redirectErrorStream(true).start();
        String output = new String(c.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
        assertEquals(0, c.waitFor(), output);
        assertEquals(output.strip(), String.join("\n", ours()));
    }
}
