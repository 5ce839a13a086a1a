// SPDX-License-Identifier: Apache-2.0

/**
 * Trains, mixes, saves, reloads and switches many small skills of one frozen transformer, in your own process.
 *
 * <p>Open a {@link dev.polyad.Backbone} and a {@link dev.polyad.Dataset}, make a {@link dev.polyad.Skillset} for both, train it with a
 * {@link dev.polyad.Trainer}, save it as a bundle, publish it to an {@link dev.polyad.Engine} and submit {@link dev.polyad.Request}s:
 *
 * <pre>{@code
 * try (var model = Backbone.open(Path.of("smollm2-135m.gguf"));
 *         var tasks = Dataset.open(Path.of("tasks"));
 *         var skills = Skillset.create(model, tasks, CPoly.builder().rank(8).commonSkills(3).build())) {
 *     Trainer.of(skills, tasks).epochs(3).run();
 *     skills.save(Path.of("words.polyad"));
 *     try (var engine = Engine.over(model).publish("words", skills)) {
 *         String answer = engine.submit(Request.to("words").task("antonym").prompt("hot")).join();
 *     }
 * }
 * }</pre>
 *
 * <p>Objects that hold native memory are {@link java.lang.AutoCloseable}; closing is the rule, a Cleaner the net, and any order is
 * legal. What the library refuses is a {@link dev.polyad.PolyadException} with an {@link dev.polyad.ErrorCode}. Everything may be
 * called from any thread, virtual ones too; what allows one caller at a time says so and refuses the second with WRONG_STATE. Null
 * arguments are refused with {@link java.lang.NullPointerException} except where null is said to be allowed.
 */
package dev.polyad;
