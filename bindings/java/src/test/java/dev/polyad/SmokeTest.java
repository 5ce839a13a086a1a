// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import org.junit.jupiter.api.Test;

class SmokeTest {
    @Test
    void knowsItself() {
        assertTrue(Polyad.version().matches("\\d+\\.\\d+\\.\\d+"));
        assertEquals(Native.polyad_binding_version(), Native.polyad_version());
        assertTrue(Polyad.buildInfo().has("libtorch"));
        assertTrue(Polyad.hasFeature("method:cpoly"));
        assertFalse(Polyad.hasFeature("method:nosuch"));
    }

    @Test
    void trainsAFewSteps() {
        try (Backbone model = Fixture.model();
                Dataset tasks = Fixture.tasks();
                Skillset skills = Skillset.create(model, tasks, Fixture.method())) {
            Progress last = Fixture.training(skills, tasks).run();
            assertEquals(6, last.step());
            assertTrue(last.done() && last.loss() > 0 && last.loss() < 100);
        }
    }
}
