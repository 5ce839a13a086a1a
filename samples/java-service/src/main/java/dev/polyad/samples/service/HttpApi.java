// SPDX-License-Identifier: Apache-2.0
package dev.polyad.samples.service;

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import dev.polyad.Answer;
import dev.polyad.Json;
import dev.polyad.Polyad;
import dev.polyad.PolyadException;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** The endpoints. Every answer is JSON; what comes in parts is one JSON object per line. */
final class HttpApi {
    private static final int MOST_BYTES = 16 << 20;

    private final Skills skills;

    HttpApi(Skills skills) {
        this.skills = skills;
    }

    /** A refusal with its HTTP status. */
    private static final class Refused extends RuntimeException {
        private static final long serialVersionUID = 1;
        final int status;

        Refused(int status, String message) {
            super(message);
            this.status = status;
        }
    }

    private interface Handler {
        void handle(HttpExchange exchange, String[] path, Map<String, String> query) throws IOException, InterruptedException;
    }

    void register(HttpServer server) {
        on(server, "/health", this::health);
        on(server, "/stats", this::stats);
        on(server, "/tasks", this::tasks);
        on(server, "/answer", this::answer);
        on(server, "/training", this::training);
        on(server, "/versions", this::versions);
    }

    private static void on(HttpServer server, String path, Handler handler) {
        server.createContext(path, exchange -> {
            try (exchange) {
                Map<String, String> query = new HashMap<>();
                String text = exchange.getRequestURI().getQuery();
                for (String pair : text == null ? new String[0] : text.split("&")) {
                    String[] parts = pair.split("=", 2);
                    query.put(parts[0], parts.length == 2 ? parts[1] : "");
                }
                String[] rest = exchange.getRequestURI().getPath().substring(1).split("/");
                try {
                    handler.handle(exchange, Arrays.copyOfRange(rest, 1, rest.length), query);
                } catch (RuntimeException e) {
                    refuse(exchange, e);
                } catch (InterruptedException e) {
                    Thread.currentThread().interrupt();
                }
            }
        });
    }

    // ---- endpoints ----------------------------------------------------------------------------------------------------

    private void health(HttpExchange exchange, String[] path, Map<String, String> query) throws IOException {
        only(exchange, "GET");
        send(exchange, 200, Map.of("status", "ok", "published", skills.published(), "polyad", Polyad.version()));
    }

    private void tasks(HttpExchange exchange, String[] path, Map<String, String> query) throws IOException {
        only(exchange, "GET");
        send(exchange, 200, Map.of("published", skills.published(), "tasks", skills.tasks()));
    }

    private void stats(HttpExchange exchange, String[] path, Map<String, String> query) throws IOException {
        only(exchange, "GET");
        Runtime runtime = Runtime.getRuntime();
        if (query.containsKey("gc")) {
            System.gc(); // for who looks for leaks
        }
        Map<String, Object> out = new LinkedHashMap<>();
        out.put("engine", skills.stats());
        out.put("resident_bytes", residentBytes());
        out.put("heap_bytes", runtime.totalMemory() - runtime.freeMemory());
        out.put("threads", Thread.activeCount());
        send(exchange, 200, out);
    }

    private static Long residentBytes() {
        try {
            return 4096 * Long.parseLong(Files.readString(Path.of("/proc/self/statm")).split(" ")[1]);
        } catch (IOException e) {
            return null; // not on Linux
        }
    }

    /** {"prompt", "task", "max_tokens", "temperature", "stream"}: one JSON object, or with "stream" a line per piece. */
    private void answer(HttpExchange exchange, String[] path, Map<String, String> query) throws IOException {
        only(exchange, "POST");
        Json body = Json.parse(new String(body(exchange), StandardCharsets.UTF_8));
        boolean stream = body.has("stream") && body.get("stream").asBoolean();
        try (Answer answer = skills.submit(body)) { // a client that goes away closes it, and that cancels
            if (!stream) {
                send(exchange, 200, end(answer.result().join()));
                return;
            }
            try (OutputStream out = lines(exchange)) {
                try {
                    for (String piece : answer) {
                        line(out, Map.of("piece", piece));
                    }
                    line(out, end(answer.result().join()));
                } catch (PolyadException e) { // too late for a status
                    line(out, Map.of("error", e.code().toString(), "message", e.getMessage()));
                }
            }
        }
    }

    private static Map<String, Object> end(Answer.Result result) {
        return Map.of("text", result.text(), "tokens", result.tokens().length, "finish_reason", result.finishReason(), "seconds",
                result.seconds());
    }

    /**
     * POST /training?steps=..&learning_rate=.. with JSON Lines starts a run; GET lists runs; GET /training/N says how run N stands,
     * with ?follow=1 a line per step; DELETE /training/N stops it.
     */
    private void training(HttpExchange exchange, String[] path, Map<String, String> query) throws IOException, InterruptedException {
        if (path.length == 0) {
            if (only(exchange, "GET", "POST").equals("GET")) {
                send(exchange, 200, skills.runs());
                return;
            }
            TrainingRun run = skills.train(body(exchange), Long.parseLong(query.getOrDefault("steps", "100")),
                    Double.parseDouble(query.getOrDefault("learning_rate", "2e-3")));
            if (run == null) {
                throw new Refused(409, "a training is running; one at a time");
            }
            send(exchange, 202, run.json());
            return;
        }
        TrainingRun run = skills.run(Integer.parseInt(path[0]));
        if (run == null) {
            throw new Refused(404, "no training " + path[0]);
        }
        if (only(exchange, "GET", "DELETE").equals("DELETE")) {
            run.cancel();
        }
        if (!query.containsKey("follow")) {
            send(exchange, 200, run.json());
            return;
        }
        try (OutputStream out = lines(exchange)) {
            long seen = 0;
            Json now;
            do {
                now = run.next(seen);
                seen = now.has("step") ? now.get("step").asLong() : seen;
                line(out, now);
            } while (now.get("state").asString().equals("running"));
        }
    }

    /** GET lists versions; POST /versions/N/publish makes requests from now on get version N. */
    private void versions(HttpExchange exchange, String[] path, Map<String, String> query) throws IOException {
        if (path.length == 2 && path[1].equals("publish")) {
            only(exchange, "POST");
            skills.publish(Integer.parseInt(path[0]));
        } else {
            only(exchange, "GET");
        }
        send(exchange, 200, Map.of("published", skills.published(), "versions", skills.versions()));
    }

    // ---- HTTP ---------------------------------------------------------------------------------------------------------

    private static String only(HttpExchange exchange, String... methods) {
        if (!List.of(methods).contains(exchange.getRequestMethod())) {
            exchange.getResponseHeaders().set("Allow", String.join(", ", methods));
            throw new Refused(405, exchange.getRequestMethod() + " is not for this address");
        }
        return exchange.getRequestMethod();
    }

    private static byte[] body(HttpExchange exchange) throws IOException {
        try (InputStream in = exchange.getRequestBody()) {
            byte[] bytes = in.readNBytes(MOST_BYTES + 1);
            if (bytes.length > MOST_BYTES) {
                throw new Refused(413, "more than " + MOST_BYTES + " bytes");
            }
            return bytes;
        }
    }

    private static void send(HttpExchange exchange, int status, Object value) throws IOException {
        byte[] bytes = (Json.of(value) + "\n").getBytes(StandardCharsets.UTF_8);
        exchange.getResponseHeaders().set("Content-Type", "application/json");
        exchange.sendResponseHeaders(status, bytes.length);
        exchange.getResponseBody().write(bytes);
    }

    private static OutputStream lines(HttpExchange exchange) throws IOException {
        exchange.getResponseHeaders().set("Content-Type", "application/x-ndjson");
        exchange.sendResponseHeaders(200, 0);
        return exchange.getResponseBody();
    }

    private static void line(OutputStream out, Object value) throws IOException {
        out.write((Json.of(value) + "\n").getBytes(StandardCharsets.UTF_8));
        out.flush();
    }

    private static void refuse(HttpExchange exchange, RuntimeException e) throws IOException {
        if (exchange.getResponseCode() != -1) {
            return; // the answer has begun
        }
        PolyadException polyad = e instanceof PolyadException own
                ? own
                : e.getCause() instanceof PolyadException cause ? cause : null;
        int status = polyad != null
                ? switch (polyad.code()) {
                    case NOT_FOUND, UNKNOWN_TASK -> 404;
                    case INVALID_ARGUMENT, INVALID_CONFIG, BAD_DATA, CONTEXT_OVERFLOW -> 400;
                    case WRONG_STATE -> 409;
                    case QUEUE_FULL, CANCELLED -> 503;
                    default -> 500;
                }
                : e instanceof Refused refused ? refused.status
                : e instanceof IllegalArgumentException || e instanceof IllegalStateException ? 400 : 500;
        if (status == 500) {
            e.printStackTrace();
        }
        String code = polyad == null ? "REQUEST" : polyad.code().toString();
        send(exchange, status, Map.of("error", code, "message", String.valueOf((polyad == null ? e : polyad).getMessage())));
    }
}
