// SPDX-License-Identifier: Apache-2.0
import dev.polyad.Answer;
import dev.polyad.Backbone;
import dev.polyad.Engine;
import dev.polyad.Request;
import dev.polyad.Skillset;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;

/**
 * Serves one batch in which every request names its own task, one brings its own skill weights, and one wants the backbone alone;
 * prints each answer piece by piece as it comes.
 *
 * <pre>java -cp polyad.jar ServeMixedBatch.java MODEL.gguf BUNDLE.polyad PROMPT TASK...</pre>
 */
public final class ServeMixedBatch {
    private ServeMixedBatch() {}

    public static void main(String[] args) {
        if (args.length < 4) {
            System.err.println("usage: ServeMixedBatch MODEL.gguf BUNDLE.polyad PROMPT TASK...");
            System.exit(2);
        }
        String prompt = args[2];
        List<String> tasks = List.of(args).subList(3, args.length);
        try (Backbone model = Backbone.open(Path.of(args[0]));
                Skillset skills = Skillset.load(model, Path.of(args[1]));
                Engine engine = Engine.over(model).publish("skills", skills)) {
            List<Answer> answers = new ArrayList<>();
            for (String task : tasks) {
                answers.add(engine.submit(Request.to("skills").task(task).prompt(prompt).maxTokens(16)));
            }
            // The last task's prompt with the first task's weights.
            answers.add(engine.submit(Request.to("skills")
                    .task(tasks.get(tasks.size() - 1))
                    .weights(skills.taskWeights(tasks.get(0)))
                    .prompt(prompt)
                    .maxTokens(16)));
            answers.add(engine.submit(Request.toBackbone().prompt(prompt).maxTokens(16)));
            for (int i = 0; i < answers.size(); ++i) {
                for (String piece : answers.get(i)) {
                    System.out.println(i + ": " + piece);
                }
                Answer.Result result = answers.get(i).result().join();
                System.out.printf("%d: %s, %d tokens, %s%n", i, result.text(), result.tokens().length, result.finishReason());
            }
        }
    }
}
