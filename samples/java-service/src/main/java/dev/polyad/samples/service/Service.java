// SPDX-License-Identifier: Apache-2.0
package dev.polyad.samples.service;

import com.sun.net.httpserver.HttpServer;
import dev.polyad.PolyadException;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.SynchronousQueue;
import java.util.concurrent.ThreadPoolExecutor;
import java.util.concurrent.TimeUnit;

/**
 * Serves skills over HTTP on 127.0.0.1; README.md lists the endpoints.
 *
 * <pre>java -cp ... dev.polyad.samples.service.Service --model MODEL.gguf --data FOLDER [--bundle FILE] [--port 8080]</pre>
 *
 * <p>The server is the JDK's own: what a host needs from Polyad is the same under every framework, and this one adds no dependency.
 * A thread waits for each answer that is streamed, which is what virtual threads are for; before Java 21 a pool of platform threads
 * does it. Nothing here computes on those threads: the engine has one of its own, and so has training.
 */
public final class Service implements AutoCloseable {
    /** Requests at once where threads are platform threads; more wait until the accepting thread has answered one itself. */
    private static final int MOST_PLATFORM_THREADS = 256;

    private final Skills skills;
    private final HttpServer server;
    private final ExecutorService threads;

    private Service(Skills skills, int port) throws IOException {
        this.skills = skills;
        threads = executor();
        server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), port), 128);
        server.setExecutor(threads);
        new HttpApi(skills).register(server);
    }

    private static ExecutorService executor() {
        try {
            return (ExecutorService) Executors.class.getMethod("newVirtualThreadPerTaskExecutor").invoke(null);
        } catch (ReflectiveOperationException beforeJava21) {
            return new ThreadPoolExecutor(
                    0, MOST_PLATFORM_THREADS, 30, TimeUnit.SECONDS, new SynchronousQueue<>(), new ThreadPoolExecutor.CallerRunsPolicy());
        }
    }

    /** Stops taking requests, lets those being answered end, then closes the engine. */
    @Override
    public void close() {
        skills.cancelTraining();
        server.stop(5);
        threads.shutdown();
        skills.close();
    }

    public static void main(String[] arguments) throws Exception {
        Map<String, String> options = new HashMap<>(Map.of("--port", "8080"));
        for (int i = 0; i + 1 < arguments.length; i += 2) {
            options.put(arguments[i], arguments[i + 1]);
        }
        if (arguments.length % 2 != 0 || !options.containsKey("--model") || !options.containsKey("--data")) {
            System.err.println("usage: Service --model MODEL.gguf --data FOLDER [--bundle FILE] [--port 8080]");
            System.exit(2);
        }
        // Without it the last piece of an answer waits for the acknowledgement of the one before.
        System.setProperty("sun.net.httpserver.nodelay", "true");
        try {
            Skills skills = new Skills(Path.of(options.get("--model")), Path.of(options.get("--data")));
            if (options.containsKey("--bundle")) {
                skills.take(Path.of(options.get("--bundle")));
            }
            Service service = new Service(skills, Integer.parseInt(options.get("--port")));
            service.server.start();
            Runtime.getRuntime().addShutdownHook(new Thread(service::close, "shutdown"));
            System.out.println("listening on http://127.0.0.1:" + service.server.getAddress().getPort());
        } catch (PolyadException e) {
            System.err.println(e);
            System.exit(1);
        }
    }
}
