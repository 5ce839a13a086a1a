// SPDX-License-Identifier: Apache-2.0
package app;

import dev.polyad.Backbone;
import dev.polyad.CPoly;
import dev.polyad.Dataset;
import dev.polyad.Engine;
import dev.polyad.Polyad;
import dev.polyad.Request;
import dev.polyad.Skillset;
import dev.polyad.Trainer;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;

/** Trains, saves and asks with nothing but the packages, and says where the native libraries came from. */
public final class Consumer {
    private Consumer() {}

    public static void main(String[] arguments) throws IOException {
        System.out.println("polyad " + Polyad.version() + " on Java " + Runtime.version());
        if (arguments.length > 0) {
            List<Dataset.Example> examples = new ArrayList<>();
            for (String input : List.of("a", "b", "c", "d")) {
                examples.add(new Dataset.Example("up", "Say up.", input, "up"));
                examples.add(new Dataset.Example("down", "Say down.", input, "down"));
            }
            try (Backbone model = Backbone.open(Path.of(arguments[0]));
                    Dataset tasks = Dataset.builder().validationFraction(0).testFraction(0).open(examples);
                    Skillset skills = Skillset.create(model, tasks, CPoly.builder().rank(4).commonSkills(2).build())) {
                Trainer.of(skills, tasks).maxSteps(40).learningRate(1e-2).validationExamples(0).run();
                skills.save(Path.of("consumer.polyad"));
                try (Engine engine = Engine.over(model).publish("words", skills)) {
                    for (String task : tasks.tasks()) {
                        System.out.println(task + ": " + engine.submit(Request.to("words").task(task).prompt("e").maxTokens(8)).join());
                    }
                }
            }
        }
        try (var maps = Files.lines(Path.of("/proc/self/maps"))) {
            maps.map(line -> line.replaceAll("^\\S+ \\S+ \\S+ \\S+ \\S+ *", ""))
                    .filter(file -> file.matches(".*/lib(polyad|torch|c10|cud|cup).*"))
                    .distinct()
                    .forEach(file -> System.out.println("library " + file));
        }
    }
}
