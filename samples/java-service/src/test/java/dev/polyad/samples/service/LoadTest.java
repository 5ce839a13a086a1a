// SPDX-License-Identifier: Apache-2.0
package dev.polyad.samples.service;

import dev.polyad.Json;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import java.util.stream.Collectors;
import java.util.stream.Stream;

/**
 * Loads the service from another process, over real connections: trains two versions through its endpoints, then lets many clients ask
 * while the versions are swapped and a third is trained, and checks every answer. Prints figures; exits with 1 when anything was wrong.
 *
 * <pre>LoadTest MODEL.gguf SECONDS CLIENTS STEPS [ROWS_1.jsonl ROWS_2.jsonl] -- JAVA_OPTIONS...</pre>
 */
public final class LoadTest {
    /** What a version answers to (task, prompt), asked alone. */
    private record Question(String task, String prompt) {}

    private static final HttpClient CLIENT = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();

    private final String server;
    private final Process process;
    private final List<String> wrong = Collections.synchronizedList(new ArrayList<>());
    private final List<Question> questions = new ArrayList<>();
    private final Map<Integer, Map<Question, String>> expected = new HashMap<>();
    /** Odd while a version is being published; the version in force, where it is even, is {@link #inForce}. */
    private final AtomicLong swaps = new AtomicLong();
    private volatile int inForce;
    private volatile boolean over;

    private LoadTest(Process process) throws IOException {
        this.process = process;
        BufferedReader out = new BufferedReader(new InputStreamReader(process.getInputStream(), StandardCharsets.UTF_8));
        String line = out.readLine();
        if (line == null || !line.startsWith("listening on ")) {
            throw new IOException("the service did not start: " + line);
        }
        server = line.substring("listening on ".length());
        Thread rest = new Thread(() -> out.lines().forEach(System.err::println), "the service's output");
        rest.setDaemon(true);
        rest.start();
    }

    private HttpRequest.Builder request(String path) {
        return HttpRequest.newBuilder(URI.create(server + path));
    }

    private Json expect(int status, HttpRequest request) throws Exception {
        HttpResponse<String> response = CLIENT.send(request, BodyHandlers.ofString());
        if (response.statusCode() != status) {
            throw new IllegalStateException(request.uri() + ": " + response.statusCode() + " " + response.body());
        }
        return Json.parse(response.body());
    }

    private Json get(String path) throws Exception {
        return expect(200, request(path).build());
    }

    /** Trains a version, following its progress line by line. */
    private int train(String rows, int steps) throws Exception {
        Json started = expect(202, request("/training?steps=" + steps + "&learning_rate=1e-2").POST(BodyPublishers.ofString(rows)).build());
        int version = started.get("version").asInt();
        HttpResponse<Stream<String>> progress =
                CLIENT.send(request("/training/" + version + "?follow=1").build(), BodyHandlers.ofLines());
        long last = 0;
        Json now = started;
        for (String line : (Iterable<String>) progress.body()::iterator) {
            now = Json.parse(line);
            long step = now.has("step") ? now.get("step").asLong() : last;
            check(step >= last, () -> "progress went back");
            last = step;
        }
        Json end = now;
        check(end.get("state").asString().equals("done") && end.get("step").asLong() == steps, () -> "training ended as " + end);
        return version;
    }

    private void publish(int version) throws Exception {
        swaps.incrementAndGet();
        expect(200, request("/versions/" + version + "/publish").POST(BodyPublishers.noBody()).build());
        inForce = version;
        swaps.incrementAndGet();
    }

    private String body(Question question, boolean stream) {
        return Json.of(Map.of("task", question.task(), "prompt", question.prompt(), "max_tokens", 12, "stream", stream)).toString();
    }

    private void check(boolean right, java.util.function.Supplier<String> what) {
        if (!right) {
            wrong.add(what.get());
        }
    }

    /** One question, streamed or whole; null where this client walks away in the middle of the answer. */
    private String ask(Question question, boolean stream, boolean walkAway, List<Long> firstPiece) throws Exception {
        HttpRequest request = request("/answer").POST(BodyPublishers.ofString(body(question, stream))).build();
        if (!stream) {
            return expect(200, request).get("text").asString();
        }
        long begun = System.nanoTime();
        HttpResponse<Stream<String>> response = CLIENT.send(request, BodyHandlers.ofLines());
        StringBuilder pieces = new StringBuilder();
        try (Stream<String> lines = response.body()) {
            for (String line : (Iterable<String>) lines::iterator) {
                Json part = Json.parse(line);
                if (part.has("piece")) {
                    if (pieces.isEmpty()) {
                        firstPiece.add(System.nanoTime() - begun);
                    }
                    pieces.append(part.get("piece").asString());
                    if (walkAway) {
                        return null;
                    }
                } else {
                    check(part.has("text"), () -> "an answer broke off: " + part);
                    if (part.has("text")) {
                        check(part.get("text").asString().contentEquals(pieces), () -> "pieces '" + pieces + "' of " + part);
                    }
                }
            }
        }
        return pieces.toString();
    }

    /** Asks everything while nothing else runs. */
    private void learn(int version, String rows) throws Exception {
        publish(version);
        Map<Question, String> answers = new LinkedHashMap<>();
        int asTaught = 0;
        for (String line : rows.strip().split("\n")) {
            Json row = Json.parse(line);
            Question question = new Question(row.get("task").asString(), row.get("input").asString());
            String answer = ask(question, false, false, null);
            answers.put(question, answer);
            asTaught += answer.equals(row.get("output").asString()) ? 1 : 0;
            if (!questions.contains(question)) {
                questions.add(question);
            }
        }
        expected.put(version, answers);
        System.out.printf("version %d: %d of %d answers as taught%n", version, asTaught, answers.size());
    }

    // ---- the load -----------------------------------------------------------------------------------------------------

    private static final class Figures {
        final List<Long> whole = Collections.synchronizedList(new ArrayList<>());
        final List<Long> first = Collections.synchronizedList(new ArrayList<>());
        final AtomicLong checkedExactly = new AtomicLong();
        final AtomicLong duringSwap = new AtomicLong();
        final AtomicLong walkedAway = new AtomicLong();
    }

    private void client(int number, Figures figures) {
        Random random = new Random(number);
        while (!over) {
            Question question = questions.get(random.nextInt(questions.size()));
            boolean stream = random.nextInt(4) != 0;
            boolean walkAway = stream && random.nextInt(10) == 0;
            try {
                long before = swaps.get();
                int version = inForce;
                long begun = System.nanoTime();
                String answer = ask(question, stream, walkAway, figures.first);
                long took = System.nanoTime() - begun;
                if (answer == null) {
                    figures.walkedAway.incrementAndGet();
                    continue;
                }
                figures.whole.add(took);
                if (before % 2 == 0 && swaps.get() == before) {
                    figures.checkedExactly.incrementAndGet();
                    String right = expected.get(version).get(question);
                    check(answer.equals(right), () -> question + " of version " + version + ": '" + answer + "' for '" + right + "'");
                } else {
                    figures.duringSwap.incrementAndGet();
                    check(expected.values().stream().anyMatch(e -> answer.equals(e.get(question))),
                            () -> question + ": '" + answer + "' is no version's");
                }
            } catch (Exception e) {
                check(over, () -> question + ": " + e); // the server goes down after the end only
            }
        }
    }

    private static String milliseconds(List<Long> nanos) {
        List<Long> sorted = nanos.stream().sorted().toList();
        return sorted.isEmpty()
                ? "none"
                : Stream.of(0.5, 0.95, 0.99)
                        .map(q -> String.format("%.0f", sorted.get((int) (q * (sorted.size() - 1))) / 1e6))
                        .collect(Collectors.joining(" / "));
    }

    private long memory() throws Exception {
        Json resident = get("/stats?gc").get("resident_bytes");
        return resident.isNull() ? 0 : resident.asLong();
    }

    private void load(int seconds, int clients, int steps, String rows, int... versions) throws Exception {
        Figures figures = new Figures();
        List<Thread> threads = new ArrayList<>();
        for (int i = 0; i < clients; ++i) {
            int number = i;
            threads.add(new Thread(() -> client(number, figures)));
        }
        threads.add(new Thread(() -> { // somebody trains meanwhile, again and again; each is stopped or kept, none published
            for (int n = 0; !over; ++n) {
                try {
                    int version = expect(202, request("/training?steps=" + steps).POST(BodyPublishers.ofString(rows)).build())
                            .get("version").asInt();
                    if (n % 2 == 1) {
                        expect(200, request("/training/" + version).DELETE().build());
                    }
                    while (get("/training/" + version).get("state").asString().equals("running")) {
                        Thread.sleep(50);
                    }
                    Files.deleteIfExists(Path.of(System.getProperty("load.data"), "version-" + version + ".polyad"));
                    Thread.sleep(200);
                } catch (Exception e) {
                    check(over, () -> "training: " + e);
                }
            }
        }));
        long begun = System.nanoTime();
        threads.forEach(Thread::start);
        long length = TimeUnit.SECONDS.toNanos(seconds);
        List<Long> memory = new ArrayList<>(); // at each eighth of the time
        int swapped = 0;
        // Longer on a machine so busy that hardly anything was asked.
        while (System.nanoTime() - begun < length || (figures.checkedExactly.get() < clients && System.nanoTime() - begun < 20 * length)) {
            Thread.sleep(Math.min(1000, seconds * 50L));
            publish(versions[++swapped % versions.length]);
            check(get("/tasks").get("published").asInt() == inForce, () -> "another version is published");
            if (System.nanoTime() - begun > length / 8 * (memory.size() + 1)) {
                memory.add(memory());
            }
        }
        double took = (System.nanoTime() - begun) / 1e9;
        over = true;
        for (Thread thread : threads) {
            thread.join();
        }
        memory.add(memory());
        long warm = memory.get(memory.size() / 2);
        Json engine = get("/stats").get("engine");
        System.out.printf("%.0f s, %d clients: %d answers (%.1f/s), %d left by their client, %d versions published, %d wrong%n", took,
                clients, figures.whole.size(), figures.whole.size() / took, figures.walkedAway.get(), swapped, wrong.size());
        System.out.printf("checked against the version in force: %d; asked while one was published: %d%n", figures.checkedExactly.get(),
                figures.duringSwap.get());
        System.out.printf("milliseconds, median / 95 %% / 99 %%: whole answer %s, first piece %s%n", milliseconds(figures.whole),
                milliseconds(figures.first));
        System.out.println("resident memory in MiB, the heap included from the start: "
                + memory.stream().map(m -> Long.toString(m >> 20)).collect(Collectors.joining(" ")));
        System.out.println("engine: " + engine);
        long grown = memory.get(memory.size() - 1) - warm;
        check(grown < 64 << 20, () -> "memory grew by " + (grown >> 20) + " MiB in the second half");
        check(figures.checkedExactly.get() > 0 && swapped > 1, () -> "hardly anything was asked");
    }

    /** What a client may get wrong. */
    private void refusals() throws Exception {
        expect(404, request("/answer").POST(BodyPublishers.ofString("{\"task\": \"nosuch\", \"prompt\": \"a\"}")).build());
        for (String bad : List.of("", "{", "[]", "{\"prompt\": 1}", "{\"task\": \"t\"}", "{\"prompt\": \"a\", \"max_tokens\": -1}")) {
            int status = CLIENT.send(request("/answer").POST(BodyPublishers.ofString(bad)).build(), BodyHandlers.ofString()).statusCode();
            check(status == 400 || status == 404, () -> bad + ": " + status);
        }
        expect(405, request("/answer").build());
        expect(404, request("/training/99").build());
        expect(404, request("/versions/99/publish").POST(BodyPublishers.noBody()).build());
        expect(400, request("/training").POST(BodyPublishers.ofString("{\"task\": 1}\n")).build());
        expect(400, request("/training?steps=x").POST(BodyPublishers.ofString("")).build());
        check(get("/health").get("status").asString().equals("ok"), () -> "not healthy");
    }

    private static String rows(String up, String down) {
        StringBuilder rows = new StringBuilder();
        for (String[] task : new String[][] {{"up", up}, {"down", down}}) {
            for (String input : List.of("a", "b", "c", "d")) {
                rows.append(Json.of(Map.of("task", task[0], "instruction", "Say " + task[0] + ".", "input", input, "output", task[1],
                        "split", "train"))).append('\n');
            }
        }
        return rows.toString();
    }

    public static void main(String[] arguments) throws Exception {
        List<String> all = List.of(arguments);
        List<String> own = all.subList(0, all.indexOf("--"));
        Path data = Files.createTempDirectory("polyad-service");
        System.setProperty("load.data", data.toString());
        List<String> command = new ArrayList<>(List.of(Path.of(System.getProperty("java.home"), "bin", "java").toString()));
        command.addAll(all.subList(all.indexOf("--") + 1, all.size()));
        command.addAll(List.of(Service.class.getName(), "--model", own.get(0), "--data", data.toString(), "--port", "0"));
        Process process = new ProcessBuilder(command).redirectError(ProcessBuilder.Redirect.INHERIT).start();
        Runtime.getRuntime().addShutdownHook(new Thread(process::destroyForcibly)); // also when this program is stopped
        List<String> wrong = new ArrayList<>();
        try {
            LoadTest test = new LoadTest(process);
            int seconds = Integer.parseInt(own.get(1));
            int clients = Integer.parseInt(own.get(2));
            int steps = Integer.parseInt(own.get(3));
            String first = own.size() > 4 ? Files.readString(Path.of(own.get(4))) : rows("up", "down");
            String second = own.size() > 5 ? Files.readString(Path.of(own.get(5))) : rows("down", "up");
            int one = test.train(first, steps);
            test.learn(one, first);
            int two = test.train(second, steps);
            test.learn(two, second);
            test.check(!test.expected.get(one).equals(test.expected.get(two)), () -> "both versions answer alike: nothing is tested");
            test.refusals();
            test.load(seconds, clients, steps, first, one, two);
            wrong.addAll(test.wrong);
        } finally {
            process.destroy(); // SIGTERM: it finishes what it is answering
            boolean ended = process.waitFor(30, TimeUnit.SECONDS);
            int status = ended ? process.exitValue() : -1;
            if (status != 143 && status != 0) {
                wrong.add("the service ended with " + status);
            }
            process.destroyForcibly();
            try (Stream<Path> files = Files.list(data)) {
                for (Path file : files.toList()) {
                    Files.delete(file);
                }
            }
            Files.delete(data);
        }
        wrong.stream().limit(20).forEach(w -> System.err.println("wrong: " + w));
        System.exit(wrong.isEmpty() ? 0 : 1);
    }
}
