// SPDX-License-Identifier: Apache-2.0
package dev.polyad;

import java.util.concurrent.CountDownLatch;

/** A program of its own for {@link LifetimeTest}: ends in the middle of training and answering, having closed nothing. */
final class ExitProbe {
    private ExitProbe() {}

    public static void main(String[] args) throws InterruptedException {
        Polyad.setLog((level, message) -> {});
        Backbone model = Fixture.model();
        Dataset tasks = Fixture.tasks();
        Skillset skills = Skillset.create(model, tasks, Fixture.method());
        Engine engine = Engine.over(model).publish("words", skills);
        CountDownLatch working = new CountDownLatch(3);
        Fixture.training(skills, tasks).maxSteps(1_000_000).validationExamples(0).onProgress(p -> working.countDown()).runAsync();
        for (int i = 0; i < 1000; ++i) {
            engine.submit(Request.to("words").task("up").prompt("c").maxTokens(100).ignoreEos(true));
        }
        working.await();
        System.out.println("working");
        if (args[0].equals("exit")) {
            System.exit(3);
        } else if (args[0].equals("throw")) {
            throw new IllegalStateException("the host's own");
        }
    }
}
