// SPDX-License-Identifier: Apache-2.0
using System;
using System.Collections.Generic;
using System.IO;
using System.Threading.Tasks;
using Polyad;

/// <summary>Uses the package as a program elsewhere does: loads the library, trains two tasks, and lets each answer.</summary>
internal static class Consumer
{
    private static async Task Learn(string file)
    {
        var examples = new List<Example>();
        foreach (string task in new[] { "up", "down" })
        {
            foreach (string input in new[] { "a", "b", "c" })
            {
                examples.Add(new Example { Task = task, Instruction = "Say " + task + ".", Input = input, Output = task, Split = Split.Train });
            }
        }
        using (Backbone model = await Backbone.OpenAsync(file))
        using (Dataset tasks = Dataset.FromExamples(examples))
        using (var skills = new Skillset(model, tasks, new CPoly { Rank = 4, CommonSkills = 2 }))
        using (var trainer = new Trainer(skills, tasks, new TrainerOptions { MaxSteps = 30, LearningRate = 0.01 }))
        {
            await trainer.RunAsync();
            using (Engine engine = new Engine(model).Publish("words", skills))
            {
                foreach (string task in skills.Tasks)
                {
                    AnswerResult answer = await engine.SubmitAsync(new Request("words") { Task = task, Prompt = "c", MaxTokens = 8 });
                    Console.WriteLine($"{task}: {answer.Text}");
                }
            }
        }
    }

    private static void Main(string[] arguments)
    {
        Console.WriteLine($"polyad {PolyadLibrary.Version} on {System.Runtime.InteropServices.RuntimeInformation.FrameworkDescription}");
        foreach (string line in File.ReadAllLines("/proc/self/maps"))
        {
            if (line.Contains("/libpolyad_csharp.so") && line.Contains(" 00000000 ")) Console.WriteLine("library " + line.Substring(line.IndexOf('/')));
            if (line.Contains("/libtorch_cpu.so") && line.Contains(" 00000000 ")) Console.WriteLine("library " + line.Substring(line.IndexOf('/')));
        }
        if (arguments.Length > 0) Learn(arguments[0]).Wait();
    }
}
