// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

/** Multi-head routing, Poly with the mixture chosen per block (arXiv 2211.03831). */
public final class Mhr extends PolyFamily<Mhr> {
    private Mhr() {
        super("mhr");
    }

    /** Options with the library's defaults. */
    public static Mhr builder() {
        return new Mhr();
    }

    /** How many skills the tasks share. */
    public Mhr skills(int count) {
        return set("n_skills", count);
    }
}
