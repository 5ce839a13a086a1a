// SPDX-License-Identifier: Apache-2.0
using System;
using System.Collections.Generic;
using Polyad;

/// <summary>Trains skills for every task of a folder, saves one bundle, loads it again and lets one mixed batch answer.</summary>
internal static class TrainAndSwitch
{
    private sealed class Printed : IProgress<RunProgress>
    {
        public void Report(RunProgress p) => Console.WriteLine(
            FormattableString.Invariant($"step {p.Step}/{p.TotalSteps}  loss {p.Loss:F3}  {p.TokensPerSecond:F0} tokens/s"));
    }

    private static int Main(string[] arguments)
    {
        if (arguments.Length < 3 || arguments.Length % 2 == 0)
        {
            Console.Error.WriteLine("usage: TrainAndSwitch MODEL.gguf TASKS_FOLDER BUNDLE.polyad [TASK PROMPT]...");
            return 2;
        }
        string bundle = arguments[2];
        string[] asked = { "antonym", "hot", "noun_plural", "child" };
        if (arguments.Length > 3)
        {
            asked = new string[arguments.Length - 3];
            Array.Copy(arguments, 3, asked, 0, asked.Length);
        }
        using (Backbone model = Backbone.Open(arguments[0]))
        {
            using (Dataset tasks = Dataset.Open(arguments[1]))
            using (var skills = new Skillset(model, tasks, new CPoly { Rank = 4, CommonSkills = 3 }))
            using (var trainer = new Trainer(skills, tasks, new TrainerOptions { MaxSteps = 20, BatchSize = 8, LearningRate = 2e-3 }))
            {
                trainer.Run(new Printed());
                skills.Save(bundle);
            }
            using (Skillset skills = Skillset.Load(model, bundle))
            using (Engine engine = new Engine(model).Publish("words", skills))
            {
                var answers = new List<Answer>();
                for (int i = 0; i < asked.Length; i += 2)
                {
                    answers.Add(engine.Submit(new Request("words") { Task = asked[i], Prompt = asked[i + 1], MaxTokens = 16 }));
                }
                for (int i = 0; i < answers.Count; ++i)
                {
                    Console.WriteLine($"{asked[2 * i]}: {asked[2 * i + 1]} -> {answers[i].Wait()}");
                }
            }
        }
        return 0;
    }
}
