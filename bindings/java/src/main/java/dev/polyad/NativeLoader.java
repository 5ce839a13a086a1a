// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.net.URL;
import java.nio.charset.StandardCharsets;
import java.nio.file.AtomicMoveNotSupportedException;
import java.nio.file.FileSystemException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.security.DigestInputStream;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.Locale;
import java.util.concurrent.locks.ReentrantLock;
import java.util.stream.Stream;

/**
 * Finds and loads the native library, by the rule that all bindings share: a path given in code, else the property
 * {@code polyad.library} or the environment variable {@code POLYAD_LIBRARY}, else the library bundled in a jar, else the system's
 * library path. A place that was named is the only one tried: nobody wants to run another library than the one they named. A failure
 * lists every place and why it failed.
 */
final class NativeLoader {
    static final String PROPERTY = "polyad.library";
    static final String VARIABLE = "POLYAD_LIBRARY";
    /** Folder for what is unpacked from a jar; default: the user's cache folder. */
    static final String CACHE_PROPERTY = "polyad.cache";

    private static final String NAME = "polyad_java";
    private static final ReentrantLock LOCK = new ReentrantLock();
    private static volatile boolean loaded;
    private static Path explicit;
    private static String failure;

    private NativeLoader() {}

    /** The path to use, instead of looking for one. Only before the first use. */
    static void use(Path path) {
        LOCK.lock();
        try {
            if (loaded) {
                throw new IllegalStateException("the native library is loaded already");
            }
            explicit = path;
            failure = null;
        } finally {
            LOCK.unlock();
        }
        load();
    }

    /** Loads the library if that has not been done; every later call after a failure gives the same error. */
    static void load() {
        if (loaded) {
            return;
        }
        LOCK.lock();
        try {
            if (loaded) {
                return;
            }
            if (failure == null) {
                failure = tryAll();
            }
            if (failure != null) {
                throw new UnsatisfiedLinkError(failure);
            }
            loaded = true;
        } finally {
            LOCK.unlock();
        }
    }

    private static String tryAll() {
        List<String> tried = new ArrayList<>();
        boolean found;
        String named;
        if (explicit != null) {
            found = tryPath("path given to Polyad.load", explicit.toString(), tried);
        } else if ((named = System.getProperty(PROPERTY)) != null && !named.isEmpty()) {
            found = tryPath("property " + PROPERTY, named, tried);
        } else if ((named = System.getenv(VARIABLE)) != null && !named.isEmpty()) {
            found = tryPath("environment variable " + VARIABLE, named, tried);
        } else {
            tried.add("path given to Polyad.load: none");
            tried.add("property " + PROPERTY + ": not set");
            tried.add("environment variable " + VARIABLE + ": not set");
            found = tryBundled(tried) || trySystem(tried);
        }
        return found ? checkVersion() : "cannot load the native library of Polyad; tried\n  " + String.join("\n  ", tried);
    }

    private static boolean tryPath(String what, String path, List<String> tried) {
        try {
            Path file = Path.of(path).toAbsolutePath();
            if (Files.isDirectory(file)) {
                file = file.resolve(System.mapLibraryName(NAME));
            }
            path = file.toString();
            if (!Files.exists(file)) {
                tried.add(what + ": " + file + " does not exist");
                return false;
            }
            System.load(path);
            return true;
        } catch (UnsatisfiedLinkError | RuntimeException e) {
            String reason = reason(e);
            while (reason.startsWith(path + ": ")) { // the JDK's and the system loader's own words begin with it too
                reason = reason.substring(path.length() + 2);
            }
            tried.add(what + ": " + path + ": " + reason);
            return false;
        }
    }

    private static boolean trySystem(List<String> tried) {
        try {
            System.loadLibrary(NAME);
            return true;
        } catch (UnsatisfiedLinkError e) {
            tried.add("system: " + reason(e));
            return false;
        }
    }

    private static String reason(Throwable e) {
        return e.getMessage() == null ? e.toString() : e.getMessage();
    }

    /** What to say when library and binding do not fit, else null. */
    private static String checkVersion() {
        int library = Native.polyad_version();
        int binding = Native.polyad_binding_version();
        // Before 1.0 a minor version may change what exists; from then on only a major one.
        int unit = binding < 1_000_000 ? 1000 : 1_000_000;
        if (library / unit == binding / unit && library >= binding) {
            return null;
        }
        return "the native library is Polyad " + version(library) + ", but these bindings were made for " + version(binding)
                + ": install matching versions of both";
    }

    private static String version(int number) {
        return number / 1_000_000 + "." + number / 1000 % 1000 + "." + number % 1000;
    }

    // ---- bundled in a jar ---------------------------------------------------------------------------------------------

    /** {@code linux-x86_64}, {@code macos-aarch64}, {@code windows-x86_64}, ... */
    static String platform() {
        String os = System.getProperty("os.name").toLowerCase(Locale.ROOT);
        String arch = System.getProperty("os.arch").toLowerCase(Locale.ROOT);
        os = os.startsWith("windows") ? "windows" : os.startsWith("mac") ? "macos" : os.split(" ")[0];
        return os + "-" + (arch.equals("amd64") || arch.equals("x64") ? "x86_64" : arch.equals("arm64") ? "aarch64" : arch);
    }

    /**
     * A jar bundles the library as {@code dev/polyad/native/PLATFORM/files.txt}, lines "SHA-256 name", and those files beside it.
     * They are unpacked once, into a folder named after the list's own hash.
     */
    private static boolean tryBundled(List<String> tried) {
        String folder = "native/" + platform() + "/";
        URL list = resource(folder + "files.txt");
        if (list == null) {
            tried.add("bundled: no jar on the class path holds dev/polyad/" + folder + " (add the artifact polyad with the "
                    + "classifier " + platform() + ")");
            return false;
        }
        try (InputStream in = list.openStream()) {
            byte[] bytes = in.readAllBytes();
            Path unpacked = cacheFolder().resolve(sha256(bytes).substring(0, 32));
            List<String[]> files = new ArrayList<>();
            for (String line : new String(bytes, StandardCharsets.UTF_8).split("\n")) {
                String[] parts = line.trim().split(" +", 2);
                if (parts.length == 2 && Path.of(parts[1]).getNameCount() == 1) {
                    files.add(parts);
                }
            }
            if (!Files.isDirectory(unpacked)) {
                unpack(folder, files, unpacked);
            }
            return tryPath("bundled: " + list, unpacked.toString(), tried);
        } catch (IOException | UncheckedIOException e) {
            tried.add("bundled: " + list + ": " + reason(e) + " (set the property " + CACHE_PROPERTY + " to a writable folder)");
            return false;
        }
    }

    /** Through the class loader, which on the module path sees the other jar's resources too. */
    private static URL resource(String name) {
        return NativeLoader.class.getClassLoader().getResource("dev/polyad/" + name);
    }

    private static Path cacheFolder() {
        String set = System.getProperty(CACHE_PROPERTY);
        if (set != null && !set.isEmpty()) {
            return Path.of(set);
        }
        String cache = System.getenv(System.getProperty("os.name").startsWith("Windows") ? "LOCALAPPDATA" : "XDG_CACHE_HOME");
        Path base = cache != null && !cache.isEmpty() ? Path.of(cache) : Path.of(System.getProperty("user.home"), ".cache");
        return base.resolve("polyad");
    }

    /** Into a temporary folder that is then renamed: another process sees all files or none. */
    private static void unpack(String folder, List<String[]> files, Path to) throws IOException {
        Files.createDirectories(to.getParent());
        Path temporary = Files.createTempDirectory(to.getParent(), "unpacking");
        try {
            for (String[] file : files) {
                URL source = resource(folder + file[1]);
                if (source == null) {
                    throw new IOException(folder + file[1] + " is listed but missing in the jar");
                }
                try (InputStream in = source.openStream()) {
                    MessageDigest digest = digest();
                    Files.copy(new DigestInputStream(in, digest), temporary.resolve(file[1]));
                    if (!HexFormat.of().formatHex(digest.digest()).equals(file[0])) {
                        throw new IOException(folder + file[1] + " does not have the listed SHA-256: the jar is damaged");
                    }
                }
            }
            try {
                Files.move(temporary, to, StandardCopyOption.ATOMIC_MOVE);
            } catch (AtomicMoveNotSupportedException e) {
                Files.move(temporary, to);
            }
        } catch (FileSystemException e) {
            if (!Files.isDirectory(to)) { // else another process was faster
                throw e;
            }
        } finally {
            if (Files.isDirectory(temporary)) {
                try (Stream<Path> left = Files.list(temporary)) {
                    for (Path path : left.toList()) {
                        Files.delete(path);
                    }
                }
                Files.delete(temporary);
            }
        }
    }

    private static String sha256(byte[] bytes) {
        return HexFormat.of().formatHex(digest().digest(bytes));
    }

    private static MessageDigest digest() {
        try {
            return MessageDigest.getInstance("SHA-256");
        } catch (NoSuchAlgorithmException e) {
            throw new IllegalStateException(e);
        }
    }
}
