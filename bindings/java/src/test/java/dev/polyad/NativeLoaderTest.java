// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import java.util.jar.JarEntry;
import java.util.jar.JarOutputStream;
import java.util.stream.Stream;
import org.junit.jupiter.api.Assumptions;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Where the native library is looked for, and what is said when it is not there or does not fit (docs/bindings.md). */
class NativeLoaderTest {
    private static final Path BUILD = Path.of(System.getProperty("polyad.build"));
    private static final String FILE = System.mapLibraryName("polyad_java");

    @TempDir
    Path folder;

    /** Runs the probe and returns what it printed. */
    private String probe(Map<String, String> environment, List<String> options, List<String> classPath, String... arguments)
            throws Exception {
        List<String> command = new ArrayList<>(List.of(Path.of(System.getProperty("java.home"), "bin", "java").toString()));
        command.addAll(options);
        command.add("-cp");
        List<String> path = new ArrayList<>(classPath);
        for (String classes : List.of("classes", "test-classes")) {
            path.add(BUILD.resolve("target").resolve(classes).toString());
        }
        command.add(String.join(java.io.File.pathSeparator, path));
        command.add("dev.polyad.LoaderProbe");
        command.addAll(List.of(arguments));
        ProcessBuilder builder = new ProcessBuilder(command).redirectErrorStream(true);
        builder.environment().keySet().removeAll(List.of("POLYAD_LIBRARY", "LD_LIBRARY_PATH", "JAVA_TOOL_OPTIONS"));
        builder.environment().putAll(environment);
        Process process = builder.start();
        String output = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
        assertTrue(process.waitFor(60, TimeUnit.SECONDS));
        assertEquals(0, process.exitValue(), output);
        return output;
    }

    private String probe(List<String> options, String... arguments) throws Exception {
        return probe(Map.of(), options, List.of(), arguments);
    }

    private static void says(String output, String... words) {
        for (String word : words) {
            assertTrue(output.contains(word), () -> "'" + word + "' is not in:\n" + output);
        }
        assertFalse(output.lines().anyMatch(line -> line.startsWith("loaded ")), output);
        // The second attempt gives the same answer.
        String first = output.substring(output.indexOf("1: ") + 3, output.indexOf("2: "));
        assertTrue(output.substring(output.indexOf("2: ") + 3).startsWith(first.strip()), output);
    }

    private Path changedCopy(String from, String to) throws IOException {
        String bytes = Files.readString(BUILD.resolve(FILE), StandardCharsets.ISO_8859_1);
        int at = bytes.indexOf(from);
        assertTrue(at >= 0 && from.length() == to.length(), () -> FILE + " does not hold " + from);
        Path copy = Files.createDirectories(folder.resolve("copy")).resolve(FILE);
        return Files.writeString(copy, bytes.replace(from, to), StandardCharsets.ISO_8859_1);
    }

    @Test
    void everyPlaceIsNamedWithItsReason() throws Exception {
        says(probe(List.of("-Djava.library.path=" + folder)),
                "path given to Polyad.load: none",
                "property polyad.library: not set",
                "environment variable POLYAD_LIBRARY: not set",
                "bundled: no jar on the class path holds dev/polyad/native/" + NativeLoader.platform(),
                "system: no polyad_java in java.library.path: " + folder);
    }

    @Test
    void theFirstPlaceNamedIsTheOnlyOneTried() throws Exception {
        Path missing = folder.resolve("missing");
        String good = BUILD.toString();
        String property = "-Dpolyad.library=" + missing;
        Map<String, String> variable = Map.of("POLYAD_LIBRARY", missing.toString());
        assertTrue(probe(variable, List.of(property), List.of(), good).startsWith("loaded " + Polyad.version()));
        says(probe(List.of("-Dpolyad.library=" + good), missing.toString()), "path given to Polyad.load", missing + " does not exist");
        says(probe(Map.of("POLYAD_LIBRARY", good), List.of(property), List.of()), "property polyad.library", missing + " does not exist");
        says(probe(variable, List.of("-Djava.library.path=" + good), List.of()), "environment variable POLYAD_LIBRARY", "does not exist");
        for (String place : List.of(good, BUILD.resolve(FILE).toString())) { // a folder or a file
            assertTrue(probe(List.of("-Dpolyad.library=" + place)).startsWith("loaded "));
            assertTrue(probe(Map.of("POLYAD_LIBRARY", place), List.of(), List.of()).startsWith("loaded "));
        }
        assertTrue(probe(List.of("-Djava.library.path=" + good)).startsWith("loaded "));
        String again = probe(List.of(), good, good);
        assertTrue(again.contains("again: the native library is loaded already"), again);
    }

    @Test
    void anotherArchitecture() throws Exception {
        Assumptions.assumeTrue(NativeLoader.platform().equals("linux-x86_64"), "ELF files of x86-64 only");
        byte[] bytes = Files.readAllBytes(BUILD.resolve(FILE));
        bytes[18] = (byte) 0xb7; // e_machine: AArch64
        Path copy = Files.write(folder.resolve(FILE), bytes);
        says(probe(List.of("-Dpolyad.library=" + copy)), copy.toString(), "AARCH64", "AMD 64");
    }

    @Test
    void damagedFile() throws Exception {
        Path empty = Files.write(folder.resolve(FILE), new byte[0]);
        says(probe(List.of("-Dpolyad.library=" + empty)), empty.toString(), "file too short");
    }

    @Test
    void missingDependency() throws Exception {
        Assumptions.assumeTrue(NativeLoader.platform().startsWith("linux"), "names of dependencies are read as ELF has them");
        Path copy = changedCopy("libpolyad.so.", "libpolyaX.so.");
        says(probe(List.of("-Dpolyad.library=" + copy)), copy.toString(), "libpolyaX.so.0", "No such file");
    }

    @Test
    void anOldLibrary() throws Exception {
        Assumptions.assumeTrue(NativeLoader.platform().startsWith("linux"), "LD_LIBRARY_PATH is Linux");
        Path old = BUILD.resolveSibling("old");
        says(probe(Map.of("LD_LIBRARY_PATH", old.toString()), List.of("-Dpolyad.library=" + BUILD), List.of()),
                "the native library is Polyad 0.0.9, but these bindings were made for " + Polyad.version());
    }

    // ---- bundled in a jar ---------------------------------------------------------------------------------------------

    private Path jar(String name, String list, Map<String, byte[]> files) throws IOException {
        Path jar = folder.resolve(name);
        try (OutputStream out = Files.newOutputStream(jar);
                JarOutputStream zip = new JarOutputStream(out)) {
            String prefix = "dev/polyad/native/" + NativeLoader.platform() + "/";
            zip.putNextEntry(new JarEntry(prefix + "files.txt"));
            zip.write(list.getBytes(StandardCharsets.UTF_8));
            for (Map.Entry<String, byte[]> file : files.entrySet()) {
                zip.putNextEntry(new JarEntry(prefix + file.getKey()));
                zip.write(file.getValue());
            }
        }
        return jar;
    }

    private static String hash(byte[] bytes) throws Exception {
        return HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(bytes));
    }

    private List<String> withCache(Path cache) {
        return List.of("-Dpolyad.cache=" + cache, "-Djava.library.path=" + folder);
    }

    @Test
    void bundledInAJar() throws Exception {
        byte[] library = Files.readAllBytes(BUILD.resolve(FILE)); // finds libpolyad where the build has it
        byte[] other = "beside it".getBytes(StandardCharsets.UTF_8);
        String list = hash(library) + "  " + FILE + "\n" + hash(other) + "  other.txt\n";
        Path jar = jar("good.jar", list, Map.of(FILE, library, "other.txt", other));
        Path cache = folder.resolve("cache");
        for (int i = 0; i < 2; ++i) { // unpacked, then found unpacked
            assertTrue(probe(Map.of(), withCache(cache), List.of(jar.toString())).startsWith("loaded "));
            try (Stream<Path> unpacked = Files.list(cache)) {
                List<Path> folders = unpacked.toList();
                assertEquals(1, folders.size(), folders::toString);
                assertEquals("beside it", Files.readString(folders.get(0).resolve("other.txt")));
            }
        }
        // Several processes at once unpack into the same cache.
        Path shared = folder.resolve("shared");
        List<Process> processes = new ArrayList<>();
        for (int i = 0; i < 4; ++i) {
            List<String> command = new ArrayList<>(List.of(Path.of(System.getProperty("java.home"), "bin", "java").toString()));
            command.addAll(withCache(shared));
            command.addAll(List.of("-cp", jar + ":" + BUILD.resolve("target/classes") + ":" + BUILD.resolve("target/test-classes")));
            command.add("dev.polyad.LoaderProbe");
            processes.add(new ProcessBuilder(command).redirectErrorStream(true).start());
        }
        for (Process process : processes) {
            String output = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
            assertTrue(output.startsWith("loaded "), output);
        }
        try (Stream<Path> left = Files.list(shared)) {
            assertEquals(1, left.count());
        }
    }

    @Test
    void bundledButDamaged() throws Exception {
        byte[] library = Files.readAllBytes(BUILD.resolve(FILE));
        Path damaged = jar("damaged.jar", "00" + hash(library).substring(2) + "  " + FILE + "\n", Map.of(FILE, library));
        Path incomplete = jar("incomplete.jar", hash(library) + "  " + FILE + "\n", Map.of());
        Path cache = folder.resolve("cache");
        says(probe(Map.of(), withCache(cache), List.of(damaged.toString())),
                "bundled: ", "does not have the listed SHA-256", "system: no polyad_java");
        says(probe(Map.of(), withCache(cache), List.of(incomplete.toString())), "bundled: ", "is listed but missing in the jar");
        try (Stream<Path> left = Files.list(cache)) {
            assertEquals(0, left.count(), "nothing half unpacked stays");
        }
        Path file = Files.writeString(folder.resolve("file"), "not a folder");
        Path good = jar("good.jar", hash(library) + "  " + FILE + "\n", Map.of(FILE, library));
        says(probe(Map.of(), withCache(file.resolve("cache")), List.of(good.toString())),
                "bundled: ", "set the property polyad.cache to a writable folder");
        // A list cannot name a file outside its folder.
        Path climbing = jar("climbing.jar", hash(library) + "  ../" + FILE + "\n", Map.of("../" + FILE, library));
        says(probe(Map.of(), withCache(cache), List.of(climbing.toString())), "bundled: ", "does not exist");
    }
}
