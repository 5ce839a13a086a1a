// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

import java.util.Locale;

/** A part of a dataset. */
public enum Split {
    /** What skills are trained on. */
    TRAIN(polyad_split.POLYAD_TRAIN),
    /** What training is watched with. */
    VALIDATION(polyad_split.POLYAD_VALIDATION),
    /** What skills are scored on. */
    TEST(polyad_split.POLYAD_TEST);

    final int number;

    Split(int number) {
        this.number = number;
    }

    /** The name in options. */
    @Override
    public String toString() {
        return name().toLowerCase(Locale.ROOT);
    }
}
