// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

/** Poly, skills shared by all tasks and mixed by a learned table (arXiv 2202.13914). */
public final class Poly extends PolyFamily<Poly> {
    private Poly() {
        super("poly");
    }

    /** Options with the library's defaults. */
    public static Poly builder() {
        return new Poly();
    }

    /** How many skills the tasks share. */
    public Poly skills(int count) {
        return set("n_skills", count);
    }
}
