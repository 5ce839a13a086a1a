// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

/** C-Poly: skills common to all tasks beside private ones of each task (arXiv 2312.03248). */
public final class CPoly extends PolyFamily<CPoly> {
    private CPoly() {
        super("cpoly");
    }

    /** Options with the library's defaults. */
    public static CPoly builder() {
        return new CPoly();
    }

    /** How many skills all tasks share. */
    public CPoly commonSkills(int count) {
        return set("common_skills", count);
    }

    /** How many skills each task has for itself. */
    public CPoly privateSkills(int count) {
        return set("private_skills", count);
    }

    /** Routing of the private skills: {@code learned_full}, {@code one_hot}, {@code learned_diag}. */
    public CPoly specificRouting(String how) {
        return set("specific_routing", how);
    }

    /** Activation of that routing: {@code none} or {@code sigmoid}. */
    public CPoly specificActivation(String how) {
        return set("specific_activation", how);
    }

    /** Noise on the routing of the common skills: {@code relaxed_bernoulli} or {@code none}. */
    public CPoly commonNoise(String how) {
        return set("common_noise", how);
    }
}
