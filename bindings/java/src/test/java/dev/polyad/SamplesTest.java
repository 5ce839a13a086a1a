// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.junit.jupiter.api.Assumptions;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** The programs of samples/java do what those of samples/c do, and the README's example runs. */
class SamplesTest {
    private static final Path BUILD = Path.of(System.getProperty("polyad.build"));

    @TempDir
    Path folder;

    @BeforeEach
    void tasks() throws Exception {
        Fixture.modelFile();
        StringBuilder rows = new StringBuilder();
        for (String[] row : new String[][] {{"antonym", "hot", "cold"}, {"antonym", "big", "small"}, {"noun_plural", "dog", "dogs"},
            {"noun_plural", "child", "children"}}) {
            rows.append(String.format(
                    "{\"task\": \"%s\", \"instruction\": \"Give the %s.\", \"input\": \"%s\", \"output\": \"%s\", \"split\": \"train\"}%n",
                    row[0], row[0], row[1], row[2]));
        }
        Files.writeString(Files.createDirectory(folder.resolve("tasks")).resolve("words.jsonl"), rows);
    }

    private record Output(int status, String text) {}

    private Output run(List<String> command) throws Exception {
        Process process =
                new ProcessBuilder(command).directory(folder.toFile()).redirectErrorStream(true).start();
        String text = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
        assertTrue(process.waitFor(60, TimeUnit.SECONDS));
        return new Output(process.exitValue(), text);
    }

    private Output java(String program, String... arguments) throws Exception {
        List<String> command = new ArrayList<>(List.of(
                Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                "-Dpolyad.library=" + BUILD,
                "-cp",
                BUILD.resolve("target/classes") + java.io.File.pathSeparator + BUILD.resolve("target/test-classes"),
                program));
        command.addAll(List.of(arguments));
        return run(command);
    }

    private Output c(String program, String... arguments) throws Exception {
        Path file = Path.of(System.getProperty("polyad.samples"), program + "_c");
        Assumptions.assumeTrue(Files.exists(file), "the samples in C are not built (" + file + ")");
        List<String> command = new ArrayList<>(List.of(file.toString()));
        command.addAll(List.of(arguments));
        return run(command);
    }

    /**
     * What both programs must print alike: every loss, and that each question is answered. The answers of this random model are near
     * ties, and an engine that steps by itself batches them another way; ParityTest compares answers bit for bit.
     */
    private static String withoutSpeed(Output output) {
        assertEquals(0, output.status(), output.text());
        return output.text().replaceAll("  \\d+ tokens/s", "").replaceAll("(?s) -> .*?(?=\n(?:antonym|noun_plural): |\\z)", " -> ");
    }

    @Test
    void theSameThreeProgramsAsInC() throws Exception {
        String model = Fixture.MODEL.toString();
        String fromC = withoutSpeed(c("train_and_switch", model, "tasks", "c.polyad"));
        String fromJava = withoutSpeed(java("TrainAndSwitch", model, "tasks", "java.polyad"));
        assertEquals(fromC, fromJava);
        assertTrue(fromC.contains("step 20/20") && fromC.contains("noun_plural: child -> "), fromC);

        Output seenByC = c("inspect_bundle", "java.polyad");
        Output seenByJava = java("InspectBundle", "java.polyad");
        assertEquals(0, seenByJava.status(), seenByJava.text());
        Json bundle = Json.parse(seenByC.text());
        assertEquals(bundle, Json.parse(seenByJava.text()));
        assertEquals("cpoly", bundle.get("config").get("method").asString());

        String[] arguments = {model, "java.polyad", "hot", "antonym", "noun_plural"};
        Output byC = c("serve_mixed_batch", arguments);
        Output byJava = java("ServeMixedBatch", arguments);
        assertEquals(0, byJava.status(), byJava.text());
        // The Java program's engine steps by itself, so its rows meet in other batches, and near ties of a model of random weights may
        // fall otherwise (ParityTest has the same batches, and there the bits agree). What holds: four answers, whose pieces are the text.
        assertEquals(0, byC.status(), byC.text());
        for (int i = 0; i < 4; ++i) {
            String number = i + ": ";
            assertTrue(byC.text().lines().anyMatch(line -> line.startsWith(number + "{") && line.contains("\"finish_reason\"")), byC::text);
            List<String> pieces = Stream.of(byJava.text().split("\n(?=\\d: )")).filter(piece -> piece.startsWith(number)).toList();
            String last = pieces.get(pieces.size() - 1).strip();
            String text = pieces.subList(0, pieces.size() - 1).stream().map(piece -> piece.substring(3)).collect(Collectors.joining());
            assertTrue(last.startsWith(number + text) && last.matches("(?s).*, \\d+ tokens, (max_tokens|end_token)"), byJava::text);
        }
    }

    @Test
    void whatSamplesSayWhenSomethingIsWrong() throws Exception {
        Output missing = java("InspectBundle", "missing.polyad");
        assertEquals(1, missing.status());
        assertTrue(missing.text().contains("NOT_FOUND") && missing.text().contains("missing.polyad"), missing.text());
        for (String program : List.of("InspectBundle", "TrainAndSwitch", "ServeMixedBatch")) {
            Output usage = java(program);
            assertEquals(2, usage.status());
            assertTrue(usage.text().startsWith("usage: " + program), usage.text());
        }
    }

    @Test
    void theReadmesExampleRuns() throws Exception {
        Files.createSymbolicLink(folder.resolve("smollm2-135m.gguf"), Fixture.MODEL);
        Output output = java("ReadmeExample");
        assertEquals(0, output.status(), output.text());
        assertTrue(output.text().contains("done=true"), output.text());
        assertTrue(Files.exists(folder.resolve("words.polyad")));
        Files.delete(folder.resolve("tasks/words.jsonl"));
        String refused = java("ReadmeExample").text();
        assertTrue(refused.contains("BAD_DATA: ") || refused.contains("NOT_FOUND: "), refused);
    }
}
