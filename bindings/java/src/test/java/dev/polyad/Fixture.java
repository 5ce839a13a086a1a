// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Assumptions;
import org.junit.jupiter.api.function.Executable;

/** The tiny model and data the tests share; the same as in tests/bindings/parity.c. */
final class Fixture {
    static final Path MODEL = Path.of(System.getProperty("polyad.shared"), "fixtures", "gguf", "tiny_llama.gguf");

    private Fixture() {}

    static Path modelFile() {
        Assumptions.assumeTrue(Files.exists(MODEL), "the shared fixtures are not here (" + MODEL + ")");
        return MODEL;
    }

    static Backbone model() {
        return Backbone.builder().precision("fp32").open(modelFile());
    }

    static List<Dataset.Example> examples() {
        List<Dataset.Example> out = new ArrayList<>();
        for (String task : List.of("up", "down")) {
            for (String input : List.of("a", "b", "c")) {
                out.add(new Dataset.Example(
                        task, "Say " + task + ".", input, List.of(task), input.equals("c") ? Split.TEST : Split.TRAIN));
            }
        }
        return out;
    }

    static Dataset tasks() {
        return Dataset.of(examples());
    }

    static MethodConfig method() {
        return CPoly.builder()
                .rank(4)
                .commonSkills(2)
                .seed(3)
                .prompt(PromptFormat.create().style("{instruction} {input} ->"))
                .build();
    }

    static Trainer.Builder training(Skillset skills, Dataset tasks) {
        return Trainer.of(skills, tasks).maxSteps(6).batchSize(2).learningRate(0.01).seed(5);
    }

    static PolyadException refused(ErrorCode code, String word, Executable call) {
        PolyadException e = assertThrows(PolyadException.class, call);
        assertEquals(code, e.code(), e::toString);
        assertTrue(e.toString().contains(word), () -> e + " does not mention '" + word + "'");
        return e;
    }
}
