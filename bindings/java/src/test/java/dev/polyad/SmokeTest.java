// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
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

    @Test
    void devicesAreNamed() {
        Json devices = Polyad.devices();
        assertEquals("cpu", devices.get("devices").get(0).get("name").asString());
        assertTrue(devices.get("devices").get(0).get("usable").asBoolean());
        Context.builder().threads(1).device("cpu").create().close();
        Fixture.refused(ErrorCode.INVALID_CONFIG, "nosuch", () -> Context.builder().device("nosuch").create());
        assertThrows(IllegalArgumentException.class, () -> Context.builder().memoryBudget(-1));
        assertThrows(IllegalArgumentException.class, () -> Context.builder().device("cuda\0").create());
        if (!devices.get("cuda").isNull()) { // no CUDA here: the refusal says why
            Fixture.refused(ErrorCode.UNSUPPORTED, "", () -> Context.builder().device("cuda").create());
        }
    }
}
