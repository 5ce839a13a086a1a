// SPDX-License-Identifier: Apache-2.0
import dev.polyad.Answer;
import dev.polyad.Backbone;
import dev.polyad.CPoly;
import dev.polyad.Dataset;
import dev.polyad.Engine;
import dev.polyad.Request;
import dev.polyad.Skillset;
import dev.polyad.Trainer;
import java.nio.file.Path;

/**
 * Trains skills for every task of a folder, saves one bundle, loads it again and lets one mixed batch answer.
 *
 * <pre>java -cp polyad.jar TrainAndSwitch.java MODEL.gguf TASKS_FOLDER BUNDLE.polyad [TASK PROMPT]...</pre>
 */
public final class TrainAndSwitch {
    private TrainAndSwitch() {}

    public static void main(String[] args) {
        if (args.length < 3 || args.length % 2 == 0) {
            System.err.println("usage: TrainAndSwitch MODEL.gguf TASKS_FOLDER BUNDLE.polyad [TASK PROMPT]...");
            System.exit(2);
        }
        Path bundle = Path.of(args[2]);
        String[] asked = args.length > 3
                ? java.util.Arrays.copyOfRange(args, 3, args.length)
                : new String[] {"antonym", "hot", "noun_plural", "child"};
        try (Backbone model = Backbone.open(Path.of(args[0]));
                Dataset tasks = Dataset.open(Path.of(args[1]))) {
            try (Skillset skills = Skillset.create(model, tasks, CPoly.builder().rank(4).commonSkills(3).build())) {
                Trainer.of(skills, tasks)
                        .maxSteps(20)
                        .batchSize(8)
                        .learningRate(2e-3)
                        .onProgress(p -> System.out.printf(
                                "step %d/%d  loss %.3f  %.0f tokens/s%n", p.step(), p.totalSteps(), p.loss(), p.tokensPerSecond()))
                        .run();
                skills.save(bundle);
            }
            try (Skillset skills = Skillset.load(model, bundle);
                    Engine engine = Engine.over(model).publish("words", skills)) {
                Answer[] answers = new Answer[asked.length / 2];
                for (int i = 0; i < answers.length; ++i) {
                    answers[i] = engine.submit(
                            Request.to("words").task(asked[2 * i]).prompt(asked[2 * i + 1]).maxTokens(16));
                }
                for (int i = 0; i < answers.length; ++i) {
                    System.out.printf("%s: %s -> %s%n", asked[2 * i], asked[2 * i + 1], answers[i].join());
                }
            }
        }
    }
}
