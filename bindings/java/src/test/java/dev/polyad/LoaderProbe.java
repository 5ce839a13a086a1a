// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

import java.nio.file.Path;

/** A program of its own for {@link NativeLoaderTest}: a JVM loads a library once, so every case needs a new one. */
final class LoaderProbe {
    private LoaderProbe() {}

    public static void main(String[] args) {
        for (int attempt = 1; attempt <= 2; ++attempt) { // a failure is remembered and said again
            try {
                if (args.length > 0 && attempt == 1) {
                    Polyad.load(Path.of(args[0]));
                }
                System.out.println("loaded " + Polyad.version());
            } catch (LinkageError | IllegalStateException e) {
                System.out.println(attempt + ": " + e);
            }
        }
        if (args.length > 1) {
            try {
                Polyad.load(Path.of(args[1]));
            } catch (IllegalStateException e) {
                System.out.println("again: " + e.getMessage());
            }
        }
    }
}
