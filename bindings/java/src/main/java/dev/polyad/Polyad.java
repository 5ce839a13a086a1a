// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

import java.nio.file.Path;
import java.util.Objects;

/** The library itself: version, features, log, and where its native part is loaded from. */
public final class Polyad {
    private Polyad() {}

    /**
     * Loads the native library from a file or a folder instead of looking for it. Call it before anything else; without it the
     * library is looked for by this rule when it is first needed: the property {@code polyad.library} or the environment variable
     * {@code POLYAD_LIBRARY} (a file or a folder), else a jar with the bundled library, else the system's library path.
     *
     * @throws UnsatisfiedLinkError listing every place tried and why each failed
     * @throws IllegalStateException when the library is loaded already
     */
    public static void load(Path path) {
        NativeLoader.use(Objects.requireNonNull(path, "path"));
    }

    /** The native library's version, for example "0.1.0". */
    public static String version() {
        NativeLoader.load();
        return Native.polyad_version_string();
    }

    /** Version, LibTorch, compiler, CPU features in use, methods, model families. */
    public static Json buildInfo() {
        NativeLoader.load();
        return Json.parse(Native.polyad_build_info());
    }

    /** Whether this build has a feature: {@code "bf16"}, {@code "method:cpoly"}, {@code "family:llama"}. */
    public static boolean hasFeature(String name) {
        NativeLoader.load();
        return Native.polyad_has_feature(Objects.requireNonNull(name, "name")) != 0;
    }

    /** The devices there are, with their memory and whether they can be used; and why there is no CUDA device, where there is none. */
    public static Json devices() {
        NativeLoader.load();
        byte[][] out = new byte[1][];
        Native.polyad_devices(out);
        return Json.parse(Utf8.text(out[0]));
    }

    /**
     * Where the library's log messages go; null silences, the default. The sink runs on a thread of its own, so it may block, throw,
     * or call Polyad: what it throws goes to that thread's uncaught-exception handler, and the next message comes all the same.
     */
    public static void setLog(LogSink sink) {
        NativeLoader.load();
        Log.set(sink);
    }
}
