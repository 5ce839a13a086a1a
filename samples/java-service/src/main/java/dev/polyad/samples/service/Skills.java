// SPDX-License-Identifier: Apache-2.0
package dev.polyad.samples.service;

import dev.polyad.Answer;
import dev.polyad.Backbone;
import dev.polyad.CPoly;
import dev.polyad.Dataset;
import dev.polyad.Engine;
import dev.polyad.Json;
import dev.polyad.PromptFormat;
import dev.polyad.Request;
import dev.polyad.Skillset;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.locks.ReentrantLock;
import java.util.stream.Stream;

/**
 * The model, the engine over it, and the versions of the skills: each a bundle in the data folder, one of them published. Training
 * makes a new version from the published one; publishing is a separate step, so that somebody can look at it first, and go back.
 */
final class Skills implements AutoCloseable {
    /** What requests name; publishing under it again replaces the version new requests get. */
    private static final String NAME = "skills";

    private final Backbone model;
    private final Engine engine;
    private final Path folder;
    private final ReentrantLock publishing = new ReentrantLock();
    private final Map<Integer, TrainingRun> runs = new ConcurrentHashMap<>();
    private volatile int published; // 0: none yet
    private volatile List<String> tasks = List.of();

    Skills(Path modelFile, Path folder) throws IOException {
        this.folder = Files.createDirectories(folder);
        model = Backbone.open(modelFile);
        engine = Engine.over(model);
        List<Integer> found = versions();
        if (!found.isEmpty()) {
            publish(found.get(found.size() - 1));
        }
    }

    /** Takes a bundle in as the next version and publishes it. */
    void take(Path bundle) throws IOException {
        int version = nextVersion();
        Files.copy(bundle, file(version));
        publish(version);
    }

    private Path file(int version) {
        return folder.resolve("version-" + version + ".polyad");
    }

    /** The versions there are, oldest first. */
    List<Integer> versions() throws IOException {
        try (Stream<Path> files = Files.list(folder)) {
            return files.map(f -> f.getFileName().toString())
                    .filter(f -> f.matches("version-\\d{1,9}\\.polyad"))
                    .map(f -> Integer.valueOf(f.replaceAll("\\D", "")))
                    .sorted()
                    .toList();
        }
    }

    private int nextVersion() throws IOException {
        List<Integer> found = versions();
        return found.isEmpty() ? 1 : found.get(found.size() - 1) + 1;
    }

    int published() {
        return published;
    }

    List<String> tasks() {
        return tasks;
    }

    Json stats() {
        return engine.stats();
    }

    /** Answers being made go on with what they began with; no request waits or is lost. */
    void publish(int version) {
        publishing.lock();
        try (Skillset skillset = Skillset.load(model, file(version))) {
            engine.publish(NAME, skillset); // a snapshot: the skillset can be closed
            tasks = skillset.tasks();
            published = version;
        } finally {
            publishing.unlock();
        }
    }

    Answer submit(Json body) {
        Request request = (published == 0 ? Request.toBackbone() : Request.to(NAME)).prompt(body.get("prompt").asString());
        if (body.has("task")) {
            request.task(body.get("task").asString());
        }
        if (body.has("max_tokens")) {
            request.maxTokens(body.get("max_tokens").asInt());
        }
        if (body.has("temperature")) {
            request.temperature(body.get("temperature").asDouble());
        }
        return engine.submit(request);
    }

    // ---- training -----------------------------------------------------------------------------------------------------

    /** Trains a copy of the published skills on JSON Lines; null while another training runs. */
    TrainingRun train(byte[] jsonLines, long steps, double learningRate) throws IOException {
        Dataset rows = Dataset.builder().validationFraction(0).testFraction(0).open(ByteBuffer.wrap(jsonLines));
        publishing.lock(); // so that two callers cannot both find nothing running
        try {
            if (runs.values().stream().anyMatch(TrainingRun::isRunning)) {
                rows.close();
                return null;
            }
            Skillset skillset = base(rows);
            int version = nextVersion();
            TrainingRun run = new TrainingRun(version, skillset, rows, file(version), steps, learningRate);
            runs.put(version, run);
            return run;
        } catch (RuntimeException | IOException e) {
            rows.close();
            throw e;
        } finally {
            publishing.unlock();
        }
    }

    private Skillset base(Dataset rows) {
        if (published == 0) {
            CPoly method = CPoly.builder().rank(8).commonSkills(3);
            return Skillset.create(model, rows, method.prompt(PromptFormat.create().maxAnswerTokens(64)).build());
        }
        Skillset skillset = Skillset.load(model, file(published));
        try {
            List<String> added = new ArrayList<>(rows.tasks());
            added.removeAll(skillset.tasks());
            for (String task : added) {
                skillset.addTask(rows, task, Skillset.Start.UNIFORM);
            }
            return skillset;
        } catch (RuntimeException e) {
            skillset.close();
            throw e;
        }
    }

    TrainingRun run(int version) {
        return runs.get(version);
    }

    /** What is known of every run, newest last. */
    Map<String, Json> runs() {
        Map<String, Json> out = new LinkedHashMap<>();
        runs.keySet().stream().sorted().forEach(version -> out.put(Integer.toString(version), runs.get(version).json()));
        return out;
    }

    void cancelTraining() {
        runs.values().forEach(TrainingRun::cancel);
    }

    @Override
    public void close() {
        cancelTraining();
        engine.close();
        model.close();
    }
}
